"""RMSprop."""

from __future__ import annotations

from torsh import _C
from torsh.optim.optimizer import Optimizer, check_range


class RMSprop(Optimizer):
    """RMSprop (Hinton, 2012, lecture 6e), as in `torch.optim.RMSprop`: with `v = alpha v + (1 - alpha) g^2`,
    `p -= lr * g / (sqrt(v) + eps)`. `centered` takes the variance, `v - m^2` with `m = alpha m + (1 - alpha) g`
    (Graves, 2013); with `momentum`, `b = momentum * b + g / (sqrt(v) + eps)` takes the quotient's place; weight decay
    is added to the gradient.

    Raises: ValueError for an option out of range.

    >>> p = torsh.nn.Parameter(torsh.ones(1))
    >>> p.sum().backward()
    >>> torsh.optim.RMSprop([p], lr=0.05, alpha=0.75).step()
    >>> round(p.item(), 4)
    0.9
    """

    def __init__(
        self, params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
        momentum: float = 0.0, centered: bool = False, capturable: bool = False, foreach=None, maximize: bool = False,
        differentiable: bool = False,
    ):  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
        )

    def _check(self, group: dict) -> None:
        check_range("learning rate", group["lr"])
        check_range("epsilon value", group["eps"])
        check_range("momentum value", group["momentum"])
        check_range("weight_decay value", group["weight_decay"])
        check_range("alpha value", group["alpha"])

    def _init_state(self, p, group) -> None:
        zero = lambda: _C.full(list(p.shape), 0.0, p.dtype, p.device)  # noqa: E731
        state = {"step": _C.full([], 0.0, _C.float32, p.device), "square_avg": zero()}
        if group["momentum"]:
            state["momentum_buffer"] = zero()
        if group["centered"]:
            state["grad_avg"] = zero()
        self.state[p] = state

    def _update(self, p, grad, state, group, lr) -> None:
        alpha, momentum = group["alpha"], group["momentum"]
        # An option that was turned on after the start has no state yet.
        if (momentum and "momentum_buffer" not in state) or (group["centered"] and "grad_avg" not in state):
            old = dict(state)
            self._init_state(p, group)
            self.state[p].update(old)
            state = self.state[p]
        if group["weight_decay"]:
            grad = grad + p * group["weight_decay"]
        v = state["square_avg"] * alpha + grad * grad * (1.0 - alpha)
        _C.assign(state["step"], state["step"] + 1.0)
        _C.assign(state["square_avg"], v)
        if group["centered"]:
            mean = state["grad_avg"] * alpha + grad * (1.0 - alpha)
            _C.assign(state["grad_avg"], mean)
            v = v - mean * mean
        step = grad / (v.sqrt() + group["eps"])
        if momentum:
            step = state["momentum_buffer"] * momentum + step
            _C.assign(state["momentum_buffer"], step)
        _C.assign(p, p - step * lr)
