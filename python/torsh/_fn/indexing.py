"""Reading and writing by index tensors and masks."""

from __future__ import annotations

from torsh import _C

from ._args import DTypeError, ShapeError, Tensor, bool_arg, dim_arg, int_arg, int_range, number_arg, tensor_arg


def _index(index, fn: str) -> Tensor:
    index = tensor_arg(index, fn, "index")
    if index.dtype.name not in ("int64", "int32", "int16", "int8", "uint8"):
        raise DTypeError(f"{fn}(): Expected dtype int64 for index, got {index.dtype.name}")
    return _C.cast(index, _C.int64)


def gather(input, dim, index) -> Tensor:
    """`out[i][j] = input[index[i][j]][j]` for dim 0, and so on.

    >>> torsh.gather(torsh.tensor([[1, 2], [3, 4]]), 1, torsh.tensor([[1], [0]])).tolist()
    [[2], [3]]
    """
    x, i = tensor_arg(input, "gather"), _index(index, "gather")
    d = dim_arg(dim, x.ndim, "gather")
    _check_index_shape(x, d, i, "gather")
    if x.ndim == 0:
        return gather(x.reshape(1), 0, i.reshape(1)).reshape([])
    return _C.apply("gather", (x, i), (d,))


def _check_index_shape(x: Tensor, d: int, i: Tensor, fn: str) -> None:
    if i.ndim != x.ndim:
        raise ShapeError(
            f"{fn}(): Index tensor must have the same number of dimensions as input tensor: index {list(i.shape)}, "
            f"input {list(x.shape)}"
        )
    for k in range(x.ndim):
        if k != d and i.shape[k] > x.shape[k]:
            raise ShapeError(
                f"{fn}(): Size does not match at dimension {k}: expected index {list(i.shape)} to be no larger than "
                f"self {list(x.shape)} apart from dimension {d}"
            )


def take_along_dim(input, indices, dim=None) -> Tensor:
    """`gather` with broadcasting of the other dims."""
    tensor_arg(input, "take_along_dim")
    tensor_arg(indices, "take_along_dim", "indices")
    if dim is not None and input.ndim != indices.ndim:
        raise ShapeError(
            f"take_along_dim(): input and indices should have the same number of dimensions, got {input.ndim} and "
            f"{indices.ndim}"
        )
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    d = dim_arg(dim, input.ndim, "take_along_dim")
    from .shape import broadcast_shapes

    a, b = list(input.shape), list(indices.shape)
    a[d] = b[d] = 1
    common = list(broadcast_shapes(a, b))
    sa, sb = common.copy(), common.copy()
    sa[d], sb[d] = input.shape[d], indices.shape[d]
    return gather(input.expand(sa), d, indices.expand(sb))


def take(input, index) -> Tensor:
    """Elements of the flattened tensor."""
    x, i = tensor_arg(input, "take"), _index(index, "take")
    return _C.apply("take", (x.reshape(-1), i.reshape(-1)), (0,)).reshape(list(i.shape))


def index_select(input, dim, index) -> Tensor:
    """The entries along `dim` that a 1-d index names.

    >>> torsh.index_select(torsh.tensor([10, 20, 30]), 0, torsh.tensor([2, 0])).tolist()
    [30, 10]
    """
    x, i = tensor_arg(input, "index_select"), _index(index, "index_select")
    if i.ndim > 1:
        raise IndexError(f"index_select(): Index is supposed to be a vector, got shape {list(i.shape)}")
    d = dim_arg(dim, x.ndim, "index_select")
    i = i.reshape(-1)
    if x.ndim == 0:
        return _C.apply("take", (x.reshape(1), i), (0,)).reshape([])
    return _C.apply("take", (x, i), (d,))


def _src(x: Tensor, i: Tensor, src, fn: str, value) -> Tensor:
    if src is None:
        src = value
    if not isinstance(src, Tensor):
        return _C.full(list(i.shape), number_arg(src, fn, "value"), x.dtype, x.device)
    if src.dtype != x.dtype:
        raise DTypeError(
            f"{fn}(): Expected self.dtype to be equal to src.dtype, got {x.dtype.name} and {src.dtype.name}"
        )
    if src.shape != i.shape:
        if src.ndim != i.ndim or any(a < b for a, b in zip(src.shape, i.shape, strict=False)):
            raise ShapeError(f"{fn}(): Expected index {list(i.shape)} to be no larger than src {list(src.shape)}")
        src = src[tuple(slice(0, n) for n in i.shape)]
    return src


def _scatter(fn: str, input, dim, index, src, mode: str, value=None) -> Tensor:
    x, i = tensor_arg(input, fn), _index(index, fn)
    d = dim_arg(dim, x.ndim, fn)
    if i.numel() == 0:
        return _C.clone(x)
    _check_index_shape(x, d, i, fn)
    s = _src(x, i, src, fn, value)
    if x.ndim == 0:
        return _C.apply("scatter", (x.reshape(1), i.reshape(1), s.reshape(1)), (0, mode)).reshape([])
    return _C.apply("scatter", (x, i, s), (d, mode))


def scatter(input, dim, index, src=None, *, value=None, reduce=None) -> Tensor:
    """A copy of `input` with `out[index[i][j]][j] = src[i][j]` (dim 0); `reduce` may be "add" or "multiply"."""
    modes = {None: "set", "add": "add", "multiply": "prod"}
    if reduce not in modes:
        raise RuntimeError(f"scatter(): reduce argument must be either add or multiply, got {reduce!r}")
    return _scatter("scatter", input, dim, index, src, modes[reduce], value)


def scatter_add(input, dim, index, src) -> Tensor:
    """A copy of `input` with `src` added at the indexed places.

    >>> torsh.scatter_add(torsh.zeros(3), 0, torsh.tensor([0, 0, 2]), torsh.ones(3)).tolist()
    [2.0, 0.0, 1.0]
    """
    return _scatter("scatter_add", input, dim, index, src, "add")


def scatter_reduce(input, dim, index, src, reduce: str, *, include_self: bool = True) -> Tensor:
    """Scatter with "sum", "prod", "amax" or "amin"."""
    modes = {"sum": "add", "prod": "prod", "amax": "amax", "amin": "amin"}
    if reduce not in modes:
        raise RuntimeError(f"scatter_reduce(): reduce must be one of {sorted(modes)}, got {reduce!r}")
    if not include_self:
        x = tensor_arg(input, "scatter_reduce")
        neutral = {"sum": 0, "prod": 1}.get(reduce)
        if neutral is None:
            lo, hi = _extremes(x)
            neutral = lo if reduce == "amax" else hi
        input = _scatter("scatter_reduce", x, dim, index, None, "set", neutral)
    return _scatter("scatter_reduce", input, dim, index, src, modes[reduce])


def _extremes(x: Tensor):
    if x.dtype.is_floating_point:
        return float("-inf"), float("inf")
    return (False, True) if x.dtype.name == "bool" else int_range(x)


def _index_put(fn: str, input, dim, index, source, mode: str) -> Tensor:
    x, i = tensor_arg(input, fn), _index(index, fn).reshape(-1)
    d = dim_arg(dim, x.ndim, fn)
    s = tensor_arg(source, fn, "source")
    if s.dtype != x.dtype:
        raise DTypeError(f"{fn}(): self ({x.dtype.name}) and source ({s.dtype.name}) expected to have the same dtype")
    want = [*x.shape[:d], i.shape[0], *x.shape[d + 1 :]]
    if x.ndim == 0:
        return _C.apply("index_put", (x.reshape(1), i, s.reshape(-1)), (0, mode)).reshape([])
    if list(s.shape) != want:
        raise ShapeError(
            f"{fn}(): source must have shape {want} (self {list(x.shape)}, index {list(i.shape)}), got {list(s.shape)}"
        )
    return _C.apply("index_put", (x, i, s), (d, mode))


def index_add(input, dim, index, source, *, alpha=1) -> Tensor:
    """A copy of `input` with `alpha * source` added at the indexed entries of `dim`."""
    return _index_put("index_add", input, dim, index, source if alpha == 1 else source * alpha, "add")


def index_copy(input, dim, index, source) -> Tensor:
    """A copy of `input` with the indexed entries of `dim` replaced."""
    return _index_put("index_copy", input, dim, index, source, "set")


def index_fill(input, dim, index, value) -> Tensor:
    """A copy of `input` with a number at the indexed entries of `dim`."""
    x, i = tensor_arg(input, "index_fill"), _index(index, "index_fill").reshape(-1)
    d = dim_arg(dim, x.ndim, "index_fill")
    shape = [*x.shape[:d], i.shape[0], *x.shape[d + 1 :]]
    return _index_put(
        "index_fill", x, d, i, _C.full(shape, number_arg(value, "index_fill", "value"), x.dtype, x.device), "set"
    )


def index_put(input, indices, values, accumulate: bool = False) -> Tensor:
    """A copy of `input` with `values` written (or, with `accumulate`, added) at `input[indices]`: a tuple of index
    tensors, one for each of the first dims; None takes a dim whole.

    Raises: IndexError for an index out of range: at once where its value is known, else when the values are computed.

    >>> torsh.index_put(torsh.zeros(3), (torsh.tensor([0, 0]),), torsh.tensor(1.0), accumulate=True).tolist()
    [2.0, 0.0, 0.0]
    """
    x = _C.clone(tensor_arg(input, "index_put"))
    return _put(x, indices, values, accumulate, "index_put")


def _put(x: Tensor, indices, values, accumulate, fn: str) -> Tensor:
    if not isinstance(indices, (list, tuple)):
        raise TypeError(f"{fn}(): argument 'indices' must be tuple of Tensors, not {type(indices).__name__}")
    items = tuple(slice(None) if i is None else tensor_arg(i, fn, "indices") for i in indices)
    values = tensor_arg(values, fn, "values")
    if values.dtype != x.dtype:
        raise DTypeError(
            f"{fn}(): self ({x.dtype.name}) and values ({values.dtype.name}) expected to have the same dtype"
        )
    return _C.index_put_(x, items, values, bool_arg(accumulate, fn, "accumulate"))


def _mask(mask, fn: str) -> Tensor:
    m = tensor_arg(mask, fn, "mask")
    if m.dtype != _C.bool:
        raise DTypeError(f"{fn}(): expected a boolean mask, got {m.dtype.name}")
    return m


def masked_fill(input, mask, value) -> Tensor:
    """`value` where `mask` holds, else `input`.

    >>> torsh.masked_fill(torsh.tensor([1., 2.]), torsh.tensor([True, False]), 0).tolist()
    [0.0, 2.0]
    """
    x, m = tensor_arg(input, "masked_fill"), _mask(mask, "masked_fill")
    if isinstance(value, Tensor):
        if value.ndim != 0:
            raise RuntimeError(
                f"masked_fill only supports a 0-dimensional value tensor, but got tensor with {value.ndim} "
                "dimension(s)."
            )
        value = _C.cast(value, x.dtype)
    else:
        value = _C.full([], number_arg(value, "masked_fill", "value"), x.dtype, x.device)
    return _C.where(m, value, x)


def masked_select(input, mask) -> Tensor:
    """The elements where `mask` holds, in row-major order; its size depends on the data."""
    from .shape import broadcast_tensors

    x, m = broadcast_tensors(tensor_arg(input, "masked_select"), _mask(mask, "masked_select"))
    return x[m]


def nonzero(input, *, as_tuple: bool = False):
    """Positions of the nonzero elements, one row each; its size depends on the data.

    >>> torsh.nonzero(torsh.tensor([0, 3, 5])).tolist()
    [[1], [2]]
    """
    x = tensor_arg(input, "nonzero")
    columns = _C.nonzero(x if x.ndim else x.reshape(1))
    if as_tuple:
        return tuple(columns)
    if not x.ndim:
        return _C.full([columns[0].shape[0], 0], 0, _C.int64, x.device)
    from .shape import stack

    return stack(columns, 1)


def _tri(op: str, input, diagonal) -> Tensor:
    x = tensor_arg(input, op)
    if x.ndim < 2:
        raise RuntimeError(f"{op}: input tensor must have at least 2 dimensions, got shape {list(x.shape)}")
    return _C.apply(op, (x,), (int_arg(diagonal, op, "diagonal"),))


def tril(input, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two dims, zeros elsewhere."""
    return _tri("tril", input, diagonal)


def triu(input, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two dims, zeros elsewhere."""
    return _tri("triu", input, diagonal)


def one_hot(tensor, num_classes: int = -1) -> Tensor:
    """int64 rows with a 1 at each class; without `num_classes` the data decides.

    Raises: RuntimeError (when the values are computed) for a class that is negative or not below `num_classes`.

    >>> torsh.nn.functional.one_hot(torsh.tensor([0, 2]), 3).tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    x = tensor_arg(tensor, "one_hot", "tensor")
    if x.dtype.name != "int64":
        raise DTypeError(f"one_hot(): is only applicable to index tensor of int64, got {x.dtype.name}")
    n = int_arg(num_classes, "one_hot", "num_classes")
    if n == -1:
        if x.numel() == 0:
            raise RuntimeError("one_hot(): Can not infer total number of classes from empty tensor.")
        n = int(x.max()) + 1
    if n < 1:
        raise RuntimeError(f"one_hot(): num_classes should be positive, got {n}")
    good = _C.check((x >= 0).all(), "one_hot(): Class values must be non-negative.")
    if num_classes != -1:
        good = good + _C.check((x < n).all(), f"one_hot(): Class values must be smaller than num_classes ({n}).")
    return _C.apply("one_hot", (x,), (n,)) + good
