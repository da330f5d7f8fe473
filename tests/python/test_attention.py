"""Attention against NumPy in float64: values, gradients, masks, dropout, errors; and the modules built on it."""

import math
from pathlib import Path

import numpy as np
import pytest

import torsh
from torsh import nn
from torsh.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(7)
# Small ones keep the plain composition, from 64 x 64 scores on the one-pass kernels run; odd sizes reach every tail.
SIZES = [(3, 5, 4, 2), (64, 64, 16, 16), (70, 67, 5, 9), (130, 150, 17, 33), (40, 300, 64, 64), (513, 129, 32, 40)]


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def reference(q, k, v, mask=None, causal=False, scale=None, keep=None, ct=None):
    """Result and, with a cotangent, the gradients of q, k, v and the scores; rows without a key are 0."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    s = q @ np.swapaxes(k, -1, -2) * scale
    if causal:
        s = np.where(np.tril(np.ones(s.shape[-2:], bool)), s, -np.inf)
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    top = s.max(-1, keepdims=True)
    e = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    dropped = p if keep is None else p * keep
    out = dropped @ v
    if ct is None:
        return out
    ct = np.asarray(ct, np.float64)
    dp = ct @ np.swapaxes(v, -1, -2)
    dp = dp if keep is None else dp * keep
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    return out, ds @ k * scale, np.swapaxes(ds, -1, -2) @ q * scale, np.swapaxes(dropped, -1, -2) @ ct, ds


def close(got, want, rtol=2e-5):
    want = np.asarray(want)
    bound = rtol * max(1.0, float(np.abs(want).max(initial=0.0)))
    np.testing.assert_allclose(np.asarray(got.detach().numpy(), np.float64), want, rtol=0, atol=bound)


def masks(rows, keys):
    hide = RNG.random((rows, keys)) < 0.3
    hide[rows // 2] = True
    yield {}
    yield {"is_causal": True}
    yield {"attn_mask": ~hide}
    yield {"attn_mask": normal(rows, keys)}
    yield {"attn_mask": np.where(hide, -np.inf, 0).astype(np.float32)}
    yield {"scale": 0.3}


def attend(q, k, v, attn_mask=None, **kw):
    mask = None if attn_mask is None else torsh.tensor(attn_mask)
    return F.scaled_dot_product_attention(q, k, v, mask, **kw)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients(sizes, compiled):
    rows, keys, depth, width = sizes
    q, k, v, ct = (
        normal(2, 3, rows, depth),
        normal(2, 3, keys, depth),
        normal(2, 3, keys, width),
        normal(2, 3, rows, width),
    )
    for kw in masks(rows, keys):
        tensors = [torsh.tensor(x, requires_grad=True) for x in (q, k, v)]

        def run(q, k, v, ct, kw=kw):
            out = attend(q, k, v, **kw)
            return (out, *torsh.autograd.grad(out, (q, k, v), ct))

        got = (torsh.compile(run) if compiled else run)(*tensors, torsh.tensor(ct))
        want = reference(q, k, v, kw.get("attn_mask"), kw.get("is_causal", False), kw.get("scale"), ct=ct)
        for g, w in zip(got, want, strict=False):
            close(g, w)


@pytest.mark.parametrize("dtype", [torsh.float16, torsh.bfloat16])
@pytest.mark.parametrize("sizes", [(64, 64, 64, 64), (70, 133, 80, 40), (130, 150, 17, 33), (65, 70, 128, 128)])
def test_half_values_and_gradients(sizes, dtype):
    rows, keys, depth, width = sizes
    shapes = [(2, rows, depth), (2, keys, depth), (2, keys, width), (2, rows, width)]
    half = [torsh.tensor(normal(*shape)).to(dtype) for shape in shapes]
    q, k, v, ct = (x.float().numpy() for x in half)
    eps = torsh.finfo(dtype).eps
    for kw in masks(rows, keys):
        mask = kw.get("attn_mask")
        if mask is not None and mask.dtype != bool:
            mask = torsh.tensor(mask).to(dtype)
            kw = {"attn_mask": mask}
        tensors = [x.detach().requires_grad_() for x in half[:3]]
        out = F.scaled_dot_product_attention(
            *tensors, **{**kw, "attn_mask": mask if mask is None else torsh.as_tensor(mask)}
        )
        out.backward(half[3])
        exact = mask if mask is None or isinstance(mask, np.ndarray) else mask.float().numpy()
        options = (exact, kw.get("is_causal", False), kw.get("scale"))
        want = reference(q, k, v, *options, ct=ct)
        # Weights and the result are rounded by half an epsilon at most; what is too small for f16 is lost.
        bound = eps * (reference(q, k, np.abs(v), *options) + np.abs(want[0])) + 1e-5
        got = out.detach().float().numpy().astype(np.float64)
        assert out.dtype == dtype and (np.abs(got - want[0]) <= bound).all()
        for tensor, w in zip(tensors, want[1:4], strict=True):
            assert tensor.grad.dtype == dtype
            close(tensor.grad.float(), w, rtol=4 * eps)


def test_half_inference_gives_the_bits_of_training():
    q, k, v = (torsh.tensor(normal(2, 200, 32)).to(torsh.bfloat16) for _ in range(3))
    alone = torsh.compile(lambda q, k, v: attend(q, k, v))(q, k, v).float().numpy()
    q = q.detach().requires_grad_()
    trained = attend(q, k, v)
    trained.sum().backward()
    assert (alone == trained.detach().float().numpy()).all()


def test_half_overflows_only_where_the_attention_does():
    q, k, v = np.zeros((70, 16)), normal(90, 16), np.full((90, 16), 6e4)
    v[5, 3], v[7, 4] = np.inf, np.nan
    got = attend(*(torsh.tensor(x.astype(np.float32)).half() for x in (q, k, v))).float().numpy()
    assert np.isposinf(got[:, 3]).all() and np.isnan(got[:, 4]).all()
    np.testing.assert_allclose(np.delete(got, [3, 4], 1), 6e4, rtol=2e-3)


def test_inference_gives_the_bits_of_training():
    q, k, v = (torsh.tensor(normal(2, 200, 32)) for _ in range(3))
    alone = torsh.compile(lambda q, k, v: attend(q, k, v))(q, k, v).numpy()
    q.requires_grad_()
    trained = attend(q, k, v)
    trained.sum().backward()
    assert (alone == trained.detach().numpy()).all()


def test_a_mask_that_needs_a_gradient():
    for n in (6, 70):
        q, k, v, ct = (normal(2, n, 8) for _ in range(4))
        mask = torsh.tensor(normal(n, n), requires_grad=True)
        F.scaled_dot_product_attention(torsh.tensor(q), torsh.tensor(k), torsh.tensor(v), mask).backward(
            torsh.tensor(ct)
        )
        close(mask.grad, reference(q, k, v, mask.detach().numpy(), ct=ct)[4].sum(0))


def test_batch_dims_broadcast_and_views_are_taken():
    x = normal(2, 100, 3, 4, 16)
    t = torsh.tensor(x, requires_grad=True)
    heads = t.permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
    ct = normal(*out.shape)
    out.backward(torsh.tensor(ct))
    q, k, v = np.moveaxis(x.transpose(2, 0, 3, 1, 4), 0, 0)
    want = reference(q, k, v, ct=ct)
    close(out, want[0])
    close(t.grad, np.stack(want[1:4]).transpose(1, 3, 0, 2, 4))
    q, k, v, mask = normal(5, 1, 80, 8), normal(70, 8), normal(3, 70, 8), RNG.random((5, 1, 1, 70)) < 0.8
    got = attend(*(torsh.tensor(a) for a in (q, k, v)), attn_mask=mask)
    close(got, reference(q, k, v, mask))
    one = attend(*(torsh.tensor(a) for a in (normal(3, 4), k[:, :4], k)))
    assert one.shape == (3, 8)


def test_shared_heads():
    q, k, v, ct = normal(2, 6, 70, 8), normal(2, 2, 90, 8), normal(2, 2, 90, 8), normal(2, 6, 70, 8)
    tensors = [torsh.tensor(x, requires_grad=True) for x in (q, k, v)]
    out = attend(*tensors, enable_gqa=True)
    out.backward(torsh.tensor(ct))
    wide = [np.repeat(x, 3, axis=1) for x in (k, v)]
    want = reference(q, *wide, ct=ct)
    close(out, want[0])
    close(tensors[0].grad, want[1])
    for t, w in zip(tensors[1:], want[2:4], strict=False):
        close(t.grad, w.reshape(2, 2, 3, 90, 8).sum(2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype):
    q, k, v = (torsh.tensor(normal(2, 70, 8)).to(getattr(torsh, dtype)) for _ in range(3))
    out = attend(q, k, v, is_causal=True)
    assert out.dtype == getattr(torsh, dtype)
    want = reference(*(x.to(torsh.float64).numpy() for x in (q, k, v)), causal=True)
    close(out.to(torsh.float64), want, {"float16": 2e-3, "bfloat16": 1e-2, "float64": 1e-12}[dtype])


@pytest.mark.parametrize("n", [16, 96])
def test_dropout(n):
    """Values equal to the identity show the weights: the same are dropped as by `dropout` from the same state, forward
    and backward, in small sizes (plain) and large ones (one pass)."""
    q, k, ct = normal(2, n, 8), normal(2, n, 8), normal(2, n, n)
    eye = np.broadcast_to(np.eye(n, dtype=np.float32), (2, n, n)).copy()
    torsh.manual_seed(11)
    tensors = [torsh.tensor(x, requires_grad=True) for x in (q, k, eye)]
    out = attend(*tensors, dropout_p=0.25)
    after = torsh.get_rng_state().numpy().tolist()
    out.backward(torsh.tensor(ct))
    torsh.manual_seed(11)
    keep = F.dropout(torsh.ones(2, n, n), 0.25).numpy().astype(np.float64)
    assert torsh.get_rng_state().numpy().tolist() == after
    assert ((out.detach().numpy() == 0) == (keep == 0)).all()
    assert abs((keep == 0).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / keep.size)
    want = reference(q, k, eye, keep=keep, ct=ct)
    close(out, want[0])
    for t, w in zip(tensors, want[1:4], strict=False):
        close(t.grad, w)
    assert (attend(*(t.detach() for t in tensors), dropout_p=1.0).numpy() == 0).all()


def test_second_derivatives():
    q, k, v = (torsh.tensor(normal(66, 4), requires_grad=True) for _ in range(3))
    x = [normal(66, 4) for _ in range(3)]

    def slope(q, k, v):
        out = attend(q, k, v, is_causal=True)
        return torsh.autograd.grad((out * out).sum(), (q, k, v), create_graph=True)

    dots = sum((g * torsh.tensor(a)).sum() for g, a in zip(slope(q, k, v), x, strict=False))
    second = torsh.autograd.grad(dots, (q, k, v))
    wide = [t.detach().to(torsh.float64).requires_grad_() for t in (q, k, v)]
    dots = sum((g * torsh.tensor(a).to(torsh.float64)).sum() for g, a in zip(slope(*wide), x, strict=False))
    for got, want in zip(second, torsh.autograd.grad(dots, wide), strict=False):
        close(got, want.numpy(), 1e-4)


def test_gradients_by_differences():
    q, k, v = (RNG.standard_normal((2, 5, 3)) for _ in range(3))
    w = RNG.standard_normal((2, 5, 3))
    tensors = [torsh.tensor(x, requires_grad=True) for x in (q, k, v)]
    (attend(*tensors, is_causal=True) * torsh.tensor(w)).sum().backward()
    for i, x in enumerate((q, k, v)):
        numeric, h = np.zeros_like(x), 1e-6
        for at in np.ndindex(*x.shape):
            moved = []
            for d in (h, -h):
                y = [a.copy() for a in (q, k, v)]
                y[i][at] += d
                moved.append((reference(*y, causal=True) * w).sum())
            numeric[at] = (moved[0] - moved[1]) / (2 * h)
        close(tensors[i].grad, numeric, 1e-7)


def plain(q, k, v, mask=None):
    s = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    s = s if mask is None else s.masked_fill(mask, float("-inf"))
    return F.softmax(s, dim=-1) @ v


def test_the_plain_composition_is_recognised():
    q, k, v, ct = (normal(2, 3, 96, 16) for _ in range(4))
    tensors = [torsh.tensor(x, requires_grad=True) for x in (q, k, v)]

    @torsh.compile
    def step(q, k, v, ct):
        out = plain(q, k, v, torsh.tril(torsh.ones(96, 96)) == 0)
        return (out, *torsh.autograd.grad(out, (q, k, v), ct))

    got = step(*tensors, torsh.tensor(ct))
    for g, w in zip(got, reference(q, k, v, causal=True, ct=ct), strict=False):
        close(g, w)
    ops = str(step.explain())
    assert "attention" in ops and "softmax" not in ops
    # One pass forward, shared with the gradient, and no memory for the scores, bool or float: beyond the results
    # and the rows of the calls, which hold seven arrays of this size, there is next to nothing.
    assert step.explain()["programs"][0]["peak_bytes"] < 12 * 4 * q.size


def test_weights_that_are_used_are_kept():
    q, k, v = (torsh.tensor(normal(2, 80, 8)) for _ in range(3))

    @torsh.compile
    def f(q, k, v):
        p = F.softmax(q @ k.transpose(-2, -1), dim=-1)
        return p, p @ v

    p, out = f(q, k, v)
    close(p.sum(-1), np.ones((2, 80)))
    close(out, reference(q.numpy(), k.numpy(), v.numpy(), scale=1.0))


def test_threads_do_not_change_a_bit():
    q, k, v, ct = (normal(3, 300, 40) for _ in range(4))
    before, seen = torsh.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torsh.set_num_threads(threads)
            tensors = [torsh.tensor(x, requires_grad=True) for x in (q, k, v)]
            out = attend(*tensors, is_causal=True)
            out.backward(torsh.tensor(ct))
            seen.append([out.detach().numpy().tobytes()] + [t.grad.numpy().tobytes() for t in tensors])
    finally:
        torsh.set_num_threads(before)
    assert seen[0] == seen[1] == seen[2]


def test_wrong_arguments():
    q, k, v = torsh.ones(1, 2, 3, 4), torsh.ones(1, 2, 5, 4), torsh.ones(1, 2, 5, 4)
    sdpa = F.scaled_dot_product_attention
    for error, message, call in [
        (RuntimeError, "Explicit attn_mask should not be set", lambda: sdpa(q, k, v, torsh.ones(3, 5), 0.0, True)),
        (ValueError, "at least 2 dimensional", lambda: sdpa(q[0, 0, 0], k, v)),
        (TypeError, "same dtype", lambda: sdpa(q, k.double(), v)),
        (ValueError, "columns", lambda: sdpa(q, k[..., :3], v)),
        (ValueError, "rows", lambda: sdpa(q, k, v[:, :, :4])),
        (ValueError, "must match the size", lambda: sdpa(torsh.ones(1, 4, 3, 4), k, v)),
        (ValueError, "must match the size", lambda: sdpa(q, k, v, torsh.ones(3, 4))),
        (TypeError, "attn_mask dtype", lambda: sdpa(q, k, v, torsh.ones(3, 5, dtype=torsh.int32))),
        (RuntimeError, "dropout probability", lambda: sdpa(q, k, v, dropout_p=1.5)),
        (TypeError, "floating point", lambda: sdpa(q.int(), k.int(), v.int())),
        (ValueError, "must divide", lambda: sdpa(torsh.ones(1, 3, 3, 4), k, v, enable_gqa=True)),
        (TypeError, "query", lambda: sdpa(3, k, v)),
        (TypeError, "scale", lambda: sdpa(q, k, v, scale="x")),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_empty():
    assert attend(torsh.ones(2, 0, 4), torsh.ones(2, 5, 4), torsh.ones(2, 5, 3)).shape == (2, 0, 3)
    assert (attend(torsh.ones(2, 3, 4), torsh.ones(2, 0, 4), torsh.ones(2, 0, 3)).numpy() == 0).all()


# -- modules -----------------------------------------------------------------------------------------------


def heads_reference(m, q, k, v, mask):
    """`MultiheadAttention` in NumPy; q, k, v [N, rows, dim], mask added to [N, heads, L, S]."""
    p = {n: t.detach().numpy().astype(np.float64) for n, t in m.named_parameters()}
    e, h = m.embed_dim, m.num_heads
    if "in_proj_weight" in p:
        weights = np.split(p["in_proj_weight"], 3)
    else:
        weights = [p[f"{c}_proj_weight"] for c in "qkv"]
    parts = [
        (x @ w.T + b).reshape(*x.shape[:2], h, e // h).transpose(0, 2, 1, 3)
        for x, w, b in zip((q, k, v), weights, np.split(p["in_proj_bias"], 3), strict=False)
    ]
    s = parts[0] @ parts[1].swapaxes(-1, -2) / math.sqrt(e // h) + mask
    w = np.exp(s - s.max(-1, keepdims=True))
    w /= w.sum(-1, keepdims=True)
    out = (w @ parts[2]).transpose(0, 2, 1, 3).reshape(*q.shape[:2], e)
    return out @ p["out_proj.weight"].T + p["out_proj.bias"], w


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dims", [(None, None), (6, 10)])
def test_multihead_attention(batch_first, dims):
    torsh.manual_seed(0)
    m = nn.MultiheadAttention(8, 2, kdim=dims[0], vdim=dims[1], batch_first=batch_first)
    nn.init.normal_(m.in_proj_bias)
    q, k, v = normal(3, 70, 8), normal(3, 90, dims[0] or 8), normal(3, 90, dims[1] or 8)
    hidden = np.triu(np.ones((70, 90), bool), 40)
    padding = np.zeros((3, 90), bool)
    padding[1, 50:] = True
    mask = np.where(hidden | padding[:, None, None], -np.inf, 0.0)
    want, weights = heads_reference(m, q, k, v, mask)
    swap = (lambda x: x) if batch_first else (lambda x: np.swapaxes(x, 0, 1))
    args = [torsh.tensor(np.ascontiguousarray(swap(x))) for x in (q, k, v)]
    kw = {"attn_mask": torsh.tensor(hidden), "key_padding_mask": torsh.tensor(padding)}
    out, none = m(*args, need_weights=False, **kw)
    assert none is None
    close(out, swap(want))
    out, mean = m(*args, **kw)
    close(out, swap(want))
    close(mean, weights.mean(1))
    close(m(*args, average_attn_weights=False, **kw)[1], weights)
    single, _ = m(*(torsh.tensor(x[0]) for x in (q, k, v)), attn_mask=torsh.tensor(hidden))
    close(single, heads_reference(m, q[:1], k[:1], v[:1], np.where(hidden, -np.inf, 0.0))[0][0])


def test_multihead_attention_has_the_names_of_torch():
    names = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    assert list(nn.MultiheadAttention(8, 2).state_dict()) == names
    names[:1] = ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    assert sorted(nn.MultiheadAttention(8, 2, kdim=4, vdim=5).state_dict()) == sorted(names)
    assert list(nn.MultiheadAttention(8, 2, bias=False).state_dict()) == ["in_proj_weight", "out_proj.weight"]
    with pytest.raises(AssertionError, match="divisible"):
        nn.MultiheadAttention(8, 3)
    with pytest.raises(NotImplementedError, match="add_bias_kv"):
        nn.MultiheadAttention(8, 2, add_bias_kv=True)
    x = torsh.ones(5, 2, 8)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        nn.MultiheadAttention(8, 2)(x, x, x, is_causal=True)
    with pytest.raises(AssertionError, match="embedding dimension of 8"):
        nn.MultiheadAttention(8, 2)(torsh.ones(5, 2, 7), x, x)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_encoder_trains(norm_first):
    torsh.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2)
    opt = torsh.optim.Adam(model.parameters(), lr=3e-3)
    x, y = torsh.tensor(normal(4, 70, 16)), torsh.tensor(normal(4, 70, 16) * 0.1)

    @torsh.compile
    def step(x, y):
        loss = F.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    losses = [step(x, y).item() for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
    model.eval()
    a = model(x).detach().numpy()
    assert (a == model(x).detach().numpy()).all()


def _reference(q, k, v, added):
    s = np.einsum("...ld,...sd->...ls", q, k) / np.sqrt(q.shape[-1]) + added
    e = np.exp(s - s.max(-1, keepdims=True))
    return np.einsum("...ls,...sd->...ld", e / e.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("n", [20, 70])
def test_a_triangle_of_numbers_is_added_and_hides_nothing(n):
    torsh.manual_seed(0)
    q, k, v = (torsh.randn(2, n, 8) for _ in range(3))
    want = _reference(*(x.numpy().astype(np.float64) for x in (q, k, v)), np.tril(np.ones((n, n))))
    for mask in (torsh.tril(torsh.ones(n, n)), torsh.tril(torsh.ones(n, n)).to(torsh.bool).to(torsh.float32)):
        got = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-5)

    def plain(q, k, v):
        scores = torsh.matmul(q, k.transpose(-2, -1)) * 8**-0.5 + torsh.tril(torsh.ones(n, n))
        return torsh.matmul(torsh.softmax(scores, -1), v)

    def gradients(mask_first):
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        if mask_first:
            mask = torsh.eval(torsh.tril(torsh.ones(n, n)))
            scores = torsh.matmul(leaves[0], leaves[1].transpose(-2, -1)) * 8**-0.5 + mask
            out = torsh.matmul(torsh.softmax(scores, -1), leaves[2])
        else:
            out = plain(*leaves)
        return torsh.autograd.grad((out * out).sum(), leaves)

    for a, b in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.compiled_only
def test_an_explanation_says_why_small_attention_keeps_its_scores():
    def attention(q, k, v):
        return torsh.softmax(q @ k.transpose(-1, -2) * 0.125, dim=-1) @ v

    def notes(n):
        q = torsh.ones(2, n, 8)
        f = torsh.compile(attention)
        f(q, q, q)
        return [note for note in f.explain()["programs"][0]["fusion_notes"] if "attention" in note]

    (note,) = notes(32)
    assert "32x32 scores" in note and "from 4096 scores a head on, as of 64x64" in note and __file__ in note
    assert notes(64) == []


def composed(q, k, v, causal):
    s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        s = s.masked_fill(~torsh.ones(s.shape[-2:], dtype=torsh.bool).tril(), -math.inf)
    return s.softmax(-1) @ v


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("attend", [lambda *x: F.scaled_dot_product_attention(*x[:3], is_causal=x[3]), composed])
def test_a_mean_of_large_values_is_finite(attend, causal):
    # The weighted sum of the values overflows before it is divided by the sum of the weights.
    q, k, v = normal(2, 80, 16), normal(2, 90, 16), normal(2, 90, 8)
    v = np.sign(v) * np.float32(3e38)
    got = torsh.compile(lambda q, k, v: attend(q, k, v, causal))(*map(torsh.tensor, (q, k, v))).numpy()
    want = reference(q, k, v, causal=causal)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * 3e38)


def test_rows_that_are_not_finite_leave_the_others_alone():
    q, k, v, ct = normal(1, 80, 16), normal(1, 90, 16), normal(1, 90, 8), normal(1, 80, 8)

    def run(q, k, v):
        x = [torsh.tensor(a, requires_grad=True) for a in (q, k, v)]
        y = F.scaled_dot_product_attention(*x, is_causal=True)
        return y.detach().numpy(), *[g.numpy() for g in torsh.autograd.grad(y, x, torsh.tensor(ct))]

    sound = run(q, k, v)
    q[0, 40, 3], v[0, 70, 2] = np.nan, np.inf
    out, dq, dk, dv = run(q, k, v)
    # Key 70 is hidden from the queries before it, whatever is behind it in the same block.
    rows = [i for i in range(70) if i != 40]
    np.testing.assert_allclose(out[0, rows], sound[0][0, rows], rtol=0, atol=2e-5)
    np.testing.assert_allclose(dq[0, rows], sound[1][0, rows], rtol=0, atol=1e-4)
    assert np.isnan(out[0, 40]).all() and np.isnan(dq[0, 40]).all() and not np.isfinite(out[0, 70:, 2]).any()
    # Keys behind query 40 are not seen by it.
    assert np.isnan(dv[0, :41]).all() and np.isfinite(dv[0, 41:70]).all()
    assert not np.isfinite(dk[0, :71]).any()
