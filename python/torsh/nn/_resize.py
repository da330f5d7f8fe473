"""Resizing of images and other grids, as `torch.nn.functional.interpolate`.

Every mode is separable: along each dim an output element is a sum of input elements ("taps") with weights that depend
on its position alone.
"""

from __future__ import annotations

import functools
import math
import struct

from torsh import _C
from torsh._fn._args import DTypeError, ShapeError, Tensor, bool_arg, int_arg, is_float, rounded_once, tensor_arg
from torsh.nn._spatial import _adaptive_avg

__all__ = ["interpolate", "upsample"]

# Dims that each mode resizes; None for any number.
_MODES = {
    "nearest": None, "nearest-exact": None, "area": None, "linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3,
}  # fmt: skip
_ALIGNED = ("linear", "bilinear", "bicubic", "trilinear")


def _single(x: float) -> float:
    return struct.unpack("f", struct.pack("f", x))[0]


@functools.lru_cache(maxsize=256)
def _taps(mode: str, size: int, out: int, factor: float | None, align: bool, double: bool) -> list:
    """Per tap the input positions and the weights of the `out` elements; weights are None where each is 1.

    Positions are computed in the precision in which PyTorch computes them, so that ties fall alike.
    """
    f = (lambda x: x) if double and mode in _ALIGNED else _single
    scale = f(1.0 / factor) if factor is not None else f(f(size) / out)
    if mode in ("nearest", "nearest-exact"):
        if mode == "nearest" and out == size:
            return [(list(range(out)), None)]
        shift = 0.5 if mode == "nearest-exact" else 0.0
        return [([min(int(f(f(i + shift) * scale)), size - 1) for i in range(out)], None)]
    if align:
        scale = f(f(size - 1) / (out - 1)) if out > 1 else 0.0
        at = [f(scale * i) for i in range(out)]
    else:
        at = [f(f(scale * f(i + 0.5)) - 0.5) for i in range(out)]
    if mode == "bicubic":
        low = [math.floor(x) for x in at]
        weights = [_cubic(f(x - i)) for x, i in zip(at, low, strict=True)]
        return [
            ([min(max(i - 1 + k, 0), size - 1) for i in low], [w[k] for w in weights])
            for k in range(4)
        ]  # fmt: skip
    at = [max(x, 0.0) for x in at]
    low = [min(int(x), size - 1) for x in at]
    high = [min(i + 1, size - 1) for i in low]
    weight = [min(max(f(x - i), 0.0), 1.0) for x, i in zip(at, low, strict=True)]
    return [(low, [1.0 - w for w in weight]), (high, weight)]


def _cubic(t: float) -> tuple[float, float, float, float]:
    # Keys (1981) with a = -0.75.
    a = -0.75

    def near(x):
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0

    def far(x):
        return ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a

    return far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)


def _along(x: Tensor, dim: int, taps: list) -> Tensor:
    total = None
    for positions, weights in taps:
        y = _C.apply("take", (x, _C.tensor(positions, _C.int64, x.device, False)), (dim,))
        if weights is not None:
            shape = [1] * x.ndim
            shape[dim] = len(weights)
            y = y * _C.tensor(weights, x.dtype, x.device, False).reshape(shape)
        total = y if total is None else total + y
    return total


def _list(value, n: int, name: str, x: Tensor) -> list:
    if not isinstance(value, (list, tuple)):
        return [value] * n
    if len(value) != n:
        what = "output size" if name == "size" else "scale_factor"
        raise ShapeError(
            f"interpolate(): Input and {name} must have the same number of spatial dimensions, but got input with "
            f"spatial dimensions of {list(x.shape[2:])} and {what} of {list(value)}"
        )
    return list(value)


def _sizes(x: Tensor, size, scale_factor, recompute) -> tuple[list[int], list]:
    """Output sizes, and the factors where positions follow from them."""
    n = x.ndim - 2
    if size is not None and scale_factor is not None:
        raise ValueError("interpolate(): only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ValueError("interpolate(): either size or scale_factor should be defined")
    if size is not None:
        if recompute:
            raise ValueError("interpolate(): recompute_scale_factor is not meaningful with an explicit size.")
        out = [int_arg(s, "interpolate", "size") for s in _list(size, n, "size", x)]
        factors = [None] * n
    else:
        factors = [float(s) for s in _list(scale_factor, n, "scale_factor", x)]
        if not all(math.isfinite(s) and s > 0 for s in factors):
            raise ValueError(f"interpolate(): scale_factor must be positive and finite, got {scale_factor}")
        out = [math.floor(float(d) * s) for d, s in zip(x.shape[2:], factors, strict=True)]
        if recompute:
            factors = [None] * n
    if any(d < 1 for d in (*x.shape[1:], *out)):
        raise ShapeError(
            f"interpolate(): Input and output sizes should be greater than 0, but got input {list(x.shape)} and output "
            f"size {out}"
        )
    return out, factors


def interpolate(
    input, size=None, scale_factor=None, mode: str = "nearest", align_corners=None, recompute_scale_factor=None,
    antialias: bool = False,
) -> Tensor:  # fmt: skip
    """Resizes the dims after the first two of [N, C, d1, ..] to `size`, or by `scale_factor`.

    `mode` is "nearest", "nearest-exact" or "area" for any number of dims up to 3, "linear" for one,
    "bilinear" or "bicubic" for two, "trilinear" for three. With `align_corners` the centres of the corner elements of
    input and output coincide, otherwise the outer edges do. 16-bit floats are rounded once at the end. Linear and cubic
    modes and "area" take floats, the others any dtype. Gradients flow through all modes. `antialias=True` is not
    implemented.

    Raises: ValueError for options that contradict each other; ShapeError for sizes that do not fit; DTypeError.

    >>> torsh.nn.functional.interpolate(torsh.tensor([[[1.0, 3.0]]]), scale_factor=2, mode="linear").tolist()
    [[[1.0, 1.5, 2.5, 3.0]]]
    """
    x = tensor_arg(input, "interpolate")
    if mode not in _MODES:
        raise NotImplementedError(f"interpolate(): mode must be one of {', '.join(_MODES)}, got {mode!r}")
    if bool_arg(antialias, "interpolate", "antialias"):
        raise NotImplementedError("interpolate(): antialias=True is not implemented; average before you shrink")
    if align_corners is not None and mode not in _ALIGNED:
        raise ValueError(
            "interpolate(): align_corners option can only be set with the interpolating modes: linear | bilinear | "
            "bicubic | trilinear"
        )
    n = x.ndim - 2
    if not 1 <= n <= 3 or _MODES[mode] not in (None, n):
        want = "3, 4 or 5" if _MODES[mode] is None else str(_MODES[mode] + 2)
        raise ShapeError(f"interpolate(): mode {mode!r} needs an input of {want} dims, got shape {list(x.shape)}")
    if mode not in ("nearest", "nearest-exact") and not is_float(x):
        raise DTypeError(f"interpolate(): mode {mode!r} expects a floating point dtype, got {x.dtype.name}")
    out, factors = _sizes(x, size, scale_factor, recompute_scale_factor)
    if mode == "area":
        return _adaptive_avg(x, out, n, "interpolate")
    kind = "linear" if mode in ("bilinear", "trilinear") else mode
    double = x.dtype == _C.float64

    def resized(y):
        for d in range(n):
            taps = _taps(kind, x.shape[d + 2], out[d], factors[d], bool(align_corners), double)
            y = _along(y, d + 2, taps)
        return y

    return resized(x) if kind in ("nearest", "nearest-exact") else rounded_once(resized, x)


def upsample(input, size=None, scale_factor=None, mode: str = "nearest", align_corners=None) -> Tensor:
    """The older name of `interpolate`.

    >>> torsh.nn.functional.upsample(torsh.tensor([[[1, 2]]]), scale_factor=2).tolist()
    [[[1, 1, 2, 2]]]
    """
    return interpolate(input, size, scale_factor, mode, align_corners)
