"""Functional forms of layers and losses, as in `torch.nn.functional`."""

from __future__ import annotations

import math

from torsh import _C
from torsh._fn import reduce as _reduce
from torsh._fn._args import (
    DTypeError,
    ShapeError,
    Tensor,
    dim_arg,
    int_arg,
    is_float,
    number_arg,
    require_float,
    store,
    tensor_arg,
    to_float,
)
from torsh._fn.attention import scaled_dot_product_attention
from torsh._fn.indexing import one_hot
from torsh._fn.random import dropout
from torsh._fn.shape import broadcast_tensors, pad
from torsh.nn import _resize, _spatial, _volumes, _windows
from torsh.nn._resize import *  # noqa: F403
from torsh.nn._spatial import *  # noqa: F403
from torsh.nn._volumes import *  # noqa: F403
from torsh.nn._windows import *  # noqa: F403

__all__ = [
    *_resize.__all__, *_spatial.__all__, *_volumes.__all__,
    *_windows.__all__,
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "bilinear", "celu", "cosine_similarity",
    "cross_entropy", "dropout",
    "elu", "embedding", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "huber_loss", "kl_div", "l1_loss",
    "layer_norm", "leaky_relu", "linear", "log_softmax", "logsigmoid", "mish", "mse_loss", "nll_loss", "normalize",
    "one_hot", "pad", "relu", "relu6", "rms_norm", "scaled_dot_product_attention",
    "selu", "sigmoid", "silu", "smooth_l1_loss", "softmax", "softmin", "softplus", "softsign", "tanh",
]  # fmt: skip


def _act(op: str, input, *attrs, fn: str | None = None, inplace: bool = False) -> Tensor:
    x = tensor_arg(input, fn or op)
    y = _C.apply(op, (to_float(x),), attrs)
    return store(x, y) if inplace else y


# -- activations -------------------------------------------------------------------------------------------


def relu(input, inplace: bool = False) -> Tensor:
    """`max(x, 0)`; the gradient at 0 is 0.

    >>> torsh.nn.functional.relu(torsh.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    x = tensor_arg(input, "relu")
    y = _C.apply("relu", (x,), ())
    return store(x, y) if inplace else y


def relu6(input, inplace: bool = False) -> Tensor:
    """`min(max(x, 0), 6)`; the gradient at 0 and 6 is 0."""
    return hardtanh(input, 0.0, 6.0, inplace)


def gelu(input, approximate: str = "none") -> Tensor:
    """`x * Phi(x)` (Hendrycks and Gimpel, 2016), exact or with the tanh approximation."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate argument must be either none or tanh, got {approximate!r}")
    return _act("gelu" if approximate == "none" else "gelu_tanh", input, fn="gelu")


def silu(input, inplace: bool = False) -> Tensor:
    """`x * sigmoid(x)`."""
    return _act("silu", input, inplace=inplace)


def mish(input, inplace: bool = False) -> Tensor:
    """`x * tanh(softplus(x))`."""
    return _act("mish", input, inplace=inplace)


def elu(input, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """`x` where positive, else `alpha * (exp(x) - 1)`."""
    return _act("elu", input, float(number_arg(alpha, "elu", "alpha")), inplace=inplace)


def celu(input, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """`x` where positive, else `alpha * (exp(x / alpha) - 1)`."""
    return _act("celu", input, float(number_arg(alpha, "celu", "alpha")), inplace=inplace)


def selu(input, inplace: bool = False) -> Tensor:
    """Scaled ELU."""
    return _act("selu", input, inplace=inplace)


def leaky_relu(input, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """`x` where positive, else `negative_slope * x`."""
    slope = float(number_arg(negative_slope, "leaky_relu", "negative_slope"))
    return _act("leaky_relu", input, slope, inplace=inplace)


def hardtanh(input, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Clamp to [min_val, max_val]; unlike `clamp`, the gradient at the bounds is 0."""
    lo, hi = number_arg(min_val, "hardtanh", "min_val"), number_arg(max_val, "hardtanh", "max_val")
    if not lo <= hi:
        raise ValueError(f"hardtanh(): min_val must not exceed max_val, got {min_val} and {max_val}")
    x = tensor_arg(input, "hardtanh")
    y = _C.apply("hardtanh", (x,), (float(lo), float(hi)))
    return store(x, y) if inplace else y


def hardsigmoid(input, inplace: bool = False) -> Tensor:
    """`relu6(x + 3) / 6`."""
    return _act("hardsigmoid", input, inplace=inplace)


def hardswish(input, inplace: bool = False) -> Tensor:
    """`x * relu6(x + 3) / 6`."""
    return _act("hardswish", input, inplace=inplace)


def softplus(input, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """`log(1 + exp(beta x)) / beta`; the identity where `beta x > threshold`."""
    beta, threshold = number_arg(beta, "softplus", "beta"), number_arg(threshold, "softplus", "threshold")
    return _act("softplus", input, float(beta), float(threshold))


def softsign(input) -> Tensor:
    """`x / (1 + |x|)`."""
    return _act("softsign", input)


def logsigmoid(input) -> Tensor:
    """`log(sigmoid(x))` without overflow."""
    return _act("logsigmoid", input)


def sigmoid(input) -> Tensor:
    """`1 / (1 + exp(-x))`."""
    return _C.unary("sigmoid", input)


def tanh(input) -> Tensor:
    """Hyperbolic tangent."""
    return _C.unary("tanh", input)


def glu(input, dim: int = -1) -> Tensor:
    """Gated linear unit: the first half times the sigmoid of the second."""
    x = tensor_arg(input, "glu")
    d = dim_arg(dim, x.ndim, "glu")
    if x.ndim == 0 or x.shape[d] % 2:
        raise ShapeError(f"glu(): halving dimension must be even, but dimension {d} of {list(x.shape)} is not")
    a, b = x.chunk(2, d)
    return a * b.sigmoid()


def _softmax(op: str, input, dim, dtype) -> Tensor:
    x = tensor_arg(input, op)
    if dim is None:
        # PyTorch's old implicit choice, without its warning's surprise for other ranks.
        dim = 0 if x.ndim in (0, 1, 3) else 1
    d = dim_arg(dim, x.ndim, op)
    x = _C.cast(x, _C.PyDType(dtype)) if dtype is not None else x
    require_float(x, op)
    if x.ndim == 0:
        return _C.apply(op, (x.reshape(1),), (0,)).reshape([])
    return _C.apply(op, (x,), (d,))


def softmax(input, dim=None, _stacklevel: int = 3, dtype=None) -> Tensor:
    """`e * (1 / sum(e))` along `dim`, with `e = exp(x - max(x))`.

    >>> torsh.nn.functional.softmax(torsh.zeros(2), dim=0).tolist()
    [0.5, 0.5]
    """
    return _softmax("softmax", input, dim, dtype)


def log_softmax(input, dim=None, _stacklevel: int = 3, dtype=None) -> Tensor:
    """`x - logsumexp(x)` along `dim`."""
    return _softmax("log_softmax", input, dim, dtype)


def softmin(input, dim=None, dtype=None) -> Tensor:
    """`softmax(-x)`."""
    return softmax(-tensor_arg(input, "softmin"), dim, dtype=dtype)


# -- layers ------------------------------------------------------------------------------------------------


def linear(input, weight, bias=None) -> Tensor:
    """`input @ weight.T + bias`: input [.., in], weight [out, in], bias [out].

    >>> torsh.nn.functional.linear(torsh.ones(1, 2), torsh.ones(3, 2)).tolist()
    [[2.0, 2.0, 2.0]]
    """
    x, w = tensor_arg(input, "linear"), tensor_arg(weight, "linear", "weight")
    if w.ndim not in (1, 2) or x.ndim == 0 or x.shape[-1] != w.shape[-1]:
        raise ShapeError(
            f"linear(): input of shape {list(x.shape)} does not fit weight of shape {list(w.shape)}: "
            "expected input [..., in_features] and weight [out_features, in_features]"
        )
    y = _C.matmul(x, w.transpose(0, 1) if w.ndim == 2 else w)
    return y if bias is None else y + tensor_arg(bias, "linear", "bias")


def bilinear(input1, input2, weight, bias=None) -> Tensor:
    """`x1 @ weight[k] @ x2 + bias[k]` for each k."""
    from torsh._fn.linalg import einsum

    a, b, w = tensor_arg(input1, "bilinear"), tensor_arg(input2, "bilinear"), tensor_arg(weight, "bilinear", "weight")
    y = einsum("...i,kij,...j->...k", a, w, b)
    return y if bias is None else y + bias


def embedding(input, weight, padding_idx=None) -> Tensor:
    """Rows of `weight` [n, dim] named by the integers of `input`: result [.., dim]. The row `padding_idx`
    gets no gradient.

    Raises: IndexError (when the values are computed) for an index outside 0..n-1.
    """
    i, w = tensor_arg(input, "embedding"), tensor_arg(weight, "embedding", "weight")
    if i.dtype.name not in ("int64", "int32"):
        raise DTypeError(f"embedding(): expected indices of dtype int64 or int32, got {i.dtype.name}")
    if w.ndim != 2:
        raise ShapeError(f"embedding(): 'weight' must be 2-D, got shape {list(w.shape)}")
    if padding_idx is not None:
        p = int_arg(padding_idx, "embedding", "padding_idx")
        if not -w.shape[0] <= p < w.shape[0]:
            raise ValueError(f"embedding(): padding_idx {p} must be within the {w.shape[0]} rows")
        row = _C.apply("iota", (), (0, _C.int64, [w.shape[0]]), w.device) == p % w.shape[0]
        w = _C.where(row.unsqueeze(1), w.detach(), w)
    flat = _C.cast(i, _C.int64).reshape([i.numel()])
    return _C.apply("take", (w, flat), (0,)).reshape([*i.shape, w.shape[1]])


def layer_norm(input, normalized_shape, weight=None, bias=None, eps: float = 1e-5) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias` over the last dims, which are `normalized_shape`."""
    x = require_float(tensor_arg(input, "layer_norm"), "layer_norm")
    shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
    n = len(shape)
    if n == 0 or list(x.shape[x.ndim - n :]) != shape or n > x.ndim:
        raise ShapeError(
            f"layer_norm(): normalized_shape={shape} does not match the last dims of input {list(x.shape)}"
        )
    for name, p in (("weight", weight), ("bias", bias)):
        if p is not None and list(tensor_arg(p, "layer_norm", name).shape) != shape:
            raise ShapeError(f"layer_norm(): {name} of shape {list(p.shape)} must have shape {shape}")
    if bias is not None:
        operands = (x, _C.full(shape, 1, x.dtype, x.device) if weight is None else weight, bias)
    else:
        operands = (x,) if weight is None else (x, weight)
    return _C.apply("layer_norm", operands, (n, float(eps)))


def rms_norm(input, normalized_shape, weight=None, eps=None) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dims."""
    x = require_float(tensor_arg(input, "rms_norm"), "rms_norm")
    shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
    if not shape or list(x.shape[x.ndim - len(shape) :]) != shape:
        raise ShapeError(f"rms_norm(): normalized_shape={shape} does not match the last dims of input {list(x.shape)}")
    if eps is None:
        from torsh._dtype_info import finfo

        eps = finfo(x.dtype).eps
    if weight is not None and list(tensor_arg(weight, "rms_norm", "weight").shape) != shape:
        raise ShapeError(f"rms_norm(): weight of shape {list(weight.shape)} must have shape {shape}")
    operands = (x,) if weight is None else (x, weight)
    return _C.apply("rms_norm", operands, (len(shape), float(eps)))


def normalize(input, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """`x / max(norm(x), eps)` along `dim`."""
    x = require_float(tensor_arg(input, "normalize"), "normalize")
    return x / _reduce.norm(x, p, dim, True).clamp(min=eps)


def cosine_similarity(x1, x2, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Cosine of the angle along `dim`."""
    a, b = broadcast_tensors(tensor_arg(x1, "cosine_similarity", "x1"), tensor_arg(x2, "cosine_similarity", "x2"))
    na, nb = _reduce.norm(a, 2, dim, True).clamp(min=eps), _reduce.norm(b, 2, dim, True).clamp(min=eps)
    return ((a / na) * (b / nb)).sum(dim)


# -- losses ------------------------------------------------------------------------------------------------


def _reduction(reduction: str, fn: str) -> str:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{fn}(): {reduction!r} is not a valid value for reduction; expected 'none', 'mean' or 'sum'")
    return reduction


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _pair(input, target, fn: str):
    x, y = tensor_arg(input, fn), tensor_arg(target, fn, "target")
    if x.shape != y.shape:
        import warnings

        warnings.warn(
            f"{fn}(): target size {list(y.shape)} differs from input size {list(x.shape)}; both are broadcast, which "
            "is "
            "rarely meant",
            stacklevel=3,
        )
        x, y = broadcast_tensors(x, y)
    dtype = _C.result_type(x, y)
    if not dtype.is_floating_point:
        raise DTypeError(f"{fn}(): expected a floating point dtype, got {x.dtype.name} and {y.dtype.name}")
    return _C.cast(x, dtype), _C.cast(y, dtype)


def mse_loss(input, target, size_average=None, reduce=None, reduction: str = "mean") -> Tensor:
    """`(input - target)^2`, averaged by default."""
    _reduction(reduction, "mse_loss")
    x, y = _pair(input, target, "mse_loss")
    return _C.apply("mse_loss", (x, y), (reduction,))


def l1_loss(input, target, size_average=None, reduce=None, reduction: str = "mean") -> Tensor:
    """`|input - target|`, averaged by default."""
    _reduction(reduction, "l1_loss")
    x, y = _pair(input, target, "l1_loss")
    return _C.apply("l1_loss", (x, y), (reduction,))


def smooth_l1_loss(input, target, size_average=None, reduce=None, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """`d^2 / (2 beta)` where `|d| < beta`, else `|d| - beta / 2`."""
    _reduction(reduction, "smooth_l1_loss")
    beta = number_arg(beta, "smooth_l1_loss", "beta")
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss does not support negative values for beta, got {beta}")
    x, y = _pair(input, target, "smooth_l1_loss")
    return _C.apply("smooth_l1_loss", (x, y), (reduction, float(beta)))


def huber_loss(input, target, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """`d^2 / 2` where `|d| <= delta`, else `delta (|d| - delta / 2)`."""
    _reduction(reduction, "huber_loss")
    delta = number_arg(delta, "huber_loss", "delta")
    if not delta > 0:
        raise ValueError(f"huber_loss does not support non-positive values for delta, got {delta}")
    x, y = _pair(input, target, "huber_loss")
    return _C.apply("huber_loss", (x, y), (reduction, float(delta)))


def _axis(x: Tensor) -> int:
    return 0 if x.ndim == 1 else 1


def _class_axis(x: Tensor, y: Tensor, fn: str) -> None:
    axis = _axis(x)
    want = [*x.shape[:axis], *x.shape[axis + 1 :]]
    if x.ndim == 0 or list(y.shape) != want:
        raise ShapeError(
            f"{fn}(): input of shape {list(x.shape)} needs class indices of shape {want if x.ndim else '?'}, "
            f"got target of shape {list(y.shape)}"
        )


def _target(y: Tensor, fn: str) -> Tensor:
    if y.dtype.name not in ("int64", "int32", "int16", "int8", "uint8"):
        raise DTypeError(f"{fn}(): expected class indices of dtype int64, got {y.dtype.name}")
    return _C.cast(y, _C.int64)


def _with_weight(x: Tensor, y: Tensor, weight, fn: str):
    if weight is None:
        return x, y
    w, n = tensor_arg(weight, fn, "weight"), x.shape[_axis(x)]
    if list(w.shape) != [n]:
        raise ShapeError(f"{fn}(): weight must have shape [{n}], a number for each class, got {list(w.shape)}")
    return x, y, _C.cast(w, x.dtype)


def nll_loss(
    input, target, weight=None, size_average=None, ignore_index: int = -100, reduce=None, reduction: str = "mean"
) -> Tensor:
    """`-weight[target] * input[target]` for log-probabilities [N, C, ..] and class indices [N, ..]; the mean is
    weighted. Targets equal to `ignore_index` count nothing.

    Raises: IndexError (when the values are computed) for a class outside 0..C-1.
    """
    _reduction(reduction, "nll_loss")
    x = require_float(tensor_arg(input, "nll_loss"), "nll_loss")
    y = _target(tensor_arg(target, "nll_loss", "target"), "nll_loss")
    _class_axis(x, y, "nll_loss")
    operands = _with_weight(x, y, weight, "nll_loss")
    return _C.apply("nll_loss", operands, (reduction, int_arg(ignore_index, "nll_loss", "ignore_index")))


def cross_entropy(
    input, target, weight=None, size_average=None, ignore_index: int = -100, reduce=None, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """`-log_softmax(input)[target]`: logits [N, C, ..] or [C], class indices [N, ..], or probabilities of the
    logits' shape.

    Raises: ShapeError, DTypeError; IndexError (when the values are computed) for a class outside 0..C-1.

    >>> torsh.nn.functional.cross_entropy(torsh.zeros(1, 4), torsh.tensor([2])).item() > 1.38
    True
    """
    _reduction(reduction, "cross_entropy")
    x = require_float(tensor_arg(input, "cross_entropy"), "cross_entropy")
    y = tensor_arg(target, "cross_entropy", "target")
    s = float(number_arg(label_smoothing, "cross_entropy", "label_smoothing"))
    if not 0.0 <= s <= 1.0:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0. Got: {s}")
    if is_float(y):
        return _soft_cross_entropy(x, y, weight, reduction, s)
    y = _target(y, "cross_entropy")
    _class_axis(x, y, "cross_entropy")
    operands = _with_weight(x, y, weight, "cross_entropy")
    attrs = (reduction, int_arg(ignore_index, "cross_entropy", "ignore_index"), s)
    return _C.apply("cross_entropy", operands, attrs)


def _soft_cross_entropy(x: Tensor, y: Tensor, weight, reduction: str, s: float) -> Tensor:
    if x.shape != y.shape:
        raise ShapeError(
            f"cross_entropy(): probabilities must have the logits' shape {list(x.shape)}, got {list(y.shape)}"
        )
    axis = _axis(x)
    if s:
        y = y * (1.0 - s) + s / x.shape[axis]
    terms = y * log_softmax(x, axis)
    if weight is not None:
        terms = terms * tensor_arg(weight, "cross_entropy", "weight").reshape(
            [-1 if i == axis else 1 for i in range(x.ndim)]
        )
    loss = -terms.sum(axis)
    if reduction == "mean":
        return loss.sum() / max(1, math.prod(x.shape) // x.shape[axis])
    return _reduced(loss, reduction)


def binary_cross_entropy(input, target, weight=None, size_average=None, reduce=None, reduction: str = "mean") -> Tensor:
    """`-(y log x + (1 - y) log(1 - x))` for probabilities; logarithms are cut at -100 as in PyTorch.

    Raises: RuntimeError (when the loss is computed) for an input outside [0, 1] or NaN.
    """
    _reduction(reduction, "binary_cross_entropy")
    x, y = _pair(input, target, "binary_cross_entropy")
    good = _C.check(
        ((x >= 0) & (x <= 1)).all(), "binary_cross_entropy(): all elements of input should be between 0 and 1"
    )
    if weight is None:
        return _C.apply("binary_cross_entropy", (x, y), (reduction,)) + good
    return _reduced(_C.apply("binary_cross_entropy", (x, y), ("none",)) * weight, reduction) + good


def binary_cross_entropy_with_logits(
    input, target, weight=None, size_average=None, reduce=None, reduction: str = "mean", pos_weight=None
) -> Tensor:
    """Binary cross entropy of `sigmoid(input)`, without overflow."""
    _reduction(reduction, "binary_cross_entropy_with_logits")
    fn = "binary_cross_entropy_with_logits"
    operands = _pair(input, target, fn)
    if pos_weight is not None:
        p = _C.cast(tensor_arg(pos_weight, fn, "pos_weight"), operands[0].dtype)
        operands = (*operands, p.expand(list(operands[0].shape)))
    if weight is None:
        return _C.apply(fn, operands, (reduction,))
    return _reduced(_C.apply(fn, operands, ("none",)) * weight, reduction)


def kl_div(input, target, size_average=None, reduce=None, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """`target * (log target - input)`; "batchmean" divides the sum by the batch size."""
    if reduction != "batchmean":
        _reduction(reduction, "kl_div")
    x, y = _pair(input, target, "kl_div")
    if reduction != "batchmean":
        return _C.apply("kl_div", (x, y), (reduction, bool(log_target)))
    return _C.apply("kl_div", (x, y), ("sum", bool(log_target))) / (x.shape[0] if x.ndim else 1)
