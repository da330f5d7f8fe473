"""Adam and AdamW."""

from __future__ import annotations

from torsh import _C
from torsh.optim.optimizer import Optimizer, check_range


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), as in `torch.optim.Adam`:
    `m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`; weight decay is added to the gradient.

    >>> p = torsh.nn.Parameter(torsh.ones(1))
    >>> p.sum().backward()
    >>> torsh.optim.Adam([p], lr=0.1).step()
    >>> round(p.item(), 4)
    0.9
    """

    _decoupled = False

    def __init__(
        self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False, foreach=None,
        capturable: bool = False, differentiable: bool = False, fused=None, decoupled_weight_decay: bool | None = None,
    ):  # fmt: skip
        if decoupled_weight_decay is None:
            decoupled_weight_decay = self._decoupled
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
                "maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay,
            },
        )  # fmt: skip

    def _check(self, group: dict) -> None:
        check_range("learning rate", group["lr"])
        check_range("epsilon value", group["eps"])
        check_range("weight_decay value", group["weight_decay"])
        betas = group["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        for i, b in enumerate(betas):
            check_range(f"beta parameter at index {i}", b, 0.0, 1.0, below=True)

    def _init_state(self, p, group) -> None:
        zero = lambda: _C.full(list(p.shape), 0.0, p.dtype, p.device)  # noqa: E731
        state = {"step": _C.full([], 0.0, _C.float32, p.device), "exp_avg": zero(), "exp_avg_sq": zero()}
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = zero()
        self.state[p] = state

    def _update(self, p, grad, state, group, lr) -> None:
        b1, b2 = group["betas"]
        wd, eps = group["weight_decay"], group["eps"]
        value = p
        if wd and group["decoupled_weight_decay"]:
            value = value * (1.0 - lr * wd)
        elif wd:
            grad = grad + p * wd
        step = state["step"] + 1.0
        m = state["exp_avg"] * b1 + grad * (1.0 - b1)
        v = state["exp_avg_sq"] * b2 + grad * grad * (1.0 - b2)
        _C.assign(state["step"], step)
        _C.assign(state["exp_avg"], m)
        _C.assign(state["exp_avg_sq"], v)
        # 1 - b^t as -expm1(t log b), which keeps its digits for small t and b near 1.
        c1, c2 = _power_gap(b1, step), _power_gap(b2, step)
        if group["amsgrad"]:
            v = _C.binary("maximum", state["max_exp_avg_sq"], v)
            _C.assign(state["max_exp_avg_sq"], v)
        if p.dtype != _C.float32:
            c1, c2 = _C.cast(c1, p.dtype), _C.cast(c2, p.dtype)
        denom = v.sqrt() / c2.sqrt() + eps
        _C.assign(p, value - (lr / c1) * (m / denom))


def _power_gap(beta: float, step):
    import math

    if beta == 0.0:
        return step * 0.0 + 1.0
    return -_C.unary("expm1", step * math.log(beta))


class AdamW(Adam):
    """Adam with weight decay applied to the parameter itself, `p *= 1 - lr * weight_decay` (Loshchilov and
    Hutter, 2019), as in `torch.optim.AdamW`."""

    _decoupled = True

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas=(0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **kwargs,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **kwargs)
