"""Windows of images as columns, and back: `unfold` and `fold`, as in `torch.nn.functional`."""

from __future__ import annotations

import math

from torsh import _C
from torsh._fn._args import ShapeError, Tensor, tensor_arg
from torsh._fn.creation import arange
from torsh._fn.indexing import index_add
from torsh._fn.shape import pad
from torsh.nn._spatial import _batched, _tuple

__all__ = ["fold", "unfold"]


class _Windows:
    """The windows of images of a size: how many there are along each dim."""

    def __init__(self, fn: str, size, kernel_size, dilation, padding, stride):
        self.fn, self.size = fn, list(size)
        self.kernel = _tuple(kernel_size, 2, fn, "kernel_size", 1)
        self.dilation = _tuple(dilation, 2, fn, "dilation", 1)
        self.padding = _tuple(padding, 2, fn, "padding", 0)
        self.stride = _tuple(stride, 2, fn, "stride", 1)
        self.padded = [n + 2 * p for n, p in zip(self.size, self.padding, strict=True)]
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        self.count = [(n - r) // s + 1 for n, r, s in zip(self.padded, reach, self.stride, strict=True)]

    def __str__(self) -> str:
        return (
            f"kernel_size={self.kernel}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}: "
            f"{self.count} windows"
        )


def unfold(input, kernel_size, dilation=1, padding=0, stride=1) -> Tensor:
    """The windows of images as columns: input [N, C, H, W] or [C, H, W], result [N, C KH KW, windows].

    Raises: ShapeError for images smaller than a window.

    >>> torsh.nn.functional.unfold(torsh.ones(1, 2, 4, 4), 3).shape
    torsh.Size([1, 18, 4])
    """
    x, batched = _batched(tensor_arg(input, "unfold"), 2, "unfold")
    w = _Windows("unfold", x.shape[2:], kernel_size, dilation, padding, stride)
    if min(w.count) < 1:
        raise ShapeError(f"unfold(): given input with spatial size {w.size}, {w}, but there must be at least one")
    x = _C.apply("pad", (x,), ([0, 0, *w.padding], [0, 0, *w.padding], 0))
    y = _C.apply("windows", (x,), ([2, 3], w.kernel, w.stride, w.dilation)).permute(0, 1, 4, 5, 2, 3)
    y = y.reshape([y.shape[0], y.shape[1] * math.prod(w.kernel), math.prod(w.count)])
    return y if batched else y.squeeze(0)


def fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1) -> Tensor:
    """The sum of windows at their places, the gradient of `unfold`: input [N, C KH KW, windows] or without N, result
    [N, C, *output_size].

    Raises: ShapeError where rows or windows are not as many as the sizes make.

    >>> x = torsh.nn.functional.unfold(torsh.ones(1, 1, 3, 3), 2)
    >>> torsh.nn.functional.fold(x, (3, 3), 2).tolist()
    [[[[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]]]
    """
    x = tensor_arg(input, "fold")
    if x.ndim not in (2, 3) or 0 in x.shape[x.ndim - 2 :]:
        raise ShapeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero dimensions for "
            f"input, but got: {list(x.shape)}"
        )
    size = _tuple(output_size, 2, "fold", "output_size", 1)
    w = _Windows("fold", size, kernel_size, dilation, padding, stride)
    rows, columns = math.prod(w.kernel), math.prod(w.count)
    if x.shape[-2] % rows:
        raise ShapeError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
            f"input.size(1)={x.shape[-2]} and kernel_size={w.kernel}"
        )
    if min(w.count) < 1 or x.shape[-1] != columns:
        raise ShapeError(
            f"Given output_size={size}, {w}, expected size of input's dimension 2 to match the number of windows, but "
            f"got input.size(2)={x.shape[-1]}"
        )
    lead = [x.shape[0]] if x.ndim == 3 else [1]
    channels = x.shape[-2] // rows
    # Where each element of each window lies, along one dim and then in the padded image.
    along = [
        arange(k, device=x.device).reshape(-1, 1) * d + arange(c, device=x.device) * s
        for k, d, c, s in zip(w.kernel, w.dilation, w.count, w.stride, strict=True)
    ]
    (kh, kw), (ch, cw) = w.kernel, w.count
    at = along[0].reshape(kh, 1, ch, 1) * w.padded[1] + along[1].reshape(1, kw, 1, cw)
    image = _C.full([*lead, channels, math.prod(w.padded)], 0, x.dtype, x.device)
    y = index_add(image, 2, at.reshape(-1), x.reshape([*lead, channels, rows * columns]))
    y = y.reshape([*lead, channels, *w.padded])
    (top, left) = w.padding
    y = pad(y, (-left, -left, -top, -top)) if top or left else y
    return y if x.ndim == 3 else y.squeeze(0)
