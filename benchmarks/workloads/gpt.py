"""A training step of a small GPT: 4 layers, 128 wide, 4 heads, 128 tokens, batch 8, AdamW."""

from __future__ import annotations

from benchmarks.workloads.attention import jax_attention, plain
from benchmarks.workloads.base import Step, normal
from benchmarks.workloads.train import Optimizer, jax_cross_entropy, jax_step, load, torch_step

_LAYERS, _WIDTH, _HEADS, _TOKENS, _BATCH, _LETTERS = 4, 128, 4, 128, 8, 128


def _shapes() -> dict:
    """Shapes of all parameters by name, weights as [out, in]."""
    d = _WIDTH
    out = {"token.weight": (_LETTERS, d), "place.weight": (_TOKENS, d)}
    for i in range(_LAYERS):
        p = f"blocks.{i}."
        for norm in ("norm1", "norm2"):
            out |= {f"{p}{norm}.weight": (d,), f"{p}{norm}.bias": (d,)}
        for name, a, b in (("qkv", d, 3 * d), ("proj", d, d), ("up", d, 4 * d), ("down", 4 * d, d)):
            out |= {f"{p}{name}.weight": (b, a), f"{p}{name}.bias": (b,)}
    return out | {"norm.weight": (d,), "norm.bias": (d,), "head.weight": (_LETTERS, d)}


def _model(lib):
    """The network for a library with PyTorch's interface. Where it has no attention function yet, attention is
    written from its parts."""
    nn, F = lib.nn, lib.nn.functional
    attend = getattr(F, "scaled_dot_product_attention", None)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
            self.qkv, self.proj = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
            self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

        def forward(self, x):
            b, t, d = x.shape
            qkv = self.qkv(self.norm1(x)).reshape(b, t, 3, _HEADS, d // _HEADS).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
            a = attend(q, k, v, is_causal=True) if attend else plain(lib, q, k, v, True)
            x = x + self.proj(a.transpose(1, 2).reshape(b, t, d))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place = nn.Embedding(_LETTERS, _WIDTH), nn.Embedding(_TOKENS, _WIDTH)
            self.blocks = nn.ModuleList([Block() for _ in range(_LAYERS)])
            self.norm, self.head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _LETTERS, bias=False)

        def forward(self, x):
            x = self.token(x) + self.place(lib.arange(_TOKENS))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return Gpt()


class GptStep(Step):
    """One step on random tokens, which the model learns by heart."""

    def __init__(self):
        self.optimizer = Optimizer("adamw", 1e-3, 1e-2)
        self.shapes = _shapes()
        sizes = {k: s[0] * (s[1] if len(s) == 2 else 1) for k, s in self.shapes.items()}
        dense = sum(
            n for k, n in sizes.items() if len(self.shapes[k]) == 2 and k not in ("token.weight", "place.weight")
        )
        rows = _BATCH * _TOKENS
        scores = _LAYERS * _BATCH * _HEADS * _TOKENS * _TOKENS // 2  # causal
        super().__init__(
            "gpt",
            bytes=4 * sum(sizes.values()) * self.optimizer.passes,
            flops=6 * rows * dense + 3 * scores * (4 * _WIDTH // _HEADS + 14),
            array=4 * rows * 4 * _WIDTH,
        )

    def inputs(self, np, rng):
        text = rng.integers(0, _LETTERS, (_BATCH, _TOKENS + 1))
        out = [np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:].reshape(-1))]
        for name, shape in self.shapes.items():
            if name.endswith("bias"):
                out.append(np.zeros(shape, np.float32))
            elif len(shape) == 1:
                out.append(np.ones(shape, np.float32))
            else:
                out.append(normal(np, rng, *shape, scale=0.02))
        return out

    def torch(self, lib, arrays, peer):
        model = load(lib, _model(lib), self.shapes, arrays[2:])
        F = lib.nn.functional
        optimizer = self.optimizer.torch(lib, model.parameters())
        return (
            torch_step(lib, model, optimizer, lambda m, x, y: F.cross_entropy(m(x).reshape(-1, _LETTERS), y)),
            arrays[:2],
        )

    def jax(self, jax, arrays):
        jnp = jax.numpy
        # The layout that a jax user keeps: [in, out], but for the tables of embeddings.
        tables = ("token.weight", "place.weight")
        params = {k: jnp.array(a if k in tables else a.T) for k, a in zip(self.shapes, arrays[2:], strict=True)}

        def norm(p, name, x):
            d = x - x.mean(-1, keepdims=True)
            return d * jax.lax.rsqrt((d * d).mean(-1, keepdims=True) + 1e-5) * p[name + ".weight"] + p[name + ".bias"]

        def linear(p, name, x):
            return x @ p[name + ".weight"] + p[name + ".bias"]

        def loss_of(p, tokens, y):
            x = p["token.weight"][tokens] + p["place.weight"]
            b, t, d = x.shape
            for i in range(_LAYERS):
                at = f"blocks.{i}."
                qkv = linear(p, at + "qkv", norm(p, at + "norm1", x)).reshape(b, t, 3, _HEADS, d // _HEADS)
                q, k, v = qkv.transpose(2, 0, 3, 1, 4)
                a = jax_attention(jax, q, k, v, True)
                x = x + linear(p, at + "proj", a.transpose(0, 2, 1, 3).reshape(b, t, d))
                h = jax.nn.gelu(linear(p, at + "up", norm(p, at + "norm2", x)), approximate=True)
                x = x + linear(p, at + "down", h)
            logits = norm(p, "norm", x) @ p["head.weight"]
            return jax_cross_entropy(jax, logits.reshape(-1, _LETTERS), y)

        return jax_step(jax, params, self.optimizer, loss_of), arrays[:2]


def workloads():
    """This family."""
    yield GptStep()
