"""Activations as modules."""

from __future__ import annotations

from torsh.nn import functional as F
from torsh.nn.module import Module


def _plain(name: str, fn: str, doc: str):
    def forward(self, input):
        return getattr(F, fn)(input)

    def __init__(self, inplace: bool = False):
        Module.__init__(self)
        self.inplace = inplace

    # `inplace` saves memory in PyTorch; here the memory plan decides, so it changes nothing but the repr.
    return type(name, (Module,), {"__doc__": doc, "__init__": __init__, "forward": forward, "__module__": "torsh.nn"})


ReLU = _plain("ReLU", "relu", "`max(x, 0)`.")
ReLU6 = _plain("ReLU6", "relu6", "`min(max(x, 0), 6)`.")
SiLU = _plain("SiLU", "silu", "`x * sigmoid(x)`.")
Mish = _plain("Mish", "mish", "`x * tanh(softplus(x))`.")
SELU = _plain("SELU", "selu", "Scaled ELU (Klambauer et al., 2017).")
Hardswish = _plain("Hardswish", "hardswish", "`x * relu6(x + 3) / 6`.")
Hardsigmoid = _plain("Hardsigmoid", "hardsigmoid", "`relu6(x + 3) / 6`.")
Tanh = _plain("Tanh", "tanh", "Hyperbolic tangent.")
Sigmoid = _plain("Sigmoid", "sigmoid", "`1 / (1 + exp(-x))`.")
LogSigmoid = _plain("LogSigmoid", "logsigmoid", "`log(sigmoid(x))`.")
Softsign = _plain("Softsign", "softsign", "`x / (1 + |x|)`.")


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
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """`x` where positive, else `alpha * (exp(x) - 1)`."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input):
        return F.elu(input, self.alpha)

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
        return F.hardtanh(input, self.min_val, self.max_val)

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
