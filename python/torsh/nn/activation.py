"""Activations as modules."""

from __future__ import annotations

from collections.abc import Callable

from torsh.nn import functional as F
from torsh.nn.module import Module


class _Plain(Module):
    """An activation without options."""

    _fn: Callable

    def forward(self, input):
        """The activation of every element."""
        return type(self)._fn(input)


class _InPlace(Module):
    """An activation that may overwrite its input."""

    _fn: Callable

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input):
        """The activation of every element."""
        return type(self)._fn(input, inplace=self.inplace)

    def extra_repr(self) -> str:
        """`inplace`, where it is set."""
        return "inplace=True" if self.inplace else ""


class ReLU(_InPlace):
    """`max(x, 0)`."""

    _fn = staticmethod(F.relu)


class ReLU6(_InPlace):
    """`min(max(x, 0), 6)`."""

    _fn = staticmethod(F.relu6)


class SiLU(_InPlace):
    """`x * sigmoid(x)`."""

    _fn = staticmethod(F.silu)


class Mish(_InPlace):
    """`x * tanh(softplus(x))`."""

    _fn = staticmethod(F.mish)


class SELU(_InPlace):
    """Scaled ELU (Klambauer et al., 2017)."""

    _fn = staticmethod(F.selu)


class Hardswish(_InPlace):
    """`x * relu6(x + 3) / 6`."""

    _fn = staticmethod(F.hardswish)


class Hardsigmoid(_InPlace):
    """`relu6(x + 3) / 6`."""

    _fn = staticmethod(F.hardsigmoid)


class Tanh(_Plain):
    """Hyperbolic tangent."""

    _fn = staticmethod(F.tanh)


class Sigmoid(_Plain):
    """`1 / (1 + exp(-x))`."""

    _fn = staticmethod(F.sigmoid)


class LogSigmoid(_Plain):
    """`log(sigmoid(x))`."""

    _fn = staticmethod(F.logsigmoid)


class Softsign(_Plain):
    """`x / (1 + |x|)`."""

    _fn = staticmethod(F.softsign)


class Identity(Module):
    """The input itself; takes and ignores any arguments."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, input):
        return input


class GELU(Module):
    """Gaussian error linear unit, exact or with `approximate="tanh"`."""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU(): approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, input):
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class LeakyReLU(Module):
    """`x` where positive, else `negative_slope * x`."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__()
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, input):
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """`x` where positive, else `alpha * (exp(x) - 1)`."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input):
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class CELU(Module):
    """`x` where positive, else `alpha * (exp(x / alpha) - 1)` (Barron, arXiv:1704.07483)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input):
        return F.celu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Hardtanh(Module):
    """Clamp to [min_val, max_val]."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        super().__init__()
        if not min_val < max_val:
            raise ValueError(f"Hardtanh(): min_val must be below max_val, got {min_val} and {max_val}")
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace

    def forward(self, input):
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class Softplus(Module):
    """`log(1 + exp(beta x)) / beta`, the identity beyond the threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input):
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softmax(Module):
    """`softmax` along a dim."""

    def __init__(self, dim=None):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """`log_softmax` along a dim."""

    def __init__(self, dim=None):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return F.log_softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
