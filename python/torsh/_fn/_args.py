"""Argument checking shared by the function modules: every refusal names the function, what came and what
was expected, in the exception class that PyTorch users expect."""

from __future__ import annotations

import operator

from torsh import _C

Tensor = _C.Tensor
ShapeError = _C.ShapeError
DTypeError = _C.DTypeError


def tensor_arg(x, fn: str, name: str = "input") -> Tensor:
    """`x`, which must be a Tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{fn}(): argument '{name}' must be Tensor, not {type(x).__name__}")
    return x


def int_arg(x, fn: str, name: str) -> int:
    """`x` as an int; bools, floats and strings are refused."""
    if isinstance(x, bool):
        raise TypeError(f"{fn}(): argument '{name}' must be int, not bool")
    try:
        return operator.index(x)
    except TypeError:
        raise TypeError(f"{fn}(): argument '{name}' must be int, not {type(x).__name__}") from None


def number_arg(x, fn: str, name: str):
    """A Python number (a 0-d tensor counts as its value)."""
    if isinstance(x, (bool, int, float)):
        return x
    if isinstance(x, Tensor) and x.ndim == 0:
        return x.item()
    try:
        return operator.index(x)
    except TypeError:
        pass
    if hasattr(x, "__float__"):
        return float(x)
    raise TypeError(f"{fn}(): argument '{name}' must be Number, not {type(x).__name__}")


def bool_arg(x, fn: str, name: str) -> bool:
    """`x`, which must be a bool."""
    if not isinstance(x, (bool, int)):
        raise TypeError(f"{fn}(): argument '{name}' must be bool, not {type(x).__name__}")
    return bool(x)


def dim_arg(dim, ndim: int, fn: str, name: str = "dim") -> int:
    """A dim counted from either end, as 0 <= dim < max(ndim, 1)."""
    d = int_arg(dim, fn, name)
    n = max(ndim, 1)
    if not -n <= d < n:
        raise IndexError(f"{fn}(): Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {d})")
    return d + n if d < 0 else d


def dims_arg(dim, ndim: int, fn: str, name: str = "dim") -> list[int]:
    """One dim, a list of dims or None (all), sorted and distinct."""
    if dim is None:
        return list(range(ndim))
    if isinstance(dim, (list, tuple)):
        if not dim:
            return list(range(ndim))
        dims = [dim_arg(d, ndim, fn, name) for d in dim]
        if len(set(dims)) != len(dims):
            raise RuntimeError(f"{fn}(): dim {dim} appears multiple times in the list of dims")
    else:
        dims = [dim_arg(dim, ndim, fn, name)]
    return sorted(d for d in dims if d < ndim)


def sizes_arg(sizes, fn: str, name: str = "size", allow_minus_one: bool = False) -> list[int]:
    """Sizes given as ints or as one list; negative ones are refused (but for -1 where it is inferred)."""
    if len(sizes) == 1 and isinstance(sizes[0], (list, tuple)):
        sizes = sizes[0]
    out = []
    for s in sizes:
        s = int_arg(s, fn, name)
        if s < 0 and not (allow_minus_one and s == -1):
            raise ShapeError(f"{fn}(): negative size {s} in {name}={list(sizes)}; sizes must be >= 0")
        out.append(s)
    return out


def is_float(x: Tensor) -> bool:
    """True for the four float dtypes."""
    return x.dtype.is_floating_point


def require_float(x: Tensor, fn: str) -> Tensor:
    """Refuses integer and bool tensors where PyTorch does."""
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{fn}(): expected a floating point dtype, got {x.dtype.name}; convert first, as in x.float()")
    return x


def to_float(x: Tensor) -> Tensor:
    """Integer and bool tensors in the default float dtype; floats as they are."""
    return x if x.dtype.is_floating_point else _C.cast(x, _C.float32)


def rounded_once(fn, *operands) -> Tensor:
    """`fn(*operands)`. Where the operands promote to a 16-bit float dtype, it is computed in float32 and rounded to
    that dtype at the end, as PyTorch's kernels do."""
    dtype = _C.result_type(*operands)
    if not (dtype.is_floating_point and dtype.itemsize == 2):
        return fn(*operands)
    wide = [_C.cast(x, _C.float32) if isinstance(x, Tensor) else x for x in operands]
    return _C.cast(fn(*wide), dtype)


def store(x: Tensor, value: Tensor) -> Tensor:
    """Writes a result into `x`, as in-place methods and `out=` do; refuses to narrow its kind (float to int).

    Raises: RuntimeError for a dtype that cannot be cast, ShapeError for a shape that does not broadcast to x's,
    DeviceError for a result on another device.
    """
    if value.dtype != x.dtype and not _C.can_cast(value.dtype, x.dtype):
        raise RuntimeError(f"result type {value.dtype.name} can't be cast to the desired output type {x.dtype.name}")
    return _C.assign(x, value, True)


def int_range(x: Tensor) -> tuple[int, int]:
    """The smallest and largest value of an integer tensor's dtype."""
    bits = 8 * x.dtype.itemsize
    if x.dtype.name == "uint8":
        return 0, 255
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
