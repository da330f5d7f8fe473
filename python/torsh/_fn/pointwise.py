"""Elementwise functions that take more than the registry's generic arguments."""

from __future__ import annotations

from torsh import _C

from ._args import DTypeError, Tensor, int_range, is_float, number_arg, rounded_once, tensor_arg, to_float


def where(condition, input=None, other=None):
    """`input` where `condition` holds, else `other`; all three broadcast, dtypes promote. With one argument:
    `nonzero(condition, as_tuple=True)`.

    >>> torsh.where(torsh.tensor([True, False]), 1.0, 2.0).tolist()
    [1.0, 2.0]
    """
    c = tensor_arg(condition, "where", "condition")
    if input is None and other is None:
        from .indexing import nonzero

        return nonzero(c, as_tuple=True)
    if input is None or other is None:
        raise TypeError("where(): input and other must be given together")
    return _C.where(c, input, other)


def _bound(v, x: Tensor, name: str):
    if v is None or isinstance(v, Tensor):
        return v
    return number_arg(v, "clamp", name)


def _saturated(v, x: Tensor):
    lo, hi = int_range(x)
    return lo if v <= lo else hi if v >= hi else v


def clamp(input, min=None, max=None) -> Tensor:
    """Limits values to `[min, max]`; NaN stays NaN; where min > max the result is max.

    >>> torsh.clamp(torsh.tensor([-1., 5.]), 0, 3).tolist()
    [0.0, 3.0]
    """
    x = tensor_arg(input, "clamp")
    lo, hi = _bound(min, x, "min"), _bound(max, x, "max")
    if lo is None and hi is None:
        raise ValueError("clamp(): At least one of 'min' or 'max' must not be None")
    if not isinstance(lo, Tensor) and not isinstance(hi, Tensor):
        x = _C.cast(x, _C.result_type(x, *(v for v in (lo, hi) if v is not None)))
        lo, hi = float("-inf") if lo is None else lo, float("inf") if hi is None else hi
        if not is_float(x):
            lo, hi = (_saturated(v, x) for v in (lo, hi))
        return _C.apply("clamp", (x,), (lo, hi))
    for name, bound in (("maximum", lo), ("minimum", hi)):
        if isinstance(bound, int) and not is_float(x) and x.dtype != _C.bool:
            bound = _saturated(bound, x)
        x = x if bound is None else _C.binary(name, x, bound)
    return x


clip = clamp


def clamp_min(input, min) -> Tensor:
    """`clamp(input, min=min)`."""
    return clamp(input, min=min)


def clamp_max(input, max) -> Tensor:
    """`clamp(input, max=max)`."""
    return clamp(input, max=max)


def _sum(fn: str, input, other, alpha) -> Tensor:
    """`input + alpha * other` or `input - alpha * other`, computed in the dtype of the result."""
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        tensor_arg(input, fn)
    if type(alpha) is int and alpha == 1 or fn == "sub" and (_is_bool(input) or _is_bool(other)):
        # That a bool is subtracted is refused there.
        return _C.binary(fn, input, other)
    dtype = _C.result_type(input, other)
    if isinstance(alpha, bool) and dtype.name != "bool":
        raise RuntimeError(f"{fn}(): a bool alpha is only for bool results, this one is {dtype.name}")
    if isinstance(alpha, float) and not dtype.is_floating_point:
        raise RuntimeError(f"{fn}(): alpha must not be a float where the result is {dtype.name}")
    if dtype.name == "bool":
        counts = bool(alpha)
        return _C.binary(fn, input, other & counts if isinstance(other, Tensor) else other and counts)
    if dtype.is_floating_point and dtype.itemsize == 2:
        # All three are rounded to the dtype, as any operand is, but what is computed of them once, at the end.
        device = (input if isinstance(input, Tensor) else other).device
        x, y, scale = (_widened(v, dtype, device) for v in (input, other, alpha))
        return _C.cast(_C.binary(fn, x, _C.binary("mul", y, scale)), dtype)
    if isinstance(other, Tensor):
        product = _C.binary("mul", _C.cast(other, dtype), alpha)
    else:
        product = _product(other, alpha, dtype)
    return _C.binary(fn, input, product)


def _widened(x, dtype, device) -> Tensor:
    """`x`, rounded to a 16-bit float dtype, in float32."""
    return _C.cast(_C.cast(x, dtype) if isinstance(x, Tensor) else _C.full([], x, dtype, device), _C.float32)


def _is_bool(x) -> bool:
    return x.dtype == _C.bool if isinstance(x, Tensor) else isinstance(x, bool)


def _product(other, alpha, dtype):
    """`alpha * other` of a number."""
    product = other * alpha
    if not isinstance(product, int) or dtype.is_floating_point:
        return product
    # As the product of two tensors it wraps, where both factors are numbers that may stand beside the dtype.
    size, low = 1 << 8 * dtype.itemsize, 0 if dtype.name == "uint8" else -(1 << 8 * dtype.itemsize - 1)
    if all((low or -size) <= x < size + low for x in (other, alpha)):
        product = (product - low) % size + low
    return product


def add(input, other, *, alpha=1) -> Tensor:
    """`input + alpha * other`."""
    return _sum("add", input, other, alpha)


def sub(input, other, *, alpha=1) -> Tensor:
    """`input - alpha * other`."""
    return _sum("sub", input, other, alpha)


subtract = sub


def rsub(input, other, *, alpha=1) -> Tensor:
    """`other - alpha * input`."""
    return sub(other, input, alpha=alpha)


def div(input, other, *, rounding_mode=None) -> Tensor:
    """Quotient; `rounding_mode` "trunc" or "floor" rounds it. Ints divide to float32.

    >>> torsh.div(torsh.tensor([7]), 2, rounding_mode="floor").tolist()
    [3]
    """
    if rounding_mode is None:
        return _C.binary("div", input, other)
    if rounding_mode == "floor":
        return _C.binary("floor_divide", input, other)
    if rounding_mode == "trunc":
        dtype = _C.result_type(input, other)
        if dtype.is_floating_point:
            return _C.unary("trunc", _C.binary("div", input, other))
        q, r = _C.binary("floor_divide", input, other), _C.binary("remainder", input, other)
        # Floor and truncation differ by one where the quotient is negative and not whole.
        negative = (q < 0) & (r != 0)
        return q + _C.cast(negative, q.dtype)
    raise RuntimeError(f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found {rounding_mode!r}")


divide = div


def true_divide(input, other) -> Tensor:
    """See `div`."""
    return _C.binary("div", input, other)


def round(input, *, decimals: int = 0) -> Tensor:
    """Rounds to nearest, ties to even, at `decimals` digits."""
    x = tensor_arg(input, "round")
    if decimals == 0 or not is_float(x):
        return _C.unary("round", x)
    scale = 10.0 ** abs(decimals)
    return _C.unary("round", x * scale) / scale if decimals > 0 else _C.unary("round", x / scale) * scale


def _bool(x, fn: str) -> Tensor:
    return _C.cast(tensor_arg(x, fn), _C.bool)


def logical_and(input, other) -> Tensor:
    """`bool(a) and bool(b)`, elementwise."""
    return _C.binary("bitwise_and", _bool(input, "logical_and"), _bool(other, "logical_and"))


def logical_or(input, other) -> Tensor:
    """`bool(a) or bool(b)`, elementwise."""
    return _C.binary("bitwise_or", _bool(input, "logical_or"), _bool(other, "logical_or"))


def logical_xor(input, other) -> Tensor:
    """`bool(a) != bool(b)`, elementwise."""
    return _C.binary("bitwise_xor", _bool(input, "logical_xor"), _bool(other, "logical_xor"))


def logical_not(input) -> Tensor:
    """`not bool(a)`, elementwise."""
    return _C.unary("bitwise_not", _bool(input, "logical_not"))


def _scale(value):
    return lambda x: x if isinstance(value, (int, float)) and value == 1 else _C.binary("mul", x, value)


def addcmul(input, tensor1, tensor2, *, value=1) -> Tensor:
    """`input + value * tensor1 * tensor2`."""
    tensor_arg(input, "addcmul")
    scaled = _scale(value)
    return rounded_once(lambda x, a, b: _C.binary("add", x, _C.binary("mul", scaled(a), b)), input, tensor1, tensor2)


def addcdiv(input, tensor1, tensor2, *, value=1) -> Tensor:
    """`input + value * tensor1 / tensor2`."""
    tensor_arg(input, "addcdiv")
    scaled = _scale(value)
    return rounded_once(lambda x, a, b: _C.binary("add", x, _C.binary("div", scaled(a), b)), input, tensor1, tensor2)


def lerp(input, end, weight) -> Tensor:
    """`input + weight * (end - input)`."""
    x = tensor_arg(input, "lerp")
    if not is_float(x):
        raise DTypeError(f"lerp(): expected a floating point dtype, got {x.dtype.name}")
    end = tensor_arg(end, "lerp", "end")
    if end.dtype != x.dtype:
        raise DTypeError(f"lerp(): expected dtype {x.dtype.name} for `end` but got dtype {end.dtype.name}")
    from .shape import broadcast_tensors

    def between(x, end, weight):
        if not isinstance(weight, Tensor):
            weight = _C.full([], number_arg(weight, "lerp", "weight"), x.dtype, x.device)
        return _C.apply("lerp", broadcast_tensors(x, end, _C.cast(weight, x.dtype)), ())

    # A number keeps its digits beside 16-bit floats.
    return rounded_once(between, x, end, weight)


def nan_to_num(input, nan=0.0, posinf=None, neginf=None) -> Tensor:
    """Replaces NaN and infinities, by default with 0 and the dtype's extremes."""
    x = tensor_arg(input, "nan_to_num")
    if not is_float(x):
        return _C.clone(x)
    big = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}.get(
        x.dtype.name, 1.7976931348623157e308
    )
    given = zip((nan, posinf, neginf), (0.0, big, -big), ("nan", "posinf", "neginf"), strict=True)
    attrs = tuple(d if v is None else float(number_arg(v, "nan_to_num", name)) for v, d, name in given)
    return _C.apply("nan_to_num", (x,), attrs)


def isclose(input, other, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """`|a - b| <= atol + rtol * |b|`; equal infinities are close."""
    a, b = tensor_arg(input, "isclose"), tensor_arg(other, "isclose", "other")
    close = a == b
    if equal_nan and (is_float(a) or is_float(b)):
        close = close | ((a != a) & (b != b))
    if not (is_float(a) or is_float(b)):
        a, b = _C.cast(a, _C.float64), _C.cast(b, _C.float64)
    diff, bound = (a - b).abs(), atol + rtol * b.abs()
    return close | ((diff <= bound) & (diff < float("inf")) & (bound < float("inf")))


def allclose(input, other, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close, see `isclose`."""
    return bool(isclose(input, other, rtol, atol, equal_nan).all())


def equal(input, other) -> bool:
    """Whether shapes and all elements are equal."""
    a, b = tensor_arg(input, "equal"), tensor_arg(other, "equal", "other")
    return a.shape == b.shape and bool((a == b).all())


def float_power(input, exponent) -> Tensor:
    """Power in float64."""
    x = _C.cast(input, _C.float64) if isinstance(input, Tensor) else float(input)
    e = _C.cast(exponent, _C.float64) if isinstance(exponent, Tensor) else float(exponent)
    return _C.binary("pow", x, e)


def sinc(input) -> Tensor:
    """`sin(pi x) / (pi x)`, 1 at 0."""
    x = to_float(tensor_arg(input, "sinc")) * 3.141592653589793
    zero = x == 0
    return _C.where(zero, 1.0, _C.unary("sin", x) / _C.where(zero, 1.0, x))


def positive(input) -> Tensor:
    """`+x`."""
    return tensor_arg(input, "positive")


def heaviside(input, values) -> Tensor:
    """0 for negative, 1 for positive numbers, `values` at 0."""
    x = tensor_arg(input, "heaviside")
    return _C.where(x == 0, values, _C.cast(x > 0, x.dtype))
