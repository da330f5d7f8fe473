"""Sorting and selection."""

from __future__ import annotations

from collections import namedtuple

from torsh import _C

from ._args import Tensor, dim_arg, int_arg, tensor_arg

sort_result = namedtuple("sort", ["values", "indices"])
topk_result = namedtuple("topk", ["values", "indices"])
kthvalue_result = namedtuple("kthvalue", ["values", "indices"])


def argsort(input, dim: int = -1, descending: bool = False, *, stable: bool = True) -> Tensor:
    """The order that sorts along `dim`; always stable; NaN counts as the largest.

    >>> torsh.argsort(torsh.tensor([3, 1, 2])).tolist()
    [1, 2, 0]
    """
    x = tensor_arg(input, "argsort")
    d = dim_arg(dim, x.ndim, "argsort")
    if x.ndim == 0:
        return _C.full([], 0, _C.int64, x.device)
    return _C.apply("argsort", (x,), (d, bool(descending)))


def sort(input, dim: int = -1, descending: bool = False, *, stable: bool = True):
    """(sorted values, indices) along `dim`; always stable; NaN counts as the largest.

    >>> torsh.sort(torsh.tensor([3, 1, 2])).values.tolist()
    [1, 2, 3]
    """
    x = tensor_arg(input, "sort")
    d = dim_arg(dim, x.ndim, "sort")
    index = argsort(x, d, descending)
    if x.ndim == 0:
        return sort_result(_C.clone(x), index)
    return sort_result(_C.apply("gather", (x, index), (d,)), index)


def topk(input, k, dim: int = -1, largest: bool = True, sorted: bool = True):
    """The k largest (or smallest) entries along `dim`, in order.

    >>> torsh.topk(torsh.tensor([3., 9., 4.]), 2).values.tolist()
    [9.0, 4.0]
    """
    x = tensor_arg(input, "topk")
    d = dim_arg(dim, x.ndim, "topk")
    k = int_arg(k, "topk", "k")
    n = x.shape[d] if x.ndim else 1
    if not 0 <= k <= n:
        raise RuntimeError(f"topk(): selected index k out of range: k={k}, size {n} at dimension {d}")
    if x.ndim == 0:
        return topk_result(_C.clone(x), _C.full([], 0, _C.int64, x.device))
    index = argsort(x, d, largest).narrow(d, 0, k)
    return topk_result(_C.apply("gather", (x, index), (d,)), index)


def kthvalue(input, k, dim: int = -1, keepdim: bool = False):
    """The k-th smallest entry (from 1) along `dim`."""
    x = tensor_arg(input, "kthvalue")
    d = dim_arg(dim, x.ndim, "kthvalue")
    k = int_arg(k, "kthvalue", "k")
    n = x.shape[d] if x.ndim else 1
    if not 1 <= k <= n:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {d}: k={k}, size {n}")
    if x.ndim == 0:
        return kthvalue_result(_C.clone(x), _C.full([], 0, _C.int64, x.device))
    index = argsort(x, d).narrow(d, k - 1, 1)
    values = _C.apply("gather", (x, index), (d,))
    if not keepdim:
        values, index = values.squeeze(d), index.squeeze(d)
    return kthvalue_result(values, index)
