"""PyTorch's conventions at the edges: gradients at kinks, absent bounds, reductions and weights of losses, f16."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

import torsh

F = torsh.nn.functional
INF, NAN = math.inf, math.nan


def gradient(fn, values, dtype=torsh.float32):
    x = torsh.tensor(values, dtype=dtype, requires_grad=True)
    fn(x).sum().backward()
    return x.grad.tolist()


GRADIENTS = [
    (lambda x: x.clamp(-1, 1), [-2, -1, 0, 1, 2], [0, 1, 1, 1, 0]),
    (lambda x: x.clamp(min=0), [-1, 0, 1], [0, 1, 1]),
    (lambda x: x.clamp(max=0), [-1, 0, 1], [1, 1, 0]),
    (lambda x: F.hardtanh(x), [-2, -1, 0, 1, 2], [0, 0, 1, 0, 0]),
    (lambda x: F.relu6(x), [-1, 0, 3, 6, 7], [0, 0, 1, 0, 0]),
    (lambda x: F.relu(x), [-1, 0, 1], [0, 0, 1]),
    (lambda x: F.hardsigmoid(x) * 6, [-3, 0, 3], [0, 1, 0]),
    (lambda x: F.hardswish(x), [-4, 0, 4], [0, 0.5, 1]),
    (lambda x: x.abs(), [-1, 0, 1], [-1, 0, 1]),
    (lambda x: F.softsign(x), [-1, 0, 1], [0.25, 1, 0.25]),
    (lambda x: torsh.nan_to_num(x), [NAN, INF, -INF, 2], [0, 0, 0, 1]),
    (lambda x: torsh.copysign(x, torsh.tensor([-1.0, 1.0, -1.0])), [-2, -2, 2], [1, -1, -1]),
    (lambda x: torsh.norm(x), [0, 0], [0, 0]),
    (lambda x: F.l1_loss(x, torsh.zeros(3), reduction="sum"), [-1, 0, 1], [-1, 0, 1]),
    (lambda x: torsh.lerp(x, torsh.ones(2), 0.25), [0, 5], [0.75, 0.75]),
]


@pytest.mark.parametrize("k", range(len(GRADIENTS)))
def test_gradient_at_kinks(k):
    fn, values, want = GRADIENTS[k]
    np.testing.assert_allclose(gradient(fn, [float(v) for v in values]), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("values", "dtype", "lo", "hi", "want", "out"),
    [
        ([-5, 300 % 128, 7], "int8", -1, 10**6, [-1, 44, 7], "int8"),
        ([-5, 5], "int64", None, 2, [-5, 2], "int64"),
        ([-5, 5], "int32", -1.5, None, [-1.5, 5.0], "float32"),
        ([1.0, NAN, -INF], "float32", 0, 2, [1.0, NAN, 0.0], "float32"),
        ([1.0, 5.0], "float64", 3, 2, [2.0, 2.0], "float64"),
        ([0, 200], "uint8", -7, 100, [0, 100], "uint8"),
    ],
)
def test_clamp(values, dtype, lo, hi, want, out, run):
    y = run(lambda x: x.clamp(lo, hi), torsh.tensor(values, dtype=dtype))
    assert y.dtype.name == out
    np.testing.assert_array_equal(y.numpy(), np.array(want))


def test_clamp_between_tensors(run):
    x, lo, hi = torsh.tensor([-3.0, 0.5, 9.0]), torsh.tensor([-1.0, 1.0, 0.0]), torsh.tensor([1.0, 2.0, 3.0])
    assert run(lambda a, b, c: a.clamp(b, c), x, lo, hi).tolist() == [-1.0, 1.0, 3.0]
    with pytest.raises(ValueError):
        x.clamp()


def reduced(values, reduction):
    return {"none": values, "sum": values.sum(), "mean": values.mean()}[reduction]


def losses(x, y, p, q):
    d = x - y
    a = np.abs(d)
    s = 1 / (1 + np.exp(-x))
    return {
        "mse_loss": ((x, y), {}, d * d),
        "l1_loss": ((x, y), {}, a),
        "smooth_l1_loss": ((x, y), {"beta": 0.7}, np.where(a < 0.7, d * d / 1.4, a - 0.35)),
        "huber_loss": ((x, y), {"delta": 0.7}, np.where(a <= 0.7, d * d / 2, 0.7 * (a - 0.35))),
        "binary_cross_entropy": ((p, q), {}, -(q * np.log(p) + (1 - q) * np.log(1 - p))),
        "binary_cross_entropy_with_logits": ((x, q), {}, -(q * np.log(s) + (1 - q) * np.log(1 - s))),
        "kl_div": ((x, p), {}, p * (np.log(p) - x)),
    }


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", list(losses(*[np.array([0.5])] * 4)))
def test_losses(name, reduction, rng, run):
    x, y = rng.normal(size=(5, 33)), rng.normal(size=(5, 33))
    p, q = rng.uniform(0.05, 0.95, (5, 33)), rng.uniform(0, 1, (5, 33))
    args, options, want = losses(x, y, p, q)[name]
    got = run(lambda a, b: getattr(F, name)(a, b, reduction=reduction, **options), *(torsh.tensor(v) for v in args))
    np.testing.assert_allclose(got.numpy(), reduced(want, reduction), rtol=1e-10)


def test_losses_with_weights(rng):
    x, q, w = rng.normal(size=(4, 3)), rng.uniform(0, 1, (4, 3)), rng.uniform(0.5, 2, (4, 3))
    s = 1 / (1 + np.exp(-x))
    pw = np.array([1.0, 2.0, 3.0])
    tx, tq, tw, tp = (torsh.tensor(v) for v in (x, q, w, pw))
    got = F.binary_cross_entropy_with_logits(tx, tq, weight=tw, pos_weight=tp)
    np.testing.assert_allclose(got.item(), (-w * (pw * q * np.log(s) + (1 - q) * np.log(1 - s))).mean(), rtol=1e-12)
    ts = torsh.tensor(s)
    got = F.binary_cross_entropy(ts, tq, weight=tw, reduction="sum")
    np.testing.assert_allclose(got.item(), (-w * (q * np.log(s) + (1 - q) * np.log(1 - s))).sum(), rtol=1e-12)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("extra", [(), (2, 3)])
def test_nll_and_cross_entropy(reduction, weighted, extra, rng, run):
    x = rng.normal(size=(5, 7, *extra))
    t = rng.integers(0, 7, (5, *extra))
    t.flat[1] = -100
    w = rng.uniform(0.5, 2, 7) if weighted else np.ones(7)
    logp = x - np.log(np.exp(x).sum(1, keepdims=True))
    keep = t != -100
    safe = np.where(keep, t, 0)
    picked = np.take_along_axis(logp, safe[:, None], 1)[:, 0]
    each = np.where(keep, -picked * w[safe], 0.0)
    want = {"none": each, "sum": each.sum(), "mean": each.sum() / (w[safe] * keep).sum()}[reduction]
    tw = torsh.tensor(w) if weighted else None
    tx, tt = torsh.tensor(x), torsh.tensor(t)
    got = run(lambda a, b: F.cross_entropy(a, b, weight=tw, reduction=reduction), tx, tt)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-10)
    got = run(lambda a, b: F.nll_loss(F.log_softmax(a, 1), b, weight=tw, reduction=reduction), tx, tt)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-10)


def test_cross_entropy_of_one_row_and_smoothing():
    x = torsh.tensor([1.0, 2.0, 3.0], dtype=torsh.float64)
    logp = np.array([1.0, 2.0, 3.0]) - np.log(np.exp([1.0, 2.0, 3.0]).sum())
    for reduction in ("none", "mean", "sum"):
        got = F.cross_entropy(x, torsh.tensor(2), reduction=reduction)
        assert got.shape == () and abs(got.item() + logp[2]) < 1e-12
    got = F.cross_entropy(x.unsqueeze(0), torsh.tensor([2]), label_smoothing=0.3).item()
    assert abs(got - (-0.7 * logp[2] - 0.1 * logp.sum())) < 1e-12


@pytest.mark.parametrize("dtype", [torsh.float16, torsh.bfloat16])
def test_half_precision_rounds_once(dtype, rng):
    x = torsh.tensor(rng.normal(size=(4, 64)), dtype=dtype)
    for fn in (
        lambda v: F.layer_norm(v, (64,)),
        lambda v: F.rms_norm(v, (64,), eps=1e-5),
        F.hardswish,
        F.softsign,
        lambda v: F.mse_loss(v, v * 0.5),
    ):
        exact = fn(x.float().double())
        if fn(x).ndim == 0:
            exact = F.mse_loss(x.double(), (x * 0.5).double())
        assert torsh.allclose(fn(x).double(), exact.to(dtype).double(), rtol=torsh.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("dtype", ["int8", "int64", "float16", "bfloat16", "float32", "bool"])
def test_pad_value_is_converted(dtype):
    x = torsh.ones(2, dtype=dtype)
    got = F.pad(x, (1, 2), value=0.1)
    assert got.dtype == x.dtype
    assert got[0].item() == torsh.tensor(0.1).to(dtype).item()


@pytest.mark.parametrize("dtype", [torsh.float32, torsh.float64])
def test_norm_layers(dtype, rng):
    x, w, b = rng.normal(size=(3, 4, 5)), rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    normal = (x - mean) / np.sqrt(var + 1e-5)
    tx, tw, tb = (torsh.tensor(v, dtype=dtype) for v in (x, w, b))
    tol = {"rtol": 1e-5, "atol": 1e-5} if dtype == torsh.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for weight, bias, want in (
        (None, None, normal),
        (tw, None, normal * w),
        (tw, tb, normal * w + b),
        (None, tb, normal + b),
    ):
        np.testing.assert_allclose(F.layer_norm(tx, (4, 5), weight, bias).numpy(), want, **tol)
    rms = x / np.sqrt((x * x).mean((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(F.rms_norm(tx, (4, 5), tw, 1e-5).numpy(), rms * w, **tol)


def test_inplace_keeps_the_dtype():
    x = torsh.arange(3)
    for bad in (
        lambda: x.add_(0.5),
        lambda: x.mul_(torsh.ones(3)),
        lambda: x.sub_(torsh.ones(3), alpha=2),
        lambda: x.div_(2),
    ):
        with pytest.raises(RuntimeError, match="can't be cast"):
            bad()
    assert x.add_(1).tolist() == [1, 2, 3] and x.clamp_(max=2).tolist() == [1, 2, 2]
    out = torsh.zeros(3, dtype=torsh.int64)
    with pytest.raises(RuntimeError, match="can't be cast"):
        torsh.exp(x, out=out)
    with pytest.raises(TypeError):
        torsh.exp(x, out=[1])
    assert torsh.add(x, 1).tolist() == [2, 3, 3]


def test_inplace_activations_write_their_input():
    for name in (
        "relu",
        "relu6",
        "silu",
        "elu",
        "selu",
        "celu",
        "mish",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "leaky_relu",
    ):
        x = torsh.tensor([-1.0, 0.5])
        want = getattr(F, name)(x).tolist()
        assert getattr(F, name)(x, inplace=True) is x and x.tolist() == want


def test_functions_of_the_package_work_before_nn_is_imported():
    code = "import torsh; x = torsh.ones(3); torsh.relu(x); torsh.softmax(x, 0); torsh.log_softmax(x, 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("dilation", [2**63 - 1, 2**62])
def test_windows_that_overflow_are_refused(dilation):
    with pytest.raises((torsh.LimitError, ValueError)):
        F.max_pool1d(torsh.ones(1, 1, 8), 2, 1, dilation=dilation)
    with pytest.raises((torsh.LimitError, ValueError)):
        F.conv1d(torsh.ones(1, 1, 8), torsh.ones(1, 1, 2), dilation=dilation)
    with pytest.raises((torsh.LimitError, ValueError, OverflowError)):
        F.adaptive_avg_pool1d(torsh.ones(1, 1, 8), 2**40)
