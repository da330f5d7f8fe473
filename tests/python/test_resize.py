"""`interpolate` against its definition, computed element by element."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import torsh
from torsh import nn
from torsh.nn import functional as F


def taps(mode, size, out, factor, align):
    """Rows of weights: the matrix that resizes one dim."""
    m = np.zeros((out, size))
    scale = 1 / factor if factor else size / out
    for i in range(out):
        if mode in ("nearest", "nearest-exact"):
            j = math.floor((i + (0.5 if mode == "nearest-exact" else 0)) * np.float32(scale))
            m[i, min(j, size - 1)] = 1
            continue
        at = (i * (size - 1) / (out - 1) if out > 1 else 0) if align else scale * (i + 0.5) - 0.5
        if mode == "cubic":
            low = math.floor(at)
            for k in range(-1, 3):
                d, a = abs(at - low - k), -0.75
                w = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)
                m[i, min(max(low + k, 0), size - 1)] += w
        else:
            at = max(at, 0)
            low = min(math.floor(at), size - 1)
            m[i, low] += 1 - (at - low)
            m[i, min(low + 1, size - 1)] += at - low
    return m


def reference(x, mode, sizes, factors=None, align=False):
    kind = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    for d, out in enumerate(sizes):
        m = taps(kind, x.shape[d + 2], out, factors[d] if factors else None, align)
        x = np.moveaxis(np.tensordot(m, x, (1, d + 2)), 0, d + 2)
    return x


MODES = [("nearest", 1), ("nearest", 2), ("nearest", 3), ("nearest-exact", 2), ("linear", 1), ("bilinear", 2)]
MODES += [("trilinear", 3), ("bicubic", 2)]


@pytest.mark.parametrize(("mode", "n"), MODES)
@pytest.mark.parametrize("align", [None, False, True])
@pytest.mark.parametrize("dtype", [torsh.float32, torsh.float64])
def test_sizes(mode, n, align, dtype, rng):
    if align is not None and "nearest" in mode:
        pytest.skip("has no corners to align")
    x = rng.normal(size=(2, 3, *(5, 4, 3)[:n]))
    for sizes in itertools.product((1, 3, 7), repeat=n):
        got = F.interpolate(torsh.tensor(x, dtype=dtype), size=sizes, mode=mode, align_corners=align)
        assert got.shape == (2, 3, *sizes) and got.dtype == dtype
        want = reference(x, mode, sizes, align=bool(align))
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=2e-5 if dtype == torsh.float32 else 1e-6)
    square = F.interpolate(torsh.tensor(x, dtype=dtype), 6, mode=mode, align_corners=align)
    assert square.shape == (2, 3, *[6] * n)


@pytest.mark.parametrize(("mode", "n"), MODES)
@pytest.mark.parametrize("recompute", [None, True])
def test_factors(mode, n, recompute, rng):
    x = rng.normal(size=(1, 2, *(5, 7, 3)[:n]))
    for factor in (0.5, 1.7, 2.0, 2.6):
        sizes = [math.floor(d * factor) for d in x.shape[2:]]
        got = F.interpolate(torsh.tensor(x), scale_factor=factor, mode=mode, recompute_scale_factor=recompute)
        want = reference(x, mode, sizes, None if recompute else [factor] * n)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6, atol=1e-6)


def test_area_is_the_adaptive_mean():
    x = torsh.arange(12.0).reshape(1, 1, 3, 4)
    assert F.interpolate(x, size=(1, 2), mode="area").tolist() == F.adaptive_avg_pool2d(x, (1, 2)).tolist()
    assert F.interpolate(x.unsqueeze(2), size=(1, 3, 2), mode="area").shape == (1, 1, 1, 3, 2)


def test_integers_take_the_nearest():
    x = torsh.tensor([[[1, 2, 3]]], dtype=torsh.uint8)
    assert F.interpolate(x, scale_factor=2.0).tolist() == [[[1, 1, 2, 2, 3, 3]]]


def test_half_precision_is_rounded_once(rng):
    x = torsh.tensor(rng.normal(size=(1, 2, 6, 5))).to(torsh.float16)
    got = F.interpolate(x, size=(9, 4), mode="bilinear")
    want = F.interpolate(x.float(), size=(9, 4), mode="bilinear").half()
    assert got.dtype == torsh.float16
    np.testing.assert_array_equal(got.numpy(), want.numpy())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_gradient_is_the_transpose(mode, compiled, rng):
    x = torsh.tensor(rng.normal(size=(1, 1, 4, 3)), requires_grad=True)
    g = rng.normal(size=(1, 1, 7, 5))

    def f(x):
        return F.interpolate(x, size=(7, 5), mode=mode)

    (torsh.compile(f) if compiled else f)(x).backward(torsh.tensor(g))
    kind = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    rows, columns = taps(kind, 4, 7, None, False), taps(kind, 3, 5, None, False)
    np.testing.assert_allclose(x.grad.numpy()[0, 0], rows.T @ g[0, 0] @ columns, rtol=1e-6, atol=1e-6)


def test_layers():
    x = torsh.arange(4.0).reshape(1, 1, 2, 2)
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    assert up(x).tolist() == nn.UpsamplingBilinear2d(scale_factor=2)(x).tolist()
    assert nn.UpsamplingNearest2d(size=(1, 2))(x).tolist() == [[[[0.0, 1.0]]]]
    assert "scale_factor=2" in repr(up) and "bilinear" in repr(up)


X = torsh.ones(1, 1, 2, 2)  # refused for what goes with it, wherever it is


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.interpolate(X), ValueError, "either size or scale_factor"),
        (lambda: F.interpolate(X, 2, 2.0), ValueError, "only one of size or scale_factor"),
        (lambda: F.interpolate(X, (2, 2, 2)), ValueError, "same number of spatial dimensions"),
        (lambda: F.interpolate(X, scale_factor=(2.0,)), ValueError, "same number of spatial dimensions"),
        (lambda: F.interpolate(X, 2, mode="linear"), ValueError, "3 dims"),
        (lambda: F.interpolate(X, 2, mode="cubic"), NotImplementedError, "mode must be one of"),
        (lambda: F.interpolate(X, 2, align_corners=True), ValueError, "align_corners"),
        (lambda: F.interpolate(X, 0), ValueError, "greater than 0"),
        (lambda: F.interpolate(X, scale_factor=0.1), ValueError, "greater than 0"),
        (lambda: F.interpolate(X, scale_factor=-1.0), ValueError, "positive"),
        (lambda: F.interpolate(X, 2, recompute_scale_factor=True), ValueError, "recompute_scale_factor"),
        (lambda: F.interpolate(X, 2, mode="bilinear", antialias=True), NotImplementedError, "antialias"),
        (lambda: F.interpolate(X.long(), 2, mode="bilinear"), TypeError, "floating point"),
        (lambda: F.interpolate(torsh.ones(2, 2), 2), ValueError, "3, 4 or 5 dims"),
        (lambda: F.interpolate([1.0], 2), TypeError, "Tensor"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
