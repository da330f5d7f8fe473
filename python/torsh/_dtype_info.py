"""`torsh.finfo` and `torsh.iinfo`."""

from __future__ import annotations

from collections import namedtuple

from torsh import _C

Finfo = namedtuple("finfo", ["bits", "eps", "max", "min", "tiny", "smallest_normal", "resolution", "dtype"])
Iinfo = namedtuple("iinfo", ["bits", "max", "min", "dtype"])

_FLOATS = {
    "float16": (16, 2.0**-10, 65504.0, 2.0**-14, 1e-3),
    "bfloat16": (16, 2.0**-7, 3.3895313892515355e38, 2.0**-126, 1e-2),
    "float32": (32, 2.0**-23, 3.4028234663852886e38, 2.0**-126, 1e-6),
    "float64": (64, 2.0**-52, 1.7976931348623157e308, 2.0**-1022, 1e-15),
}


def finfo(dtype=None) -> Finfo:
    """Limits of a float dtype.

    >>> torsh.finfo(torsh.float32).eps
    1.1920928955078125e-07
    """
    d = _C.PyDType(_C.float32 if dtype is None else dtype)
    if d.name not in _FLOATS:
        raise TypeError(f"torsh.finfo() requires a floating point input type. Use torsh.iinfo to handle {d.name!r}")
    bits, eps, big, tiny, resolution = _FLOATS[d.name]
    return Finfo(bits, eps, big, -big, tiny, tiny, resolution, d.name)


def iinfo(dtype) -> Iinfo:
    """Limits of an integer dtype.

    >>> torsh.iinfo(torsh.int8).max
    127
    """
    d = _C.PyDType(dtype)
    if d.is_floating_point or d.name == "bool":
        raise TypeError(f"torsh.iinfo() requires an integer input type. Got {d.name!r}")
    bits = 8 * d.itemsize
    signed = d.name != "uint8"
    return Iinfo(bits, 2 ** (bits - signed) - 1, -(2 ** (bits - 1)) if signed else 0, d.name)
