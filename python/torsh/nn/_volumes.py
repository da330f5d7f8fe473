"""Convolution and pooling over three dims, as in `torch.nn.functional`."""

from __future__ import annotations

from torsh._fn._args import Tensor
from torsh.nn._spatial import _adaptive_avg, _adaptive_max, _avg_pool, _conv, _conv_transpose, _max_pool

__all__ = [
    "adaptive_avg_pool3d", "adaptive_max_pool3d", "avg_pool3d", "conv3d", "conv_transpose3d", "max_pool3d",
]  # fmt: skip


def conv3d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups: int = 1) -> Tensor:
    """Cross-correlation over the last three dims: input [N, C, D, H, W] or [C, D, H, W], weight
    [O, C / groups, KD, KH, KW], bias [O]. Numbers are given once or for each dim; `padding` may be 'valid' or 'same' as
    in `conv1d`.

    Raises: ShapeError for sizes that do not fit, DTypeError for operands of different dtypes.

    >>> torsh.nn.functional.conv3d(torsh.ones(2, 3, 4, 5, 6), torsh.ones(4, 3, 3, 3, 3), padding="same").shape
    torsh.Size([2, 4, 4, 5, 6])
    """
    return _conv(input, weight, bias, stride, padding, dilation, groups, 3, "conv3d")


def conv_transpose3d(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups: int = 1, dilation=1
) -> Tensor:
    """`conv_transpose1d` over the last three dims: input [N, C, D, H, W] or [C, D, H, W], weight
    [C, O / groups, KD, KH, KW].

    >>> torsh.nn.functional.conv_transpose3d(torsh.ones(1, 4, 2, 5, 5), torsh.ones(4, 2, 1, 3, 3), stride=2).shape
    torsh.Size([1, 2, 3, 11, 11])
    """
    return _conv_transpose(
        input, weight, bias, stride, padding, output_padding, groups, dilation, 3, "conv_transpose3d"
    )


def max_pool3d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode: bool = False, return_indices: bool = False
):
    """`max_pool1d` over the last three dims of [N, C, D, H, W] or [C, D, H, W]; positions count along all of them.

    >>> torsh.nn.functional.max_pool3d(torsh.arange(8.0).reshape(1, 2, 2, 2), 2).tolist()
    [[[[7.0]]]]
    """
    return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 3, "max_pool3d")


def avg_pool3d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override=None,
) -> Tensor:
    """`avg_pool1d` over the last three dims of [N, C, D, H, W] or [C, D, H, W]; `divisor_override` divides every sum
    instead of the number of elements.

    >>> torsh.nn.functional.avg_pool3d(torsh.arange(8.0).reshape(1, 2, 2, 2), 2).tolist()
    [[[[3.5]]]]
    """
    return _avg_pool(
        input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 3, "avg_pool3d"
    )


def adaptive_avg_pool3d(input, output_size) -> Tensor:
    """`adaptive_avg_pool1d` over the last three dims; None keeps a dim as it is.

    >>> torsh.nn.functional.adaptive_avg_pool3d(torsh.ones(2, 3, 4, 7, 5), (1, None, 2)).shape
    torsh.Size([2, 3, 1, 7, 2])
    """
    return _adaptive_avg(input, output_size, 3, "adaptive_avg_pool3d")


def adaptive_max_pool3d(input, output_size, return_indices: bool = False):
    """Maxima of the windows of `adaptive_avg_pool3d`. Positions count along all three dims.

    >>> torsh.nn.functional.adaptive_max_pool3d(torsh.ones(2, 3, 4, 7, 5), 2).shape
    torsh.Size([2, 3, 2, 2, 2])
    """
    return _adaptive_max(input, output_size, return_indices, 3, "adaptive_max_pool3d")
