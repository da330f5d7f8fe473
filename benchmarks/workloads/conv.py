"""A training step of a small convolution network: 1-16-32 channels, 3x3, 28x28, batch 64, SGD."""

from __future__ import annotations

from benchmarks.workloads.base import Step, need, normal
from benchmarks.workloads.train import Optimizer, jax_cross_entropy, jax_step, load, torch_step

_BATCH = 64
_SHAPES = {
    "0.weight": (16, 1, 3, 3), "0.bias": (16,), "3.weight": (32, 16, 3, 3), "3.bias": (32,),
    "7.weight": (10, 32 * 7 * 7), "7.bias": (10,),
}  # fmt: skip


class Conv(Step):
    """conv 3x3, relu, pool 2, twice; linear; cross entropy."""

    def __init__(self):
        self.optimizer = Optimizer("sgd", 0.05)
        first, second = _BATCH * 28 * 28 * 16 * 9 * 2, _BATCH * 14 * 14 * 32 * 16 * 9 * 2
        acts = 4 * _BATCH * (28 * 28 * (1 + 16 + 4) + 14 * 14 * (32 + 8))
        super().__init__(
            "conv", bytes=2 * acts, flops=2 * first + 3 * second + 6 * _BATCH * 1568 * 10, array=4 * _BATCH * 784 * 16
        )

    def inputs(self, np, rng):
        out = [normal(np, rng, _BATCH, 1, 28, 28), rng.integers(0, 10, _BATCH)]
        for shape in _SHAPES.values():
            if len(shape) == 1:
                out.append(np.zeros(shape, np.float32))
            else:
                fan = int(np.prod(shape[1:]))
                out.append(normal(np, rng, *shape, scale=(2 / fan) ** 0.5))
        return out

    def torch(self, lib, arrays, peer):
        nn = lib.nn
        need(nn, "Conv2d", "MaxPool2d")
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
        )  # fmt: skip
        load(lib, model, _SHAPES, arrays[2:])
        optimizer = self.optimizer.torch(lib, model.parameters())
        loss = nn.functional.cross_entropy
        return torch_step(lib, model, optimizer, lambda m, x, y: loss(m(x), y)), arrays[:2]

    def jax(self, jax, arrays):
        jnp, lax = jax.numpy, jax.lax
        x, y = arrays[:2]
        # The layout that a jax user keeps: images [n, h, w, c], filters [h, w, in, out], weights [in, out].
        params = {}
        for (name, shape), a in zip(_SHAPES.items(), arrays[2:], strict=True):
            if len(shape) == 4:
                a = a.transpose(2, 3, 1, 0)
            elif len(shape) == 2:
                a = a.reshape(10, 32, 7, 7).transpose(2, 3, 1, 0).reshape(-1, 10)
            params[name] = jnp.array(a)

        def layer(p, i, x):
            x = lax.conv_general_dilated(
                x, p[f"{i}.weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + p[f"{i}.bias"])
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

        def loss_of(p, x, y):
            x = layer(p, 3, layer(p, 0, x)).reshape(_BATCH, -1)
            return jax_cross_entropy(jax, x @ p["7.weight"] + p["7.bias"], y)

        return jax_step(jax, params, self.optimizer, loss_of), [jnp.array(x.transpose(0, 2, 3, 1)), y]


def workloads():
    """This family."""
    yield Conv()
