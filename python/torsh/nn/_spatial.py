"""Convolution, pooling and the normalisations over channels, as in `torch.nn.functional`."""

from __future__ import annotations

import math
import warnings

from torsh import _C
from torsh._dtype_info import iinfo
from torsh._fn._args import (
    DTypeError,
    ShapeError,
    Tensor,
    bool_arg,
    int_arg,
    number_arg,
    require_float,
    store,
    tensor_arg,
)
from torsh._fn.creation import arange
from torsh._fn.random import _unit
from torsh.autograd import no_grad

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool1d",
    "avg_pool2d", "batch_norm", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "dropout1d", "dropout2d",
    "group_norm", "instance_norm", "max_pool1d", "max_pool2d",
]  # fmt: skip


def _tuple(value, n: int, fn: str, name: str, low: int, none=None) -> list[int]:
    """One number for all `n` dims or one for each, each at least `low`."""
    if isinstance(value, (list, tuple)):
        values = [none if v is None and none is not None else int_arg(v, fn, name) for v in value]
        if len(values) == 1:
            values *= n
    else:
        values = [int_arg(value, fn, name)] * n
    if len(values) != n:
        raise ShapeError(
            f"{fn}(): expected {name} to be a single integer value or a list of {n} values to match the dimensions, "
            f"but got {name}={list(value)}"
        )
    if any(v < low for v in values):
        what = {"stride": "non-positive stride is not supported", "padding": "negative padding is not supported"}
        raise ShapeError(f"{fn}(): " + what.get(name, f"{name} must be at least {low}") + f", got {name}={values}")
    return values


def _batched(x: Tensor, n: int, fn: str) -> tuple[Tensor, bool]:
    """The input with images in front; whether they were there."""
    if x.ndim not in (n + 1, n + 2):
        raise ShapeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {fn}, but got input of size: {list(x.shape)}"
        )
    return (x, True) if x.ndim == n + 2 else (x.unsqueeze(0), False)


def _conv_operands(input, weight, bias, n: int, fn: str) -> tuple[Tensor, Tensor, bool]:
    x = require_float(tensor_arg(input, fn), fn)
    w = tensor_arg(weight, fn, "weight")
    for name, p in (("weight", w), ("bias", None if bias is None else tensor_arg(bias, fn, "bias"))):
        if p is not None and p.dtype != x.dtype:
            raise DTypeError(f"{fn}(): input type ({x.dtype.name}) and {name} type ({p.dtype.name}) should be the same")
    if w.ndim != n + 2:
        raise ShapeError(f"{fn}(): expected a weight of {n + 2} dims, but got weight of size {list(w.shape)}")
    x, batched = _batched(x, n, fn)
    return x, w, batched


def _with_bias(y: Tensor, bias, w: Tensor, n: int, fn: str, batched: bool) -> Tensor:
    if bias is not None:
        if list(bias.shape) != [y.shape[1]]:
            raise ShapeError(
                f"Given weight of size {list(w.shape)}, expected bias to be 1-dimensional with {y.shape[1]} elements, "
                f"but got bias of size {list(bias.shape)} instead"
            )
        y = y + bias.reshape([1, y.shape[1]] + [1] * n)
    return y if batched else y.squeeze(0)


def _conv(input, weight, bias, stride, padding, dilation, groups, n: int, fn: str) -> Tensor:
    x, w, batched = _conv_operands(input, weight, bias, n, fn)
    stride = _tuple(stride, n, fn, "stride", 1)
    dilation = _tuple(dilation, n, fn, "dilation", 1)
    groups = _groups(groups, fn)
    if isinstance(padding, str):
        lo, hi = _named_padding(padding, w, stride, dilation, n, fn)
    else:
        lo = hi = _tuple(padding, n, fn, "padding", 0)
    _conv_channels(x, w, groups, w.shape[1] * groups, fn)
    if w.shape[0] % groups or w.shape[0] < groups:
        raise ShapeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0 and divisible by it, but "
            f"got weight of size {list(w.shape)} instead"
        )
    y = _C.apply("conv", (x, w), (stride, lo, hi, dilation, groups))
    return _with_bias(y, bias, w, n, fn, batched)


def _groups(groups, fn: str) -> int:
    groups = int_arg(groups, fn, "groups")
    if groups < 1:
        raise ShapeError(f"{fn}(): non-positive groups is not supported, got groups={groups}")
    return groups


def _conv_channels(x: Tensor, w: Tensor, groups: int, want: int, fn: str) -> None:
    if x.shape[1] != want:
        raise ShapeError(
            f"Given groups={groups}, weight of size {list(w.shape)}, expected input{list(x.shape)} to have {want} "
            f"channels, but got {x.shape[1]} channels instead"
        )


def _named_padding(padding: str, w: Tensor, stride, dilation, n: int, fn: str):
    if padding == "valid":
        return [0] * n, [0] * n
    if padding != "same":
        raise ValueError(f"{fn}(): padding must be an int, a tuple, 'same' or 'valid', got {padding!r}")
    if any(s != 1 for s in stride):
        raise ShapeError("padding='same' is not supported for strided convolutions")
    total = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
    return [t // 2 for t in total], [t - t // 2 for t in total]


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups: int = 1) -> Tensor:
    """Cross-correlation over the last dim: input [N, C, L] or [C, L], weight [O, C / groups, K], bias [O]; result
    [N, O, L'] with `L' = (L + 2 padding - dilation (K - 1) - 1) // stride + 1`. `padding` is a number, 'valid' or
    'same' (L' = L, stride 1 only).

    Raises: ShapeError for sizes that do not fit, DTypeError for operands of different dtypes.

    >>> torsh.nn.functional.conv1d(torsh.tensor([[1.0, 2.0, 4.0]]), torsh.tensor([[[-1.0, 1.0]]])).tolist()
    [[1.0, 2.0]]
    """
    return _conv(input, weight, bias, stride, padding, dilation, groups, 1, "conv1d")


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups: int = 1) -> Tensor:
    """Cross-correlation over the last two dims: input [N, C, H, W] or [C, H, W], weight [O, C / groups, KH, KW], bias
    [O]. Numbers are given once or for each dim; `padding` may be 'valid' or 'same' as in `conv1d`.

    Raises: ShapeError for sizes that do not fit, DTypeError for operands of different dtypes.

    >>> torsh.nn.functional.conv2d(torsh.ones(2, 3, 8, 8), torsh.ones(4, 3, 3, 3), padding="same").shape
    torsh.Size([2, 4, 8, 8])
    """
    return _conv(input, weight, bias, stride, padding, dilation, groups, 2, "conv2d")


def _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation, n: int, fn: str) -> Tensor:
    x, w, batched = _conv_operands(input, weight, bias, n, fn)
    stride, dilation = _tuple(stride, n, fn, "stride", 1), _tuple(dilation, n, fn, "dilation", 1)
    padding = _tuple(padding, n, fn, "padding", 0)
    extra = _tuple(output_padding, n, fn, "output_padding", 0)
    groups = _groups(groups, fn)
    _conv_channels(x, w, groups, w.shape[0], fn)
    if w.shape[0] % groups:
        raise ShapeError(f"{fn}(): the {w.shape[0]} channels of the input must be divisible by groups={groups}")
    sizes, hi = [], []
    for d in range(n):
        if extra[d] >= max(stride[d], dilation[d]):
            raise ShapeError(
                "output padding must be smaller than either stride or dilation, but got output_padding="
                f"{extra} with stride={stride} and dilation={dilation}"
            )
        size = (x.shape[d + 2] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (w.shape[d + 2] - 1) + extra[d] + 1
        if size < 1:
            raise ShapeError(
                f"{fn}(): Given input size per channel: {list(x.shape[2:])}. Calculated output size in dim {d}: "
                f"{size}. Output size is too small"
            )
        sizes.append(size)
        hi.append(padding[d] - extra[d])
    y = _C.apply("conv_transpose", (x, w), (stride, padding, hi, dilation, groups, sizes))
    return _with_bias(y, bias, w, n, fn, batched)


def conv_transpose1d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups: int = 1, dilation=1
) -> Tensor:
    """The transposed convolution over the last dim, the gradient of `conv1d` by its input: input [N, C, L] or [C, L],
    weight [C, O / groups, K]; result [N, O, L'] with
    `L' = (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1`.

    >>> torsh.nn.functional.conv_transpose1d(torsh.ones(1, 2), torsh.ones(1, 1, 2), stride=2).tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    """
    return _conv_transpose(
        input, weight, bias, stride, padding, output_padding, groups, dilation, 1, "conv_transpose1d"
    )


def conv_transpose2d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups: int = 1, dilation=1
) -> Tensor:
    """`conv_transpose1d` over the last two dims: input [N, C, H, W] or [C, H, W], weight [C, O / groups, KH, KW].

    >>> torsh.nn.functional.conv_transpose2d(torsh.ones(1, 4, 5, 5), torsh.ones(4, 2, 3, 3), stride=2).shape
    torsh.Size([1, 2, 11, 11])
    """
    return _conv_transpose(
        input, weight, bias, stride, padding, output_padding, groups, dilation, 2, "conv_transpose2d"
    )


# -- pooling -----------------------------------------------------------------------------------------------


def _pooled(input, n: int, fn: str) -> Tensor:
    x = tensor_arg(input, fn)
    if x.ndim not in (n + 1, n + 2) or 0 in x.shape[x.ndim - n :]:
        raise ShapeError(
            f"{fn}(): Expected {n + 1}D or {n + 2}D (batch mode) tensor with non-empty spatial dims, but got: "
            f"{list(x.shape)}"
        )
    return x


def _pool_args(kernel_size, stride, padding, n: int, fn: str):
    kernel = _tuple(kernel_size, n, fn, "kernel_size", 1)
    none = stride is None or (isinstance(stride, (list, tuple)) and not stride)
    return kernel, kernel if none else _tuple(stride, n, fn, "stride", 1), _tuple(padding, n, fn, "padding", 0)


def _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, n: int, fn: str):
    x = _pooled(input, n, fn)
    kernel, stride, padding = _pool_args(kernel_size, stride, padding, n, fn)
    dilation = _tuple(dilation, n, fn, "dilation", 1)
    if any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
        raise ShapeError(
            f"{fn}(): pad should be at least 0 and at most half of kernel size, but got pad={padding} and "
            f"kernel_size={kernel}"
        )
    attrs = (kernel, stride, padding, dilation, bool_arg(ceil_mode, fn, "ceil_mode"))
    y = _C.apply("max_pool", (x,), attrs)
    if not bool_arg(return_indices, fn, "return_indices"):
        return y
    at = _C.cast(_C.apply("max_pool_position", (x.detach(),), attrs), _C.int64)
    flat, weight, shape = 0, 1, list(y.shape)
    for d in reversed(range(n)):
        axis = x.ndim - n + d
        begin = _C.apply("iota", (), (axis, _C.int64, shape), x.device) * stride[d] - padding[d]
        flat = flat + (begin + (at % kernel[d]) * dilation[d]) * weight
        at = at // kernel[d]
        weight *= x.shape[axis]
    return y, flat


def max_pool1d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode: bool = False, return_indices: bool = False
):
    """The largest element of each window over the last dim of [N, C, L] or [C, L]; `stride` is `kernel_size` by
    default. The gradient goes to the first largest element. With `return_indices` also its position, int64.

    >>> torsh.nn.functional.max_pool1d(torsh.tensor([[1.0, 3.0, 2.0, 5.0]]), 2).tolist()
    [[3.0, 5.0]]
    """
    return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 1, "max_pool1d")


def max_pool2d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode: bool = False, return_indices: bool = False
):
    """`max_pool1d` over the last two dims of [N, C, H, W] or [C, H, W]; positions count along both, row by row.

    >>> torsh.nn.functional.max_pool2d(torsh.arange(16.0).reshape(1, 4, 4), 2).tolist()
    [[[5.0, 7.0], [13.0, 15.0]]]
    """
    return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 2, "max_pool2d")


def _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor, n: int, fn: str) -> Tensor:
    x = require_float(_pooled(input, n, fn), fn)
    kernel, stride, padding = _pool_args(kernel_size, stride, padding, n, fn)
    if divisor is not None:
        divisor = int_arg(divisor, fn, "divisor_override")
        if divisor == 0:
            raise RuntimeError("divisor must be not zero")
    flags = bool_arg(ceil_mode, fn, "ceil_mode"), bool_arg(count_include_pad, fn, "count_include_pad")
    y = _C.apply("avg_pool", (x,), (kernel, stride, padding, *flags, 0 if divisor is None else abs(divisor)))
    return -y if divisor is not None and divisor < 0 else y


def avg_pool1d(
    input, kernel_size, stride=None, padding=0, ceil_mode: bool = False, count_include_pad: bool = True
) -> Tensor:
    """The mean of each window over the last dim of [N, C, L] or [C, L]; the zeros of the padding count unless
    `count_include_pad` is False.

    >>> torsh.nn.functional.avg_pool1d(torsh.tensor([[1.0, 3.0, 2.0, 4.0]]), 2).tolist()
    [[2.0, 3.0]]
    """
    return _avg_pool(input, kernel_size, stride, padding, ceil_mode, count_include_pad, None, 1, "avg_pool1d")


def avg_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override=None,
) -> Tensor:
    """`avg_pool1d` over the last two dims of [N, C, H, W] or [C, H, W]; `divisor_override` divides every sum instead of
    the number of elements.

    >>> torsh.nn.functional.avg_pool2d(torsh.arange(16.0).reshape(1, 4, 4), 2).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """
    return _avg_pool(
        input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 2, "avg_pool2d"
    )


def _ragged(x: Tensor, axis: int, out: int) -> tuple[Tensor, Tensor]:
    """The windows of an adaptive pooling along one dim, in a new dim after it, and which of their elements count."""
    size = x.shape[axis]
    # The longest window: one that begins at the largest fraction of an element reaches into one more.
    width = -(-size // out) + (size % out > math.gcd(size, out))
    if out * size >= 1 << 62:
        raise _C.LimitError(f"adaptive pooling of {size} elements to {out} is beyond 64-bit positions")
    i = arange(out, device=x.device)
    begins = i * size // out
    counts = -(-(i + 1) * size // out) - begins
    offset = arange(width, device=x.device)
    index = (begins.unsqueeze(1) + offset).clamp(max=size - 1).reshape(-1)
    member = (offset < counts.unsqueeze(1)).reshape([1] * axis + [out, width] + [1] * (x.ndim - axis - 1))
    windows = _C.apply("take", (x, index), (axis,))
    return windows.reshape([*x.shape[:axis], out, width, *x.shape[axis + 1 :]]), member


def _adaptive(input, output_size, n: int, fn: str, fold) -> Tensor:
    x = _pooled(input, n, fn)
    sizes = output_size if isinstance(output_size, (list, tuple)) else [output_size] * n
    if len(sizes) != n:
        raise ShapeError(f"{fn}(): 'output_size' should contain exactly {n} values, but got {list(sizes)}")
    if output_size is None or n == 1 and sizes[0] is None:
        # A size of None stands for one dim among others.
        raise TypeError(f"{fn}(): argument 'output_size' must be int or tuple of ints, not NoneType")
    sizes = [x.shape[x.ndim - n + d] if s is None else int_arg(s, fn, "output_size") for d, s in enumerate(sizes)]
    if any(s < 0 for s in sizes):
        raise ShapeError(f"{fn}(): elements of output_size must be greater than or equal to 0, but got {sizes}")
    return fold(x, sizes)


def _adaptive_avg(input, output_size, n: int, fn: str) -> Tensor:
    def fold(x, sizes):
        x = require_float(x, fn)
        first = x.ndim - n
        if 0 in sizes:
            return _C.full([*x.shape[:first], *sizes], 0, x.dtype, x.device)
        kernel = [x.shape[first + d] // s if x.shape[first + d] % s == 0 else 0 for d, s in enumerate(sizes)]
        if all(kernel):
            return _C.apply("avg_pool", (x,), (kernel, kernel, [0] * n, False, True, 0))
        for d, size in enumerate(sizes):
            windows, member = _ragged(x, first + d, size)
            count = member.sum(first + d + 1)
            zero = _C.full([], 0, x.dtype, x.device)
            x = _C.where(member, windows, zero).sum(first + d + 1) / _C.cast(count, x.dtype)
        return x

    return _adaptive(input, output_size, n, fn, fold)


def adaptive_avg_pool1d(input, output_size) -> Tensor:
    """Means of `output_size` windows that cover the last dim of [N, C, L] or [C, L]: window i goes from
    `floor(i L / size)` to `ceil((i + 1) L / size)`.

    >>> torsh.nn.functional.adaptive_avg_pool1d(torsh.tensor([[1.0, 2.0, 3.0]]), 2).tolist()
    [[1.5, 2.5]]
    """
    return _adaptive_avg(input, output_size, 1, "adaptive_avg_pool1d")


def adaptive_avg_pool2d(input, output_size) -> Tensor:
    """`adaptive_avg_pool1d` over the last two dims; None keeps a dim as it is.

    >>> torsh.nn.functional.adaptive_avg_pool2d(torsh.ones(2, 3, 7, 5), (1, 1)).shape
    torsh.Size([2, 3, 1, 1])
    """
    return _adaptive_avg(input, output_size, 2, "adaptive_avg_pool2d")


def _adaptive_max(input, output_size, return_indices, n: int, fn: str):
    return_indices = bool_arg(return_indices, fn, "return_indices")

    def fold(x, sizes):
        first = x.ndim - n
        if 0 in sizes:
            shape = [*x.shape[:first], *sizes]
            y = _C.full(shape, 0, x.dtype, x.device)
            return (y, _C.full(shape, 0, _C.int64, x.device)) if return_indices else y
        kernel = [x.shape[first + d] // s if x.shape[first + d] % s == 0 else 0 for d, s in enumerate(sizes)]
        if all(kernel):
            return _max_pool(x, kernel, kernel, [0] * n, [1] * n, False, return_indices, n, fn)
        flat, lengths = None, list(x.shape)
        # The last dim first: of equal elements the first in row-major order counts.
        for d in reversed(range(n)):
            x, at, pick = _adaptive_max_dim(x, first + d, sizes[d])
            # Which element of the input each maximum is, counted along the dims that are done.
            weight = math.prod(lengths[first + d + 1 :])
            flat = at * weight if flat is None else at * weight + pick(flat)
        return (x, flat) if return_indices else x

    return _adaptive(input, output_size, n, fn, fold)


def _adaptive_max_dim(x: Tensor, axis: int, size: int):
    """Maxima of the windows along one dim, where in that dim each is, and a function that picks the elements of
    another tensor at those places."""
    length = x.shape[axis]
    windows, member = _ragged(x, axis, size)
    low = -math.inf if x.is_floating_point() else iinfo(x.dtype).min
    windows = _C.where(member, windows, _C.full([], low, x.dtype, x.device)).movedim(axis + 1, -1)
    position = _C.apply("max_pool_position", (windows.detach(),), _last(windows))
    position = _C.cast(position, _C.int64)

    def take(windows):
        return _C.apply("gather", (windows, position), (windows.ndim - 1,)).squeeze(-1)

    begins = (arange(size, device=x.device) * length // size).reshape([size] + [1] * (x.ndim - axis - 1))
    return take(windows), position.squeeze(-1) + begins, lambda y: take(_ragged(y, axis, size)[0].movedim(axis + 1, -1))


def _last(x: Tensor):
    """Attributes of a pooling of the whole last dim."""
    return [x.shape[-1]], [x.shape[-1]], [0], [1], False


def adaptive_max_pool1d(input, output_size, return_indices: bool = False):
    """Maxima of the windows of `adaptive_avg_pool1d`. With `return_indices` also their positions, int64: of equal
    elements the first.

    >>> torsh.nn.functional.adaptive_max_pool1d(torsh.tensor([[1.0, 2.0, 3.0]]), 2).tolist()
    [[2.0, 3.0]]
    """
    return _adaptive_max(input, output_size, return_indices, 1, "adaptive_max_pool1d")


def adaptive_max_pool2d(input, output_size, return_indices: bool = False):
    """Maxima of the windows of `adaptive_avg_pool2d`. Positions count along both dims, row by row.

    >>> torsh.nn.functional.adaptive_max_pool2d(torsh.ones(2, 3, 7, 5), (3, None)).shape
    torsh.Size([2, 3, 3, 5])
    """
    return _adaptive_max(input, output_size, return_indices, 2, "adaptive_max_pool2d")


# -- normalisation -----------------------------------------------------------------------------------------


def _channel_vectors(x: Tensor, fn: str, **vectors) -> list:
    """Per-channel parameters in the dtype of the input."""
    out = []
    for name, v in vectors.items():
        if v is not None and list(tensor_arg(v, fn, name).shape) != [x.shape[1]]:
            raise ShapeError(f"{fn}(): {name} should contain {x.shape[1]} elements not {list(v.shape)}")
        out.append(v)
    return out


def _affine(y: Tensor, weight, bias) -> Tensor:
    shape = [1, y.shape[1]] + [1] * (y.ndim - 2)
    y = y if weight is None else y * _C.cast(weight, y.dtype).reshape(shape)
    return y if bias is None else y + _C.cast(bias, y.dtype).reshape(shape)


def batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training: bool = False, momentum=0.1, eps: float = 1e-5
) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias` for each channel (dim 1) of [N, C, ...]. In training mean and
    variance are those of the batch, and the running ones, where given, are updated in place:
    `running = (1 - momentum) running + momentum batch`, with the unbiased variance; otherwise they are the running
    ones (Ioffe and Szegedy, 2015).

    Raises: ShapeError in training with one value per channel.

    >>> mean, var = torsh.zeros(1), torsh.ones(1)
    >>> x = torsh.tensor([[1.0], [3.0]])
    >>> torsh.nn.functional.batch_norm(x, mean, var, training=True, momentum=0.5, eps=0.0).tolist()
    [[-1.0], [1.0]]
    >>> mean.tolist(), var.tolist()
    ([1.0], [1.5])
    """
    x = require_float(tensor_arg(input, "batch_norm"), "batch_norm")
    if x.ndim < 2:
        raise ShapeError(f"batch_norm(): expected at least 2D input (got {x.ndim}D input)")
    vectors = _channel_vectors(
        x, "batch_norm", weight=weight, bias=bias, running_mean=running_mean, running_var=running_var
    )
    weight, bias, running_mean, running_var = vectors
    eps = float(number_arg(eps, "batch_norm", "eps"))
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("Expected running_mean and running_var to be defined when training=False")
        shape = [1, x.shape[1]] + [1] * (x.ndim - 2)
        mean, scale = running_mean, (running_var + eps).rsqrt()
        y = (x - _C.cast(mean, x.dtype).reshape(shape)) * _C.cast(scale, x.dtype).reshape(shape)
        return _affine(y, weight, bias)
    count = x.numel() // max(x.shape[1], 1)
    if count == 1 or (count == 0 and x.shape[1]):
        raise ShapeError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
    dims = [d for d in range(x.ndim) if d != 1]
    if running_mean is not None or running_var is not None:
        _update_running(x.detach(), running_mean, running_var, momentum, dims)
    if weight is None and bias is not None:
        weight = _C.full([x.shape[1]], 1, x.dtype, x.device)
    operands = (x, *(_C.cast(p, x.dtype) for p in (weight, bias) if p is not None))
    return _C.apply("batch_norm", operands, (eps,))


@no_grad()
def _update_running(x: Tensor, running_mean, running_var, momentum, dims) -> None:
    for running, value in ((running_mean, lambda: x.mean(dims)), (running_var, lambda: x.var(dims, correction=1))):
        if running is not None:
            new = _C.cast(value(), running.dtype)
            store(running, running * (1 - momentum) + new * momentum)


def instance_norm(
    input,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats: bool = True,
    momentum=0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`batch_norm` with mean and variance of each image by itself (Ulyanov et al., 2016). Running statistics take the
    means over the images.

    >>> torsh.nn.functional.instance_norm(torsh.tensor([[[1.0, 3.0]]]), eps=0.0).tolist()
    [[[-1.0, 1.0]]]
    """
    x = require_float(tensor_arg(input, "instance_norm"), "instance_norm")
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if x.ndim < 3 or math.prod(x.shape[2:]) < 2:
        raise ShapeError(f"Expected more than 1 spatial element when training, got input size {list(x.shape)}")
    _channel_vectors(x, "instance_norm", weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if running_mean is not None or running_var is not None:
        with no_grad():
            dims = list(range(2, x.ndim))
            d = x.detach()
            for running, new in ((running_mean, d.mean(dims)), (running_var, d.var(dims, correction=1))):
                if running is not None:
                    store(running, running * (1 - momentum) + _C.cast(new.mean(0), running.dtype) * momentum)
    return group_norm(x, x.shape[1], weight, bias, eps)


def group_norm(input, num_groups: int, weight=None, bias=None, eps: float = 1e-5) -> Tensor:
    """Channels in groups of neighbours, each group of each image brought to mean 0 and variance 1, then scaled per
    channel (Wu and He, 2018).

    Raises: ValueError for one image with one value per group.

    >>> torsh.nn.functional.group_norm(torsh.tensor([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    x = require_float(tensor_arg(input, "group_norm"), "group_norm")
    groups = int_arg(num_groups, "group_norm", "num_groups")
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise ShapeError(
            f"Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(x.shape)} and num_groups={groups}"
        )
    _channel_vectors(x, "group_norm", weight=weight, bias=bias)
    if x.shape[0] * (x.shape[1] // groups) * math.prod(x.shape[2:]) == 1:
        # In evaluation too, as in PyTorch: nothing would be left of the input.
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
    if x.numel() == 0:
        return _affine(x, weight, bias)
    rows = x.reshape([x.shape[0], groups, x.numel() // (x.shape[0] * groups)])
    y = _C.apply("layer_norm", (rows,), (1, float(number_arg(eps, "group_norm", "eps")))).reshape(list(x.shape))
    return _affine(y, weight, bias)


def _feature_dropout(input, p, training, inplace, n: int, fn: str) -> Tensor:
    x, p = tensor_arg(input, fn), float(number_arg(p, fn, "p"))
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if n == 1 and x.ndim not in (2, 3):
        raise ShapeError(f"{fn}(): Expected 2D or 3D input, but received a {x.ndim}D input")
    if n == 2 and x.ndim != 4:
        warnings.warn(_odd_dropout2d(x.ndim), UserWarning, stacklevel=3)
    if not training or p == 0.0:
        return x
    if x.ndim < 2:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    channels = 1 if n == 1 and x.ndim == 2 else 2
    shape = [*x.shape[:channels]] + [1] * (x.ndim - channels)
    keep = _unit(shape, None, _C.float32, fn, x.device) >= p
    y = x * 0.0 if p == 1.0 else _C.where(keep, x * (1.0 / (1.0 - p)), 0.0)
    return _C.assign(x, y) if inplace else y


def _odd_dropout2d(ndim: int) -> str:
    if ndim == 3:
        return (
            "dropout2d: a 3-D input is taken for (N, C, L), as PyTorch does for now, and not for (C, H, W); use "
            "dropout1d for (N, C, L), or add a dim of images in front"
        )
    return (
        f"dropout2d: received a {ndim}-D input, which PyTorch calls deprecated; the first two dims are taken for "
        "images and channels. Use dropout for single elements"
    )


def dropout1d(input, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeroes whole channels of [N, C, L] or [C, L] with probability `p` and scales the others by `1 / (1 - p)`."""
    return _feature_dropout(input, p, training, inplace, 1, "dropout1d")


def dropout2d(input, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeroes whole channels of [N, C, H, W] with probability `p` and scales the others by `1 / (1 - p)`. Of other
    inputs the first two dims count as [N, C], with a warning, as in PyTorch."""
    return _feature_dropout(input, p, training, inplace, 2, "dropout2d")
