"""Adagrad."""

from __future__ import annotations

from torsh import _C
from torsh.optim.optimizer import Optimizer, check_range


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer, 2011), as in `torch.optim.Adagrad`: with the sum of squared gradients
    `s += g^2`, `p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)`; weight decay is added to the gradient.

    Raises: ValueError for an option out of range.

    >>> p = torsh.nn.Parameter(torsh.ones(1))
    >>> p.sum().backward()
    >>> torsh.optim.Adagrad([p], lr=0.5).step()
    >>> p.tolist()
    [0.5]
    """

    def __init__(
        self, params, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10, foreach=None, *, maximize: bool = False,
        differentiable: bool = False, fused=None,
    ):  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "maximize": maximize,
            },
        )

    def _check(self, group: dict) -> None:
        check_range("learning rate", group["lr"])
        check_range("lr_decay value", group["lr_decay"])
        check_range("weight_decay value", group["weight_decay"])
        check_range("initial_accumulator_value value", group["initial_accumulator_value"])
        check_range("epsilon value", group["eps"])

    def _init_state(self, p, group) -> None:
        start = float(group["initial_accumulator_value"])
        self.state[p] = {
            "step": _C.full([], 0.0, _C.float32, p.device),
            "sum": _C.full(list(p.shape), start, p.dtype, p.device),
        }

    def _update(self, p, grad, state, group, lr) -> None:
        if group["weight_decay"]:
            grad = grad + p * group["weight_decay"]
        total = state["sum"] + grad * grad
        if group["lr_decay"]:
            step = state["step"] if p.dtype != _C.float64 else _C.cast(state["step"], _C.float64)
            rate = _C.cast(lr / (step * group["lr_decay"] + 1.0), p.dtype)
        else:
            rate = lr
        _C.assign(state["step"], state["step"] + 1.0)
        _C.assign(state["sum"], total)
        _C.assign(p, p - grad / (total.sqrt() + group["eps"]) * rate)
