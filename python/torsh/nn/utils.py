"""Helpers around parameters."""

from __future__ import annotations

from torsh import _C
from torsh._fn import reduce, shape
from torsh.autograd import no_grad


def _tensors(parameters) -> list:
    ps = [parameters] if isinstance(parameters, _C.Tensor) else list(parameters)
    return [p for p in ps if p.grad is not None]


@no_grad()
def clip_grad_norm_(
    parameters, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach=None
):
    """Scales all gradients so that their joint norm is at most `max_norm`; returns the norm before."""
    ps = _tensors(parameters)
    if not ps:
        return _C.full([], 0.0, _C.float32, None)
    norms = shape.stack([reduce.norm(p.grad, norm_type) for p in ps])
    total = reduce.norm(norms, norm_type)
    if error_if_nonfinite and not bool(total < float("inf")):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped."
        )
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for p in ps:
        p.grad = p.grad * scale
    return total


@no_grad()
def clip_grad_value_(parameters, clip_value: float) -> None:
    """Clamps every gradient to [-clip_value, clip_value]."""
    for p in _tensors(parameters):
        p.grad = p.grad.clamp(-float(clip_value), float(clip_value))


def parameters_to_vector(parameters):
    """All parameters in one 1-d tensor."""
    return shape.cat([p.reshape(-1) for p in parameters])


@no_grad()
def vector_to_parameters(vec, parameters) -> None:
    """Overwrites parameters from a 1-d tensor."""
    at = 0
    for p in parameters:
        n = p.numel()
        p.copy_(vec[at : at + n].reshape(list(p.shape)))
        at += n
