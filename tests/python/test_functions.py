"""Every function against NumPy, lazily and compiled: odd sizes, zero sizes, 0-d, several dtypes."""

from __future__ import annotations

import math

import numpy as np
import pytest

import torsh

F = torsh.nn.functional


def check(got, want, rtol=2e-6, atol=2e-6):
    """Same shape, dtype and values."""
    want = np.asarray(want)
    a = got.numpy()
    assert a.shape == want.shape
    assert a.dtype == want.dtype, f"dtype {a.dtype}, expected {want.dtype}"
    if want.dtype.kind == "f":
        np.testing.assert_allclose(a, want, rtol=rtol, atol=atol, equal_nan=True)
    else:
        np.testing.assert_array_equal(a, want)


erf = np.vectorize(math.erf, otypes=[np.float64])

UNARY = {
    "exp": (np.exp, (-5, 5)), "exp2": (np.exp2, (-5, 5)), "expm1": (np.expm1, (-3, 3)), "log": (np.log, (0.01, 9)),
    "log2": (np.log2, (0.01, 9)), "log10": (np.log10, (0.01, 9)), "log1p": (np.log1p, (-0.9, 9)),
    "sqrt": (np.sqrt, (0, 9)),
    "rsqrt": (lambda x: 1 / np.sqrt(x), (0.01, 9)), "reciprocal": (lambda x: 1 / x, (0.1, 9)),
    "sin": (np.sin, (-50, 50)),
    "cos": (np.cos, (-50, 50)), "tan": (np.tan, (-1.5, 1.5)), "asin": (np.arcsin, (-1, 1)),
    "acos": (np.arccos, (-1, 1)),
    "atan": (np.arctan, (-9, 9)), "sinh": (np.sinh, (-4, 4)), "cosh": (np.cosh, (-4, 4)), "tanh": (np.tanh, (-4, 4)),
    "asinh": (np.arcsinh, (-9, 9)), "acosh": (np.arccosh, (1, 9)), "atanh": (np.arctanh, (-0.99, 0.99)),
    "erf": (erf, (-4, 4)),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), (-20, 20)), "neg": (np.negative, (-5, 5)), "abs": (np.abs, (-5, 5)),
    "sign": (np.sign, (-5, 5)), "floor": (np.floor, (-5, 5)), "ceil": (np.ceil, (-5, 5)), "round": (np.round, (-5, 5)),
    "trunc": (np.trunc, (-5, 5)), "square": (np.square, (-5, 5)), "frac": (lambda x: x - np.trunc(x), (-5, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 33), (2, 3, 130)])
def test_unary(name, shape, rng, run):
    reference, (lo, hi) = UNARY[name]
    x = rng.uniform(lo, hi, shape).astype(np.float32)
    check(
        run(getattr(torsh, name), torsh.tensor(x)),
        np.asarray(reference(x.astype(np.float64))).astype(np.float32),
        rtol=4e-6,
    )


@pytest.mark.parametrize("name", UNARY)
def test_unary_method_and_inplace(name, rng):
    reference, (lo, hi) = UNARY[name]
    x = rng.uniform(lo, hi, 9).astype(np.float32)
    t = torsh.tensor(x)
    check(getattr(t, name)(), np.asarray(reference(x.astype(np.float64))).astype(np.float32), rtol=4e-6)
    if hasattr(t, name + "_"):
        assert getattr(t, name + "_")() is t
        check(t, np.asarray(reference(x.astype(np.float64))).astype(np.float32), rtol=4e-6)


BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
DTYPES = ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtype", DTYPES)
def test_binary(name, dtype, rng, run):
    a = rng.integers(0, 50, (5, 33)).astype(dtype)
    b = rng.integers(1, 50, (33,)).astype(dtype)
    check(run(getattr(torsh, name), torsh.tensor(a), torsh.tensor(b)), BINARY[name](a, b))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
def test_integer_division(dtype, rng, run):
    a = rng.integers(-50, 50, 101).astype(dtype)
    b = rng.integers(1, 9, 101).astype(dtype) * rng.choice([-1, 1], 101).astype(dtype)
    ta, tb = torsh.tensor(a), torsh.tensor(b)
    check(run(lambda x, y: x // y, ta, tb), a // b)
    check(run(lambda x, y: x % y, ta, tb), a % b)
    check(run(torsh.fmod, ta, tb), np.fmod(a, b))
    check(run(lambda x, y: x / y, ta, tb), (a / b).astype(np.float32))
    check(run(lambda x, y: torsh.div(x, y, rounding_mode="trunc"), ta, tb), np.trunc(a / b).astype(dtype))


def test_bit_ops(rng, run):
    a, b = (rng.integers(-100, 100, 37).astype(np.int32) for _ in range(2))
    ta, tb = torsh.tensor(a), torsh.tensor(b)
    for fn in (lambda x, y: x & y, lambda x, y: x | y, lambda x, y: x ^ y):
        check(run(fn, ta, tb), fn(a, b))
    check(run(lambda x: ~x, ta), ~a)
    check(run(lambda x: x << 3, ta), a << 3)
    check(run(lambda x: x >> 2, ta), a >> 2)
    p, q = a > 0, b > 0
    check(run(lambda x, y: x & ~y, torsh.tensor(p), torsh.tensor(q)), p & ~q)


REDUCTIONS = {
    "sum": np.sum, "mean": np.mean, "amax": np.max, "amin": np.min, "prod": np.prod,
    "var": lambda x, axis, keepdims: np.var(x, axis=axis, keepdims=keepdims, ddof=1),
    "std": lambda x, axis, keepdims: np.std(x, axis=axis, keepdims=keepdims, ddof=1),
    "logsumexp": lambda x, axis, keepdims: np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims)),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dim", [0, 1, -1, None, (0, 2)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_reductions(name, dim, keepdim, rng, run):
    if name == "prod" and not isinstance(dim, int):
        dim = 0
    if name == "logsumexp" and dim is None:
        dim = (0, 1, 2)
    x = rng.normal(size=(4, 5, 37)).astype(np.float32)
    got = run(lambda t: getattr(torsh, name)(t, dim=dim, keepdim=keepdim), torsh.tensor(x))
    want = REDUCTIONS[name](x.astype(np.float64), axis=dim, keepdims=keepdim)
    check(got, np.asarray(want).astype(np.float32), rtol=2e-5, atol=2e-6)


def test_reduction_dtypes_and_emptiness(run):
    assert torsh.tensor([1, 2], dtype=torsh.int8).sum().dtype == torsh.int64
    assert torsh.tensor([True, True]).sum().item() == 2
    assert torsh.zeros(0).sum().item() == 0.0
    assert math.isnan(torsh.zeros(0).mean().item())
    assert torsh.ones(0).prod().item() == 1.0
    assert torsh.zeros(2, 0).sum(1).tolist() == [0.0, 0.0]
    assert torsh.zeros(0).any().item() is False and torsh.zeros(0).all().item() is True
    with pytest.raises(IndexError):
        torsh.zeros(0).amax()
    with pytest.raises(TypeError):
        torsh.tensor([1, 2]).mean()


def test_arg_and_extreme(rng, run):
    x = rng.permutation(120).reshape(4, 30).astype(np.float32)
    t = torsh.tensor(x)
    check(run(lambda a: a.argmax(1), t), x.argmax(1))
    check(run(lambda a: a.argmin(0), t), x.argmin(0))
    assert t.argmax().item() == x.argmax()
    values, indices = t.max(dim=1)
    check(values, x.max(1))
    check(indices, x.argmax(1))
    assert t.min().item() == 0
    nan = torsh.tensor([1.0, float("nan"), 3.0])
    assert nan.argmax().item() == 1 and math.isnan(nan.amax().item())


def test_scans_and_sorts(rng, run):
    x = rng.normal(size=(3, 41)).astype(np.float32)
    t = torsh.tensor(x)
    check(run(lambda a: a.cumsum(1), t), np.cumsum(x.astype(np.float64), 1).astype(np.float32), rtol=1e-5, atol=1e-5)
    check(run(lambda a: a.cumprod(1), t), np.cumprod(x.astype(np.float64), 1).astype(np.float32), rtol=1e-5, atol=1e-6)
    check(run(lambda a: a.cummax(1).values, t), np.maximum.accumulate(x, 1))
    check(run(lambda a: a.sort(1).values, t), np.sort(x, 1))
    check(run(lambda a: a.argsort(1), t), np.argsort(x, 1, kind="stable"))
    check(run(lambda a: a.topk(5).values, t), -np.sort(-x, 1)[:, :5])
    check(t.median(1).values, np.sort(x, 1)[:, 20])
    check(t.kthvalue(3, 1).values, np.sort(x, 1)[:, 2])


def test_shapes(rng, run):
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    t = torsh.tensor(x)
    pairs = [
        (lambda a: a.reshape(6, -1), x.reshape(6, -1)),
        (lambda a: a.permute(2, 0, 1), x.transpose(2, 0, 1)),
        (lambda a: a.transpose(0, 2), x.swapaxes(0, 2)),
        (lambda a: a.permute(2, 0, 1).reshape(8, 3), x.transpose(2, 0, 1).reshape(8, 3)),
        (lambda a: a.flatten(1), x.reshape(2, 12)),
        (lambda a: a.unsqueeze(-1).expand(2, 3, 4, 5), np.broadcast_to(x[..., None], (2, 3, 4, 5))),
        (lambda a: a.flip(0, 2), x[::-1, :, ::-1]),
        (lambda a: a.narrow(2, 1, 2), x[:, :, 1:3]),
        (lambda a: torsh.cat([a, a * 2], 1), np.concatenate([x, x * 2], 1)),
        (lambda a: torsh.stack([a, -a], 2), np.stack([x, -x], 2)),
        (lambda a: a.roll(1, 2), np.roll(x, 1, 2)),
        (lambda a: a.repeat(2, 1, 3), np.tile(x, (2, 1, 3))),
        (lambda a: a.movedim(0, -1), np.moveaxis(x, 0, -1)),
        (lambda a: a.split(2, 1)[1], x[:, 2:]),
        (lambda a: a.chunk(2, 2)[0], x[:, :, :2]),
        (lambda a: a.unbind(1)[2], x[:, 2]),
        (lambda a: F.pad(a, (1, 2, 0, 1), value=3.0), np.pad(x, ((0, 0), (0, 1), (1, 2)), constant_values=3.0)),
        (lambda a: a.T if a.ndim == 2 else a.mT, x.swapaxes(1, 2)),
        (lambda a: a.tril(), np.tril(x)),
        (lambda a: a.triu(1), np.triu(x, 1)),
        (lambda a: a.diagonal(0, 1, 2), np.diagonal(x, 0, 1, 2)),
        (lambda a: a[:, 1:, ::2], x[:, 1:, ::2]),
        (lambda a: a[..., -1], x[..., -1]),
        (lambda a: a[None, 0], x[None, 0]),
    ]
    for fn, want in pairs:
        check(run(fn, t), np.ascontiguousarray(want))


def test_indexing(rng, run):
    x = rng.normal(size=(5, 6, 7)).astype(np.float32)
    t = torsh.tensor(x)
    i, j = np.array([0, 4, -1]), np.array([[1], [2], [0]])
    ti, tj = torsh.tensor(i), torsh.tensor(j)
    check(run(lambda a, p: a[p], t, ti), x[i])
    check(run(lambda a, p, q: a[p, q], t, ti, tj), x[i, j])
    check(run(lambda a, p: a[:, p, 2], t, ti), x[:, i, 2])
    check(run(lambda a, p: a[p, :, p], t, ti), x[i, :, i])
    check(t[t > 0], x[x > 0])
    check(t[torsh.tensor(np.array([True, False, True, False, True]))], x[[True, False, True, False, True]])
    check(torsh.index_select(t, 1, torsh.tensor([3, 3, 0])), x[:, [3, 3, 0]])
    g = rng.integers(0, 6, (5, 2, 7))
    check(run(lambda a, p: a.gather(1, p), t, torsh.tensor(g)), np.take_along_axis(x, g, 1))
    for key, value in [((0,), 1.5), ((slice(1, 3), 2), 0.0), ((Ellipsis, -1), 7.0), ((ti.tolist(),), 2.0)]:
        y, u = x.copy(), torsh.tensor(x)
        y[key] = value
        u[key] = value
        check(u, y)
    u, y = torsh.tensor(x), x.copy()
    u[u < 0] = 0
    y[y < 0] = 0
    check(u, y)
    with pytest.raises(IndexError):
        t[5]
    with pytest.raises(IndexError):
        t[torsh.tensor([5])].numpy()


def test_scatter(run):
    base = torsh.zeros(3, 4)
    index = torsh.tensor([[0, 1, 2, 0], [2, 2, 0, 1]])
    src = torsh.arange(8.0).reshape(2, 4)
    want = np.zeros((3, 4), np.float32)
    for r in range(2):
        for c in range(4):
            want[index[r, c].item(), c] += src[r, c].item()
    check(run(lambda a, i, s: a.scatter_add(0, i, s), base, index, src), want)
    check(
        torsh.zeros(5).index_add(0, torsh.tensor([1, 1, 4]), torsh.tensor([1.0, 2.0, 3.0])),
        np.array([0, 3, 0, 0, 3], np.float32),
    )
    check(F.one_hot(torsh.tensor([1, 0]), 3), np.array([[0, 1, 0], [1, 0, 0]]))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 4)),
        ((5, 3), (3, 4)),
        ((2, 5, 3), (3, 4)),
        ((2, 1, 5, 3), (4, 3, 6)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_matmul(a, b, dtype, rng, run):
    x, y = (rng.integers(-4, 5, s).astype(dtype) for s in (a, b))
    check(run(torsh.matmul, torsh.tensor(x), torsh.tensor(y)), np.matmul(x, y))


def test_einsum(rng):
    x, y = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4, 5))
    tx, ty = torsh.tensor(x), torsh.tensor(y)
    for eq in ["bij,bjk->bik", "bij,bjk->ik", "bij,bjk", "...ij,...jk->...ik"]:
        check(torsh.einsum(eq, tx, ty), np.einsum(eq, x, y), rtol=1e-12)
    check(torsh.einsum("bij->ji", tx), np.einsum("bij->ji", x), rtol=1e-12)


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize("shape", [(5, 10), (3, 257), (2, 3, 4)])
def test_softmax_and_losses(shape, rng, run):
    x = rng.normal(size=shape).astype(np.float32) * 3
    t = torsh.tensor(x)
    x64 = x.astype(np.float64)
    check(run(lambda a: F.softmax(a, 1), t), softmax(x64, 1).astype(np.float32))
    check(run(lambda a: F.log_softmax(a, -1), t), np.log(softmax(x64, -1)).astype(np.float32), rtol=1e-5, atol=1e-5)
    y = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    p = np.take_along_axis(np.log(softmax(x64, 1)), y[:, None], 1)[:, 0]
    check(run(lambda a, b: F.cross_entropy(a, b), t, torsh.tensor(y)), np.float32(-p.mean()), rtol=1e-5)
    check(
        run(lambda a, b: F.cross_entropy(a, b, reduction="none"), t, torsh.tensor(y)),
        (-p).astype(np.float32),
        rtol=1e-5,
        atol=1e-5,
    )
    check(F.nll_loss(F.log_softmax(t, 1), torsh.tensor(y), reduction="sum"), np.float32(-p.sum()), rtol=1e-5)
    z = rng.normal(size=shape).astype(np.float32)
    check(run(F.mse_loss, t, torsh.tensor(z)), np.float32(((x64 - z) ** 2).mean()), rtol=1e-5)


def test_activations(rng, run):
    x = np.concatenate([rng.normal(size=50) * 4, [0.0, -0.0, 30.0, -30.0]]).astype(np.float32)
    t, d = torsh.tensor(x), x.astype(np.float64)
    phi = 0.5 * (1 + erf(d / np.sqrt(2)))
    tanh_gelu = 0.5 * d * (1 + np.tanh(np.sqrt(2 / np.pi) * (d + 0.044715 * d**3)))
    sig = 1 / (1 + np.exp(-d))
    for fn, want in [
        (F.relu, np.maximum(d, 0)), (F.gelu, d * phi), (lambda a: F.gelu(a, approximate="tanh"), tanh_gelu), (F.silu,
        d * sig),
        (F.softplus, np.log1p(np.exp(d))), (F.elu, np.where(d > 0, d, np.expm1(d))), (F.leaky_relu, np.where(d > 0, d,
        0.01 * d)),
        (F.mish, d * np.tanh(np.log1p(np.exp(d)))), (F.hardtanh, np.clip(d, -1, 1)), (F.logsigmoid, np.log(sig)),
    ]:  # fmt: skip
        check(run(fn, t), want.astype(np.float32), rtol=1e-5, atol=1e-6)


def test_gelu_tanh_and_its_gradient_far_out(run):
    x = np.array([-1e9, -100, -30, -8, -1, 0, 1, 8, 30, 100, 1e9, np.inf], np.float32)
    d = x[:-1].astype(np.float64)
    t = np.tanh(np.sqrt(2 / np.pi) * (d + 0.044715 * d**3))
    want = 0.5 * (1 + t) + 0.5 * d * (1 - t * t) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * d**2)

    def both(a):
        a = a.detach().requires_grad_()
        out = F.gelu(a, approximate="tanh")
        return out.detach(), torsh.autograd.grad(out.sum(), a)[0]

    out, grad = run(both, torsh.tensor(x))
    check(out, np.append(0.5 * d * (1 + t), np.inf).astype(np.float32), rtol=1e-5, atol=1e-6)
    check(grad[:-1], want.astype(np.float32), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 8), (3, 257)])
def test_layer_norm(shape, rng, run):
    x = rng.normal(size=shape).astype(np.float32) * 2 + 5
    w, b = (rng.normal(size=shape[-1]).astype(np.float32) for _ in range(2))
    d = x.astype(np.float64)
    want = (d - d.mean(-1, keepdims=True)) / np.sqrt(d.var(-1, keepdims=True) + 1e-5) * w + b
    got = run(lambda a, p, q: F.layer_norm(a, (shape[-1],), p, q), torsh.tensor(x), torsh.tensor(w), torsh.tensor(b))
    check(got, want.astype(np.float32), rtol=1e-4, atol=1e-5)


def test_creation():
    check(torsh.arange(5), np.arange(5))
    check(torsh.arange(0, 1, 0.1), np.arange(0, 1, 0.1).astype(np.float32))
    check(torsh.arange(5, 0, -2), np.arange(5, 0, -2))
    check(torsh.linspace(-1, 1, 7), np.linspace(-1, 1, 7).astype(np.float32))
    check(torsh.eye(3, 4), np.eye(3, 4, dtype=np.float32))
    check(torsh.full((2, 3), 7), np.full((2, 3), 7))
    check(torsh.zeros_like(torsh.ones(2, dtype=torsh.int32)), np.zeros(2, np.int32))
    check(torsh.tensor([[1, 2], [3, 4.5]]), np.array([[1, 2], [3, 4.5]], np.float32))
    check(torsh.tensor([]), np.zeros(0, np.float32))
    check(torsh.from_numpy(np.arange(6).reshape(2, 3).T), np.arange(6).reshape(2, 3).T)


def test_special_values(run):
    inf, nan = float("inf"), float("nan")
    t = torsh.tensor([inf, -inf, nan, 0.0, -0.0, 1e-42, 3e38])
    check(run(torsh.isnan, t), np.array([0, 0, 1, 0, 0, 0, 0], bool))
    check(run(torsh.isinf, t), np.array([1, 1, 0, 0, 0, 0, 0], bool))
    check(run(torsh.isfinite, t), np.array([0, 0, 0, 1, 1, 1, 1], bool))
    check(run(torsh.exp, t), np.array([inf, 0, nan, 1, 1, 1, inf], np.float32))
    check(run(lambda a: a.clamp(-1, 1), t), np.array([1, -1, nan, 0, -0.0, 1e-42, 1], np.float32))
    check(torsh.nan_to_num(t)[:3], np.array([3.4028235e38, -3.4028235e38, 0], np.float32))
    check(F.softmax(torsh.tensor([1e30, -1e30, -inf]), 0), np.array([1, 0, 0], np.float32))
    assert math.copysign(1, run(lambda a: -a, torsh.zeros(1)).item()) == -1.0


def test_casts(run):
    t = torsh.tensor([1.9, -1.9, 300.0, float("nan"), 1e30])
    assert run(lambda a: a.to(torsh.int32), t).tolist() == [1, -1, 300, 0, 2**31 - 1]
    assert run(lambda a: a.bool(), torsh.tensor([0.0, -0.0, 0.5, float("nan")])).tolist() == [False, False, True, True]
    assert run(lambda a: a.to(torsh.uint8), torsh.tensor([257, -1])).tolist() == [1, 255]
    h = torsh.tensor([1.0009765625, 65520.0, 1e-8]).half()
    assert h.dtype == torsh.float16 and h.float().tolist() == [1.0009765625, float("inf"), 0.0]
    assert torsh.tensor([1.00390625]).bfloat16().float().item() == 1.0


def test_promotion():
    i, f, b = torsh.tensor([1]), torsh.tensor([1.5]), torsh.tensor([True])
    assert (i + 1).dtype == torsh.int64 and (i + 1.5).dtype == torsh.float32 and (b + 1).dtype == torsh.int64
    assert (i / 2).dtype == torsh.float32 and (f.half() + 2.5).dtype == torsh.float16
    assert (f.half() + torsh.tensor(2.5)).dtype == torsh.float16  # a 0-d tensor does not widen
    assert (i.to(torsh.int8) + torsh.tensor([1], dtype=torsh.uint8)).dtype == torsh.int16
    assert (f.half() + f.bfloat16()).dtype == torsh.float32
    assert torsh.result_type(i, 2.0) == torsh.float32
    with pytest.raises((TypeError, RuntimeError)):
        i.add_(1.5)


def test_random():
    torsh.manual_seed(7)
    a = torsh.rand(1000)
    torsh.manual_seed(7)
    assert torsh.equal(a, torsh.rand(1000))
    assert 0 <= a.min().item() and a.max().item() < 1 and abs(a.mean().item() - 0.5) < 0.05
    n = torsh.randn(20000, dtype=torsh.float64)
    assert abs(n.mean().item()) < 0.03 and abs(n.std().item() - 1) < 0.03
    r = torsh.randint(3, 9, (1000,))
    assert sorted(set(r.tolist())) == [3, 4, 5, 6, 7, 8]
    assert sorted(torsh.randperm(50).tolist()) == list(range(50))
    d = F.dropout(torsh.ones(10000), 0.3)
    assert abs((d == 0).float().mean().item() - 0.3) < 0.03 and abs(d.max().item() - 1 / 0.7) < 1e-6
    assert torsh.multinomial(torsh.tensor([0.0, 0.0, 1.0]), 4, replacement=True).tolist() == [2] * 4
    assert abs(torsh.bernoulli(torsh.full((10000,), 0.25)).mean().item() - 0.25) < 0.03


@pytest.mark.host_only("a device is part of what is printed")
def test_repr():
    assert repr(torsh.tensor([1.0, 2.5])) == "tensor([1.0000, 2.5000])"
    assert repr(torsh.tensor([[1, 20], [3, 4]])) == "tensor([[ 1, 20],\n        [ 3,  4]])"
    assert repr(torsh.tensor([1.0, 2.0])) == "tensor([1., 2.])"
    assert repr(torsh.tensor(3)) == "tensor(3)"
    assert repr(torsh.zeros(0)) == "tensor([])"
    assert repr(torsh.ones(1, requires_grad=True)) == "tensor([1.], requires_grad=True)"
    assert repr(torsh.ones(2, dtype=torsh.float16)) == "tensor([1., 1.], dtype=torsh.float16)"
    assert "..." in repr(torsh.zeros(100, 100))
    assert f"{torsh.tensor(1.5):.2f}" == "1.50"
