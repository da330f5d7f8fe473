"""Normalisation of channels as layers."""

from __future__ import annotations

from torsh import _C
from torsh._fn import creation
from torsh._fn._args import ShapeError, int_arg
from torsh.autograd import no_grad
from torsh.nn import functional as F
from torsh.nn import init
from torsh.nn.module import Module, Parameter


class _Norm(Module):
    """Weight, bias and running statistics, one number each per channel."""

    ranks: tuple[int, ...] = ()
    words = ""

    def __init__(self, num_features, eps, momentum, affine, track_running_stats, device, dtype):
        super().__init__()
        n = int_arg(num_features, type(self).__name__, "num_features")
        if n < 0:
            raise ValueError(f"{type(self).__name__}(): num_features must be >= 0, got {n}")
        self.num_features, self.eps, self.momentum = n, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        for name in ("weight", "bias"):
            if affine:
                setattr(self, name, Parameter(creation.empty(n, device=device, dtype=dtype)))
            else:
                self.register_parameter(name, None)
        stats = track_running_stats
        self.register_buffer("running_mean", creation.zeros(n, device=device, dtype=dtype) if stats else None)
        self.register_buffer("running_var", creation.ones(n, device=device, dtype=dtype) if stats else None)
        self.register_buffer(
            "num_batches_tracked", _C.full([], 0, _C.int64, device)
            if stats else None,
        )  # fmt: skip
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches."""
        if self.track_running_stats:
            with no_grad():
                self.running_mean.zero_()
                self.running_var.fill_(1)
                self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and fresh statistics."""
        self.reset_running_stats()
        if self.affine:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def _check(self, input) -> None:
        if input.ndim not in self.ranks:
            raise ShapeError(f"expected {self.words} input (got {input.ndim}D input)")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Norm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, input):
        self._check(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            with no_grad():
                self.num_batches_tracked.add_(1)
            if self.momentum is None:
                # The mean of all batches so far.
                momentum = 1.0 / self.num_batches_tracked.to(_C.float32)
        batch = self.training or (self.running_mean is None and self.running_var is None)
        track = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if track else None,
            self.running_var if track else None,
            self.weight,
            self.bias,
            batch,
            momentum,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    """`functional.batch_norm` of [N, C] or [N, C, L], with learned weight and bias and running statistics; in eval mode
    those are used.

    >>> torsh.nn.BatchNorm1d(3)(torsh.arange(6.0).reshape(2, 3)).round(decimals=3).tolist()
    [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]
    """

    ranks, words = (2, 3), "2D or 3D"


class BatchNorm2d(_BatchNorm):
    """`functional.batch_norm` of [N, C, H, W], with learned weight and bias and running statistics; in eval mode those
    are used.

    >>> torsh.nn.BatchNorm2d(3).eval()(torsh.ones(1, 3, 2, 2)).shape
    torsh.Size([1, 3, 2, 2])
    """

    ranks, words = (4,), "4D"


class _InstanceNorm(_Norm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, input):
        self._check(input)
        unbatched = input.ndim == min(self.ranks)
        x = input.unsqueeze(0) if unbatched else input
        y = F.instance_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum,
            self.eps,
        )
        return y.squeeze(0) if unbatched else y


class InstanceNorm1d(_InstanceNorm):
    """`functional.instance_norm` of [N, C, L] or [C, L]."""

    ranks, words = (2, 3), "2D or 3D"


class InstanceNorm2d(_InstanceNorm):
    """`functional.instance_norm` of [N, C, H, W] or [C, H, W]."""

    ranks, words = (3, 4), "3D or 4D"


class GroupNorm(Module):
    """`functional.group_norm` with learned weight and bias per channel.

    >>> torsh.nn.GroupNorm(2, 4)(torsh.ones(1, 4, 3)).shape
    torsh.Size([1, 4, 3])
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device=None, dtype=None
    ):
        super().__init__()
        groups = int_arg(num_groups, "GroupNorm", "num_groups")
        channels = int_arg(num_channels, "GroupNorm", "num_channels")
        if groups < 1 or channels % groups:
            raise ValueError("num_channels must be divisible by num_groups")
        self.num_groups, self.num_channels, self.eps, self.affine = groups, channels, eps, affine
        for name, make in (("weight", creation.ones), ("bias", creation.zeros)):
            if affine:
                setattr(self, name, Parameter(make(channels, device=device, dtype=dtype)))
            else:
                self.register_parameter(name, None)

    def forward(self, input):
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
