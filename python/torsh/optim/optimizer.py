"""Base of the optimizers.

State tensors exist from the start, so that a compiled step finds them as inputs and updates them in place.
The learning rate is read through `_C.captured_float`: inside `torsh.compile` it is an input that is read
again at each call, so that a schedule never recompiles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from torsh import _C
from torsh.autograd import enable_grad, no_grad

Tensor = _C.Tensor


class Optimizer:
    """`params` is an iterable of tensors, of (name, tensor) pairs, or of dicts with a "params" entry and
    options of their own."""

    def __init__(self, params, defaults: dict):
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got a Tensor"
            )
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        self.defaults = defaults
        self.state: defaultdict = defaultdict(dict)
        self.param_groups: list[dict] = []
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: dict) -> None:
        """Adds parameters with options of their own."""
        if not isinstance(group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(group).__name__}")
        group = {**self.defaults, **group}
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        params = [p[1] if isinstance(p, tuple) else p for p in params]
        known = {id(p) for g in self.param_groups for p in g["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
            if id(p) in known:
                raise ValueError("some parameters appear in more than one parameter group")
            known.add(id(p))
        group["params"] = params
        self._check(group)
        self.param_groups.append(group)
        with no_grad():
            for p in params:
                self._init_state(p, group)

    def _check(self, group: dict) -> None:
        """Raises ValueError for options out of range."""

    def _init_state(self, p: Tensor, group: dict) -> None:
        """Makes the state tensors of one parameter."""

    def _update(self, p: Tensor, grad: Tensor, state: dict, group: dict, lr) -> None:
        """Updates one parameter and its state in place."""
        raise NotImplementedError

    def step(self, closure: Callable | None = None):
        """One update of every parameter that has a gradient; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            if _C.has_devices():
                self._follow()
            for group in self.param_groups:
                lr = group["lr"]
                if isinstance(lr, float):
                    lr = _C.captured_float(group, "lr")
                for p in group["params"]:
                    grad = p.grad
                    if grad is None:
                        continue
                    if group["maximize"]:
                        grad = -grad
                    self._update(p, grad, self.state[p], group, lr)
        return loss

    def _follow(self) -> None:
        """Brings the state of parameters that have moved to their device."""
        for p, state in self.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.device != p.device:
                    state[key] = _C.to_device(value, p.device)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops (or zeroes) the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if set_to_none:
                        p.grad = None
                    else:
                        p.grad.detach_()
                        p.grad.zero_()

    def state_dict(self) -> dict:
        """Options and state by parameter number."""
        index = {}
        for group in self.param_groups:
            for p in group["params"]:
                index[id(p)] = len(index)
        groups = [
            {k: ([index[id(p)] for p in v] if k == "params" else v) for k, v in g.items()} for g in self.param_groups
        ]
        return {"state": {index[id(p)]: dict(s) for p, s in self.state.items() if s}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restores what `state_dict` returned; nothing is changed when it does not fit."""
        saved = state_dict["param_groups"]
        if len(saved) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(s["params"]) != len(g["params"]) for s, g in zip(saved, self.param_groups, strict=False)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        pairs = []
        for s, g in zip(saved, self.param_groups, strict=False):
            for number, p in zip(s["params"], g["params"], strict=False):
                new = state_dict["state"].get(number, {})
                for key, value in new.items():
                    old = self.state[p].get(key)
                    if isinstance(old, Tensor) and (not isinstance(value, Tensor) or value.shape != old.shape):
                        raise ValueError(
                            f"loaded state {key!r} of parameter {number} does not have shape {list(old.shape)}"
                        )
                pairs.append((p, new))
        with no_grad():
            for p, new in pairs:
                for key, value in new.items():
                    old = self.state[p].get(key)
                    if isinstance(old, Tensor):
                        old.copy_(value)
                    else:
                        self.state[p][key] = (
                            _C.to_device(value.clone(), p.device) if isinstance(value, Tensor) else value
                        )
        for s, g in zip(saved, self.param_groups, strict=False):
            g.update({k: v for k, v in s.items() if k != "params"})

    def __repr__(self) -> str:
        text = type(self).__name__ + " ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n" + "".join(
                f"    {k}: {v}\n" for k, v in sorted(group.items()) if k != "params"
            )
        return text + ")"


def check_range(name: str, value, lo: float = 0.0, hi: float = float("inf"), below: bool = False) -> None:
    """Refuses an option outside [lo, hi] (or [lo, hi) when `below`); tensors are taken as they are."""
    if isinstance(value, Tensor):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (lo <= value < hi if below else lo <= value <= hi):
        raise ValueError(f"Invalid {name}: {value}")
