"""Convolution layers."""

from __future__ import annotations

import math

from torsh._fn import creation
from torsh._fn._args import int_arg
from torsh.nn import _spatial, init
from torsh.nn import functional as F
from torsh.nn.module import Module, Parameter

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    """What the convolutions have in common; `n` spatial dims."""

    n = 0
    transposed = False

    def __init__(
        self, in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, groups, bias,
        padding_mode, device, dtype,
    ):  # fmt: skip
        super().__init__()
        name, n = type(self).__name__, self.n
        in_channels, out_channels = (
            int_arg(in_channels, name, "in_channels"),
            int_arg(out_channels, name, "out_channels"),
        )
        groups = int_arg(groups, name, "groups")
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels < 0 or in_channels % groups:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels < 0 or out_channels % groups:
            raise ValueError("out_channels must be divisible by groups")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {_PADDING_MODES}, but got padding_mode={padding_mode!r}")
        if self.transposed and padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {name}')
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = tuple(_spatial._tuple(kernel_size, n, name, "kernel_size", 1))
        self.stride = tuple(_spatial._tuple(stride, n, name, "stride", 1))
        self.dilation = tuple(_spatial._tuple(dilation, n, name, "dilation", 1))
        self.output_padding = tuple(_spatial._tuple(output_padding, n, name, "output_padding", 0))
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of 'valid', 'same'")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
            self.padding = padding
        else:
            self.padding = tuple(_spatial._tuple(padding, n, name, "padding", 0))
        self.padding_mode = padding_mode
        channels = (in_channels, out_channels // groups) if self.transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(creation.empty(*channels, *self.kernel_size, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(creation.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new values."""
        if self.weight.numel() > 0:
            init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(self.weight.shape[1:])
            bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding != (0,) * self.n:
            parts.append(f"padding={self.padding!r}" if isinstance(self.padding, str) else f"padding={self.padding}")
        if self.dilation != (1,) * self.n:
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != (0,) * self.n:
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class _Conv(_ConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device=None,
        dtype=None,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 0, groups, bias, padding_mode, device,
            dtype,
        )  # fmt: skip

    def _padded(self, input):
        """The input and how much padding the convolution itself is left to do."""
        if self.padding_mode == "zeros":
            return input, self.padding
        pads = []
        for d in reversed(range(self.n)):
            if isinstance(self.padding, str):
                total = self.dilation[d] * (self.kernel_size[d] - 1) if self.padding == "same" else 0
                pads += [total // 2, total - total // 2]
            else:
                pads += [self.padding[d]] * 2
        return F.pad(input, pads, mode=self.padding_mode), 0


class Conv1d(_Conv):
    """`functional.conv1d` with weight [out_channels, in_channels / groups, K] and bias [out_channels], both uniform in
    +-1/sqrt(in_channels / groups * K).

    >>> torsh.nn.Conv1d(2, 4, 3, padding=1)(torsh.ones(5, 2, 8)).shape
    torsh.Size([5, 4, 8])
    """

    n = 1

    def forward(self, input):
        input, padding = self._padded(input)
        return F.conv1d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """`functional.conv2d` with weight [out_channels, in_channels / groups, KH, KW] and bias [out_channels], both
    uniform in +-1/sqrt(in_channels / groups * KH * KW).

    >>> torsh.nn.Conv2d(3, 8, 3, stride=2)(torsh.ones(1, 3, 9, 9)).shape
    torsh.Size([1, 8, 4, 4])
    """

    n = 2

    def forward(self, input):
        input, padding = self._padded(input)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class _ConvTranspose(_ConvNd):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        output_padding=0,
        groups: int = 1,
        bias: bool = True,
        dilation=1,
        padding_mode: str = "zeros",
        device=None,
        dtype=None,
    ):
        if isinstance(padding, str):
            raise ValueError(f"{type(self).__name__}(): padding must be a number or a tuple, got {padding!r}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def _output_padding(self, input, output_size):
        """What makes the result of the size that is asked for: several sizes have the same input."""
        if output_size is None:
            return self.output_padding
        n, name = self.n, type(self).__name__
        wanted = [int_arg(s, name, "output_size") for s in output_size]
        if len(wanted) == input.ndim:
            wanted = wanted[input.ndim - n :]
        if len(wanted) != n:
            raise ValueError(
                f"{name}: for {input.ndim}D input, output_size must have {n} or {input.ndim} elements (got "
                f"{len(wanted)})"
            )
        sizes = list(input.shape[input.ndim - n :])
        low = [
            (sizes[d] - 1) * self.stride[d] - 2 * self.padding[d] + self.dilation[d] * (self.kernel_size[d] - 1) + 1
            for d in range(n)
        ]
        high = [low[d] + self.stride[d] - 1 for d in range(n)]
        if any(not a <= s <= b for a, s, b in zip(low, wanted, high, strict=True)):
            raise ValueError(
                f"requested an output size of {wanted}, but valid sizes range from {low} to {high} (for an input of "
                f"{sizes})"
            )
        return [s - a for s, a in zip(wanted, low, strict=True)]


class ConvTranspose1d(_ConvTranspose):
    """`functional.conv_transpose1d` with weight [in_channels, out_channels / groups, K]. A call may give the
    `output_size` that it wants, of those that the stride allows.

    >>> torsh.nn.ConvTranspose1d(2, 4, 3, stride=2)(torsh.ones(5, 2, 8)).shape
    torsh.Size([5, 4, 17])
    """

    n = 1

    def forward(self, input, output_size=None):
        extra = self._output_padding(input, output_size)
        return F.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class ConvTranspose2d(_ConvTranspose):
    """`functional.conv_transpose2d` with weight [in_channels, out_channels / groups, KH, KW].

    >>> torsh.nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1)(torsh.ones(1, 3, 5, 5)).shape
    torsh.Size([1, 8, 10, 10])
    """

    n = 2

    def forward(self, input, output_size=None):
        extra = self._output_padding(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class Conv3d(_Conv):
    """`functional.conv3d` with weight [out_channels, in_channels / groups, KD, KH, KW] and bias [out_channels], both
    uniform in +-1/sqrt(in_channels / groups * KD * KH * KW).

    >>> torsh.nn.Conv3d(3, 8, 3, stride=2)(torsh.ones(1, 3, 5, 9, 9)).shape
    torsh.Size([1, 8, 2, 4, 4])
    """

    n = 3

    def forward(self, input):
        input, padding = self._padded(input)
        return F.conv3d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class ConvTranspose3d(_ConvTranspose):
    """`functional.conv_transpose3d` with weight [in_channels, out_channels / groups, KD, KH, KW].

    >>> torsh.nn.ConvTranspose3d(3, 8, 4, stride=2, padding=1)(torsh.ones(1, 3, 2, 5, 5)).shape
    torsh.Size([1, 8, 4, 10, 10])
    """

    n = 3

    def forward(self, input, output_size=None):
        extra = self._output_padding(input, output_size)
        return F.conv_transpose3d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
