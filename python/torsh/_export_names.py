"""What an exported function can reach: names of tensors, and the places that a trace must leave as they were."""

from __future__ import annotations

import contextlib
import functools
import types
from typing import Any

from torsh import _C
from torsh._compile import Compiled
from torsh._fn.random import Generator
from torsh._package import Program

__all__ = ["Names", "is_whole", "unchanged"]

Tensor = _C.Tensor
_MAX_WALK = 20000
_ABSENT = object()


@contextlib.contextmanager
def unchanged(fn):
    """Puts back what `fn` reaches from its variables and attributes: a trace leaves tensors without values there."""
    before = _Places()
    before.root(fn)
    try:
        yield
    finally:
        if any([_put_back(place, was) for place, was in before.places]):
            _C.bump_module_epoch()


def _put_back(place, was) -> bool:
    """Whether a dict, a list or a closure cell holds something else than it did, which is then put back."""
    if isinstance(place, types.CellType):
        if _contents(place) is was:
            return False
        if was is _ABSENT:
            del place.cell_contents
        else:
            place.cell_contents = was
        return True
    if isinstance(place, list):
        if len(place) == len(was) and all(x is y for x, y in zip(place, was, strict=True)):
            return False
        place[:] = was
        return True
    partly = any(v is _ABSENT for v in was.values()) or "__builtins__" in place
    new = [] if partly else [k for k in place if k not in was]
    old = {k: v for k, v in was.items() if place.get(k, _ABSENT) is not v}
    for k in new:
        del place[k]
    for k, v in old.items():
        if v is _ABSENT:
            place.pop(k, None)
        else:
            place[k] = v
    return bool(new or old)


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:
        return _ABSENT


def is_whole(x: Tensor) -> bool:
    """Whether a tensor has all elements of its memory, in their shape and order."""
    base = x._base
    return base is None or (tuple(x.shape) == tuple(base.shape) and x.is_contiguous() and x.storage_offset() == 0)


class Names:
    """Names of the tensors that a function can reach: `model.0.weight`, `opt.model.0.weight.exp_avg`."""

    def __init__(self) -> None:
        self.names: dict = {}
        self.tensors: dict[int, Tensor] = {}
        # By the number of the tensor instead of that of its memory.
        self.handles: dict[int, str] = {}
        # Attributes and variables that are plain numbers.
        self.numbers: dict[str, Any] = {}
        self.seen: set[int] = set()
        self.alive: list = []
        self.optimizers: list = []

    def add(self, name: str, tensor: Tensor) -> None:
        handle = _C.memory_id(tensor)
        self.handles.setdefault(_C.tensor_id(tensor), name)
        # The memory is that of a tensor which has all of it, if it is to be found.
        if handle in self.names and (is_whole(self.tensors[handle]) or not is_whole(tensor)):
            return
        self.names[handle] = name
        self.tensors[handle] = tensor
        if tensor.is_leaf and tensor.grad is not None:
            self.add(f"{name}.grad", tensor.grad)

    def note(self, place, held) -> None:
        """Called with each dict, list and closure cell that the function may write to; `held(place)` copies it."""

    def root(self, fn) -> None:
        self.value("", fn, 0)
        # Optimizers come last: their state is named after parameters.
        for name, optimizer in self.optimizers:
            self.optimizer(name, optimizer)

    def value(self, name: str, x: Any, depth: int) -> None:
        if type(x) in (bool, int, float):
            self.numbers.setdefault(name, x)
        if depth > 6 or len(self.seen) > _MAX_WALK or isinstance(x, (str, bytes, int, float, type, types.ModuleType)):
            return
        if isinstance(x, Tensor):
            self.add(name or "tensor", x)
            return
        if x is None or id(x) in self.seen:
            return
        self.seen.add(id(x))
        self.alive.append(x)
        dot = f"{name}." if name else ""
        if hasattr(x, "named_parameters") and hasattr(x, "named_buffers"):
            for n, p in (*x.named_parameters(), *x.named_buffers()):
                self.add(dot + n, p)
            self.members(name, x, depth)
            forward = getattr(type(x), "forward", None)
            if isinstance(forward, types.FunctionType):
                self.variables(forward)
        elif hasattr(x, "param_groups") and hasattr(x, "state"):
            self.optimizers.append((name or "optimizer", x))
        elif isinstance(x, Program):
            for n, t in x._names():
                self.add(dot + n, t)
        elif isinstance(x, Generator):
            self.add(dot + "state", x._state)
        elif isinstance(x, (Compiled, functools.partial, types.MethodType, types.FunctionType)):
            self.function(name, x, depth)
        elif isinstance(x, dict):
            self.note(x, dict)
            for k, v in list(x.items())[:1024]:
                self.value(f"{dot}{k}", v, depth + 1)
        elif isinstance(x, (list, tuple)):
            if isinstance(x, list):
                self.note(x, list)
            for i, v in enumerate(x[:1024]):
                self.value(f"{dot}{i}", v, depth + 1)
        else:
            self.members(name, x, depth)

    def members(self, name: str, x: Any, depth: int) -> None:
        dot = f"{name}." if name else ""
        own = getattr(x, "__dict__", {})
        if isinstance(own, dict):
            self.note(own, dict)
        for k, v in list(own.items()):
            if not k.startswith("__"):
                self.value(f"{dot}{k.lstrip('_')}", v, depth + 1)

    def function(self, name: str, f, depth: int) -> None:
        dot = f"{name}." if name else ""
        if isinstance(f, Compiled):
            self.value(name, f.__wrapped__, depth)
        elif isinstance(f, functools.partial):
            for i, v in enumerate(f.args):
                self.value(f"{dot}{i}", v, depth + 1)
            for k, v in f.keywords.items():
                self.value(f"{dot}{k}", v, depth + 1)
            self.value(name, f.func, depth + 1)
        elif isinstance(f, types.MethodType):
            self.value(name, f.__self__, depth)
            self.value(name, f.__func__, depth + 1)
        else:
            code = f.__code__
            self.variables(f)
            for k, cell in zip(code.co_freevars, f.__closure__ or (), strict=False):
                try:
                    self.value(dot + k, cell.cell_contents, depth + 1)
                except ValueError:
                    continue
            for k in code.co_names:
                if k in f.__globals__ and not isinstance(f.__globals__[k], types.ModuleType):
                    self.value(dot + k, f.__globals__[k], depth + 1)

    def variables(self, f) -> None:
        """Notes what a function may write: variables of functions around it and of its Python module."""
        for cell in f.__closure__ or ():
            self.note(cell, _contents)
        self.note(f.__globals__, lambda names: {k: names.get(k, _ABSENT) for k in f.__code__.co_names})

    def optimizer(self, name: str, optimizer) -> None:
        for g, group in enumerate(optimizer.param_groups):
            many = len(optimizer.param_groups) > 1
            self.names["dict", id(group)] = f"{name}.{g}" if many else name
            for i, p in enumerate(group["params"]):
                own = self.names.get(_C.memory_id(p), f"{g}.{i}" if many else str(i))
                self.add(own, p)
                for k, v in optimizer.state.get(p, {}).items():
                    if isinstance(v, Tensor):
                        self.add(f"{name}.{own}.{k}", v)


class _Places(Names):
    """Where the function may write, and what stands there."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple] = []

    def note(self, place, held) -> None:
        self.places.append((place, held(place)))
