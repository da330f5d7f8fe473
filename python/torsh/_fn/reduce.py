"""Reductions and scans."""

from __future__ import annotations

from collections import namedtuple

from torsh import _C

from ._args import (
    DTypeError,
    Tensor,
    dim_arg,
    dims_arg,
    is_float,
    number_arg,
    require_float,
    tensor_arg,
    to_float,
)

_VI = ["values", "indices"]
max_result = namedtuple("max", _VI)
min_result = namedtuple("min", _VI)
median_result = namedtuple("median", _VI)
cummax_result = namedtuple("cummax", _VI)
cummin_result = namedtuple("cummin", _VI)


def _drop(y: Tensor, dims, keepdim: bool) -> Tensor:
    if keepdim or not dims:
        return y
    gone = set(dims)
    return _C.view("reshape", y, ([s for i, s in enumerate(y.shape) if i not in gone],))


def _fold(op: str, x: Tensor, dims: list[int], keepdim: bool, *attrs) -> Tensor:
    if x.ndim == 0 or not dims:
        if not attrs:
            return _C.clone(x)
        x = x.reshape(1)
        return _C.apply(op, (x,), ([0], *attrs)).reshape([])
    return _drop(_C.apply(op, (x,), (dims, *attrs)), dims, keepdim)


def _sum_input(x: Tensor, dtype) -> Tensor:
    if dtype is not None:
        return _C.cast(x, _C.PyDType(dtype))
    return x if is_float(x) else _C.cast(x, _C.int64)


def sum(input, dim=None, keepdim: bool = False, *, dtype=None) -> Tensor:
    """Sum over `dim` (an int, several or None for all). Ints and bools sum to int64; floats accumulate in
    float64 and round once.

    >>> torsh.sum(torsh.tensor([[1., 2.], [3., 4.]]), dim=0).tolist()
    [4.0, 6.0]
    """
    x = _sum_input(tensor_arg(input, "sum"), dtype)
    return _fold("sum", x, dims_arg(dim, x.ndim, "sum"), keepdim)


def nansum(input, dim=None, keepdim: bool = False, *, dtype=None) -> Tensor:
    """Sum that counts NaN as zero."""
    x = tensor_arg(input, "nansum")
    if is_float(x):
        x = _C.where(x != x, 0.0, x)
    return sum(x, dim, keepdim, dtype=dtype)


def prod(input, dim=None, keepdim: bool = False, *, dtype=None) -> Tensor:
    """Product over `dim` (one int, or None for all)."""
    x = _sum_input(tensor_arg(input, "prod"), dtype)
    dims = dims_arg(None, x.ndim, "prod") if dim is None else [d for d in [dim_arg(dim, x.ndim, "prod")] if x.ndim]
    return _fold("prod", x, dims, keepdim)


def mean(input, dim=None, keepdim: bool = False, *, dtype=None) -> Tensor:
    """Arithmetic mean over `dim`; needs a float dtype. The mean of nothing is NaN.

    >>> torsh.mean(torsh.tensor([1., 2., 3.])).item()
    2.0
    """
    x = tensor_arg(input, "mean")
    if dtype is not None:
        x = _C.cast(x, _C.PyDType(dtype))
    if not is_float(x):
        raise DTypeError(
            f"mean(): could not infer output dtype. Input dtype must be floating point. Got: {x.dtype.name}; "
            "convert first, as in x.float().mean()"
        )
    return _fold("mean", x, dims_arg(dim, x.ndim, "mean"), keepdim)


def nanmean(input, dim=None, keepdim: bool = False, *, dtype=None) -> Tensor:
    """Mean of the elements that are not NaN."""
    x = require_float(tensor_arg(input, "nanmean"), "nanmean")
    return nansum(x, dim, keepdim, dtype=dtype) / sum(_C.cast(x == x, x.dtype), dim, keepdim)


def _correction(dim, unbiased, correction, fn):
    # torch.var(x, True) means unbiased=True.
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise TypeError(f"{fn}(): give either unbiased or correction, not both")
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    return dim, int(number_arg(correction, fn, "correction"))


def var(input, dim=None, unbiased=None, keepdim: bool = False, *, correction=None) -> Tensor:
    """Variance over `dim`, divided by `n - correction` (1 by default), in two passes.

    >>> torsh.var(torsh.tensor([1., 2., 3.])).item()
    1.0
    """
    x = require_float(tensor_arg(input, "var"), "var")
    dim, correction = _correction(dim, unbiased, correction, "var")
    return _fold("var", x, dims_arg(dim, x.ndim, "var"), keepdim, correction)


def std(input, dim=None, unbiased=None, keepdim: bool = False, *, correction=None) -> Tensor:
    """Square root of the variance."""
    x = require_float(tensor_arg(input, "std"), "std")
    dim, correction = _correction(dim, unbiased, correction, "std")
    return _fold("std", x, dims_arg(dim, x.ndim, "std"), keepdim, correction)


def var_mean(input, dim=None, unbiased=None, keepdim: bool = False, *, correction=None):
    """(variance, mean)."""
    d, c = _correction(dim, unbiased, correction, "var_mean")
    return var(input, d, keepdim=keepdim, correction=c), mean(input, d, keepdim)


def std_mean(input, dim=None, unbiased=None, keepdim: bool = False, *, correction=None):
    """(standard deviation, mean)."""
    d, c = _correction(dim, unbiased, correction, "std_mean")
    return std(input, d, keepdim=keepdim, correction=c), mean(input, d, keepdim)


def _nonempty(x: Tensor, dims, fn: str) -> None:
    for d in dims:
        if x.ndim and x.shape[d] == 0:
            raise IndexError(f"{fn}(): Expected reduction dim {d} to have non-zero size, got shape {list(x.shape)}")


def amax(input, dim=None, keepdim: bool = False) -> Tensor:
    """Maximum over `dim`; NaN wins; gradients are shared evenly among ties."""
    x = tensor_arg(input, "amax")
    dims = dims_arg(dim, x.ndim, "amax")
    _nonempty(x, dims, "amax")
    return _fold("amax", x, dims, keepdim)


def amin(input, dim=None, keepdim: bool = False) -> Tensor:
    """Minimum over `dim`; NaN wins; gradients are shared evenly among ties."""
    x = tensor_arg(input, "amin")
    dims = dims_arg(dim, x.ndim, "amin")
    _nonempty(x, dims, "amin")
    return _fold("amin", x, dims, keepdim)


def aminmax(input, *, dim=None, keepdim: bool = False):
    """(minimum, maximum)."""
    return amin(input, dim, keepdim), amax(input, dim, keepdim)


def _arg(op: str, input, dim, keepdim: bool) -> Tensor:
    x = tensor_arg(input, op)
    if dim is None:
        _nonempty(x, range(x.ndim), op)
        flat = _C.apply(op, (x.reshape(-1),), ([0],))
        return flat.reshape([1] * x.ndim if keepdim else [])
    d = dim_arg(dim, x.ndim, op)
    if x.ndim == 0:
        return _C.full([], 0, _C.int64, x.device)
    _nonempty(x, [d], op)
    return _drop(_C.apply(op, (x,), ([d],)), [d], keepdim)


def argmax(input, dim=None, keepdim: bool = False) -> Tensor:
    """Index of the first maximum along `dim`, or in the flattened tensor.

    >>> torsh.argmax(torsh.tensor([1, 5, 3])).item()
    1
    """
    return _arg("argmax", input, dim, keepdim)


def argmin(input, dim=None, keepdim: bool = False) -> Tensor:
    """Index of the first minimum along `dim`, or in the flattened tensor."""
    return _arg("argmin", input, dim, keepdim)


def _extreme(arg_op, cls, pairwise, amm, input, args, kwargs):
    fn = cls.__name__
    x = tensor_arg(input, fn)
    other = kwargs.pop("other", None)
    if args and isinstance(args[0], Tensor):
        other, args = args[0], args[1:]
    if other is not None:
        if args or kwargs:
            raise TypeError(f"{fn}(): with `other` no further arguments are taken")
        return _C.binary(pairwise, x, other)
    names = ["dim", "keepdim"]
    for name, value in zip(names, args, strict=False):
        kwargs.setdefault(name, value)
    dim, keepdim = kwargs.pop("dim", None), kwargs.pop("keepdim", False)
    if kwargs or len(args) > 2:
        raise TypeError(f"{fn}() got unexpected arguments {list(kwargs) or args[2:]}")
    if dim is None:
        return amm(x)
    d = dim_arg(dim, x.ndim, fn)
    if x.ndim == 0:
        return cls(_C.clone(x), _C.full([], 0, _C.int64, x.device))
    _nonempty(x, [d], fn)
    index = _C.apply(arg_op, (x,), ([d],))
    values = _C.apply("gather", (x, index), (d,))
    return cls(_drop(values, [d], keepdim), _drop(index, [d], keepdim))


def max(input, *args, **kwargs):
    """`max(x)`: the largest element. `max(x, dim, keepdim)`: (values, indices) along a dim.
    `max(x, other)`: elementwise maximum.

    >>> torsh.max(torsh.tensor([[1, 9], [4, 2]]), dim=1).values.tolist()
    [9, 4]
    """
    return _extreme("argmax", max_result, "maximum", amax, input, args, kwargs)


def min(input, *args, **kwargs):
    """See `max`."""
    return _extreme("argmin", min_result, "minimum", amin, input, args, kwargs)


def any(input, dim=None, keepdim: bool = False) -> Tensor:
    """Whether any element is nonzero, as bool."""
    x = _C.cast(tensor_arg(input, "any"), _C.bool)
    return _fold("any", x, dims_arg(dim, x.ndim, "any"), keepdim)


def all(input, dim=None, keepdim: bool = False) -> Tensor:
    """Whether all elements are nonzero, as bool."""
    x = _C.cast(tensor_arg(input, "all"), _C.bool)
    return _fold("all", x, dims_arg(dim, x.ndim, "all"), keepdim)


def count_nonzero(input, dim=None) -> Tensor:
    """How many elements differ from zero, as int64."""
    return sum(tensor_arg(input, "count_nonzero") != 0, dim)


def logsumexp(input, dim, keepdim: bool = False) -> Tensor:
    """`log(sum(exp(x)))` without overflow."""
    x = to_float(tensor_arg(input, "logsumexp"))
    return _fold("logsumexp", x, dims_arg(dim, x.ndim, "logsumexp"), keepdim)


def norm(input, p="fro", dim=None, keepdim: bool = False, *, dtype=None) -> Tensor:
    """Vector norm `sum(|x|^p)^(1/p)` over `dim`; "fro" is p = 2, inf and -inf are the extremes.

    >>> torsh.norm(torsh.tensor([3., 4.])).item()
    5.0
    """
    x = tensor_arg(input, "norm")
    if dtype is not None:
        x = _C.cast(x, _C.PyDType(dtype))
    require_float(x, "norm")
    if p == "fro" or p is None:
        p = 2.0
    if isinstance(p, str):
        raise ValueError(f"norm(): p must be a number, inf, -inf or 'fro', got {p!r}")
    p = float(number_arg(p, "norm", "p"))
    if p == float("inf"):
        return amax(x.abs(), dim, keepdim)
    if p == float("-inf"):
        return amin(x.abs(), dim, keepdim)
    if p == 0:
        return sum(_C.cast(x != 0, x.dtype), dim, keepdim)
    if p == 1:
        return sum(x.abs(), dim, keepdim)
    if p == 2:
        return _safe_sqrt(sum(x * x, dim, keepdim))
    return sum(x.abs() ** p, dim, keepdim) ** (1.0 / p)


def _safe_sqrt(s: Tensor) -> Tensor:
    # The subgradient at the origin is 0, not inf * 0.
    zero = s == 0
    return _C.where(zero, _C.cast(zero, s.dtype) * 0, _C.where(zero, 1.0, s).sqrt())


def _scan(op: str, input, dim, dtype=None) -> Tensor:
    x = tensor_arg(input, op)
    d = dim_arg(dim, x.ndim, op)
    if op in ("cumsum", "cumprod"):
        x = _sum_input(x, dtype)
    if x.ndim == 0:
        return _C.clone(x)
    return _C.apply(op, (x,), (d,))


def cumsum(input, dim, *, dtype=None) -> Tensor:
    """Running sums along `dim`.

    >>> torsh.cumsum(torsh.tensor([1, 2, 3]), 0).tolist()
    [1, 3, 6]
    """
    return _scan("cumsum", input, dim, dtype)


def cumprod(input, dim, *, dtype=None) -> Tensor:
    """Running products along `dim`."""
    return _scan("cumprod", input, dim, dtype)


def _cum_extreme(op: str, cls, input, dim):
    x = tensor_arg(input, op)
    d = dim_arg(dim, x.ndim, op)
    if x.ndim == 0:
        return cls(_C.clone(x), _C.full([], 0, _C.int64, x.device))
    values = _C.apply(op, (x,), (d,))
    # The index of the last element that equals the running extreme (a NaN equals a NaN).
    pos = _C.apply("iota", (), (d, _C.int64, list(x.shape)), x.device)
    hit = x == values
    if is_float(x):
        hit = hit | ((x != x) & (values != values))
    index = _C.apply("cummax", (_C.where(hit, pos, -1),), (d,))
    return cls(values, index)


def cummax(input, dim):
    """Running (maximum, index of its last occurrence) along `dim`."""
    return _cum_extreme("cummax", cummax_result, input, dim)


def cummin(input, dim):
    """Running (minimum, index of its last occurrence) along `dim`."""
    return _cum_extreme("cummin", cummin_result, input, dim)


def median(input, dim=None, keepdim: bool = False):
    """The lower median: of all elements, or (values, indices) along `dim`."""
    from . import sorting

    x = tensor_arg(input, "median")
    if dim is None:
        _nonempty(x, range(x.ndim), "median")
        flat = x.reshape(-1)
        v = sorting.sort(flat).values[(flat.shape[0] - 1) // 2]
        return _C.where(any(flat != flat), float("nan"), v) if is_float(x) else v
    d = dim_arg(dim, x.ndim, "median")
    if x.ndim == 0:
        return median_result(_C.clone(x), _C.full([], 0, _C.int64, x.device))
    _nonempty(x, [d], "median")
    order = sorting.argsort(x, d, stable=True)
    n = x.shape[d]
    if is_float(x):
        # A NaN anywhere in the row makes the median that NaN; NaN sorts last.
        bad = any(x != x, d, True)
        pos = _C.where(bad, n - 1, (n - 1) // 2)
        index = _C.apply("gather", (order, pos), (d,))
    else:
        index = order.narrow(d, (n - 1) // 2, 1)
    values = _C.apply("gather", (x, index), (d,))
    return median_result(_drop(values, [d], keepdim), _drop(index, [d], keepdim))


__all__ = [
    n
    for n, v in list(globals().items())
    if callable(v) and getattr(v, "__module__", "") == __name__ and n[0] != "_" and not n.endswith("_result")
]
