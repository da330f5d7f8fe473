"""Stochastic gradient descent."""

from __future__ import annotations

from torsh import _C
from torsh.optim.optimizer import Optimizer, check_range


class SGD(Optimizer):
    """`p -= lr * g`, with weight decay, momentum `b = momentum * b + (1 - dampening) * g` (b = g on the first
    step) and Nesterov's form (Sutskever et al., 2013), as in `torch.optim.SGD`.

    >>> p = torsh.nn.Parameter(torsh.ones(1))
    >>> p.sum().backward()
    >>> torsh.optim.SGD([p], lr=0.5).step()
    >>> p.tolist()
    [0.5]
    """

    def __init__(
        self, params, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0,
        nesterov: bool = False, *, maximize: bool = False, foreach=None, differentiable: bool = False, fused=None,
    ):  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _check(self, group: dict) -> None:
        check_range("learning rate", group["lr"])
        check_range("momentum value", group["momentum"])
        check_range("weight_decay value", group["weight_decay"])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _init_state(self, p, group) -> None:
        if group["momentum"]:
            self.state[p] = {"momentum_buffer": _C.full(list(p.shape), 0.0, p.dtype, p.device)}
            if group["dampening"]:
                self.state[p]["step"] = _C.full([], 0.0, _C.float32, p.device)

    def _update(self, p, grad, state, group, lr) -> None:
        if group["weight_decay"]:
            grad = grad + p * group["weight_decay"]
        m = group["momentum"]
        if m:
            if not state:
                self._init_state(p, group)
                state = self.state[p]
            buf = state["momentum_buffer"]
            d = group["dampening"]
            if d:
                # The first step takes the whole gradient; after it the buffer is damped.
                first = state["step"] == 0
                fresh = _C.where(first, grad, buf * m + grad * (1.0 - d))
                _C.assign(state["step"], state["step"] + 1.0)
            else:
                fresh = buf * m + grad
            _C.assign(buf, fresh)
            grad = grad + buf * m if group["nesterov"] else buf
        _C.assign(p, p - grad * lr)
