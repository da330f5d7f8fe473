"""Objects that a function makes and returns, and how each call makes them anew.

A program gives tensors; tuples, lists and dicts of them are made natively where each is held once. `plan` finds how a
result with more than that is made: sets, deques, other dicts, objects of classes, containers that are held twice. What
was there before, or is held somewhere else too, is returned as it is, plain lists, tuples and dicts excepted.
"""

from __future__ import annotations

import enum
import gc
import sys
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque

from torsh import _C
from torsh._collector import subject_of
from torsh._containers import Look, is_buffer
from torsh._objects import PLAIN, foreign, has_dict, is_module, name_of_class, own_dict
from torsh._rebuild import written

__all__ = ["Unmakable", "plan"]

# As deep as native lists, tuples and dicts go.
_MAX_DEPTH = 16
_MAX_OBJECTS = 65536
# What `__new__` of these makes can be filled without running code of the user.
SHELLS = (OrderedDict, defaultdict, dict, list, deque, set, object)
_CONTAINERS = (list, dict, set, deque)
_MUTABLE = (types.FunctionType, types.CoroutineType, types.AsyncGeneratorType)
# Methods of objects that change and show nothing of what they hold: locks, digests, files.
_CHANGING = ("acquire", "update", "write", "seek", "send", "append", "clear")
_SCALARS = (*PLAIN, complex, bytes, type, types.ModuleType, types.BuiltinFunctionType, enum.Enum)


class Unmakable(Exception):
    """A result has an object that cannot be made anew; the text names it."""


class Node:
    """An object of a result and what it is made of: `base` is the type that makes it, None for what cannot be made."""

    __slots__ = ("base", "depth", "keys", "parts", "state", "times", "value")

    def __init__(self, value, depth: int) -> None:
        self.value, self.depth, self.times = value, depth, 1
        self.base = _base(value)
        self.keys: list = []
        self.parts: list = []
        # Attributes: by name those of the object's dict, by descriptor those in slots.
        self.state: dict = {}
        _read(self)

    def edges(self) -> list:
        """What the object refers to, once for each reference."""
        return [*self.keys, *self.parts, *self.state.values()]


def plan(box: list, guards: list) -> tuple | None:
    """The tensors of the result in `box` and what makes it of such tensors; None where that is done natively.

    `guards` refer to objects too, which does not count. Raises `Unmakable`.
    """
    nodes = _collect(box)
    if not nodes:
        return None
    kept = _held_elsewhere(nodes, _held_by(guards))
    # What the function read of objects that it makes anew says nothing about the next call.
    own = {id(x) for i, n in nodes.items() if i not in kept for x in (n.value, *_dict_of(n.value))}
    guards[:] = [guard for guard in guards if id(subject_of(guard)) not in own]
    # Natively made ones are copies always, of arguments too.
    made = {i: n for i, n in nodes.items() if i not in kept or type(n.value) in (list, dict) or n.base is tuple}
    for node in list(made.values()):
        _check(node, made)
    if all(_native(node) for node in made.values()) and not _shares_tensors(nodes):
        return None
    return written(box[0], made)


def _dict_of(value) -> tuple:
    return (own_dict(value),) if has_dict(value) else ()


def _collect(box: list) -> dict[int, Node]:
    nodes: dict[int, Node] = {}
    stack = [(box[0], 0)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, (*PLAIN, _C.Tensor)):
            continue
        known = nodes.get(id(value))
        if known is not None:
            known.times += 1
            continue
        if len(nodes) >= _MAX_OBJECTS:
            raise Unmakable(f"more than {_MAX_OBJECTS} objects")
        node = nodes[id(value)] = Node(value, depth)
        stack.extend((part, depth + 1) for part in node.edges())
    return nodes


def _shares_tensors(nodes: dict[int, Node]) -> bool:
    """Whether a tensor is held twice: it is one tensor in the result of each call, too."""
    held = [id(x) for node in nodes.values() for x in node.edges() if isinstance(x, _C.Tensor)]
    return len(held) != len(set(held))


def _base(value):
    cls = type(value)
    if isinstance(value, tuple):
        return tuple
    if cls in (frozenset, types.MethodType):
        return cls
    if isinstance(value, (*_SCALARS, *_MUTABLE)) or is_buffer(value) or hasattr(cls, "__next__") or is_module(value):
        return None
    if hasattr(cls, "__del__") or (cls.__module__ or "").split(".")[0] == "torsh":
        return None
    base = next(b for b in cls.__mro__ if b in SHELLS)
    try:
        # It refuses a class whose objects have more than Python can see.
        base.__new__(cls)
    except TypeError:
        return None
    return base if cls is not object else None


def _read(node: Node) -> None:
    value, base = node.value, node.base
    if base is None:
        return
    if base is types.MethodType:
        node.parts = [value.__func__, value.__self__]
        return
    if base in (dict, OrderedDict, defaultdict):
        node.keys, node.parts = list(base.keys(value)), list(base.values(value))
    elif base is not object:
        node.parts = list(base.__iter__(value))
    node.state = dict(own_dict(value)) if has_dict(value) else {}
    for cls in type(value).__mro__:
        for slot in vars(cls).values():
            if type(slot) is types.MemberDescriptorType:
                try:
                    node.state[slot] = slot.__get__(value)
                except AttributeError:
                    continue


def _held_by(guards: list) -> Counter:
    """References by guards to objects, by their id."""
    held: Counter = Counter()
    for kind, subject, _, value in guards:
        held[id(subject)] += 1
        if isinstance(subject, Look):
            held.update(id(x) for x in vars(subject).values())
        held[id(value)] += 1
        if kind.startswith("items") and isinstance(value, tuple):
            held.update(map(id, value))
    return held


def _held_elsewhere(nodes: dict[int, Node], held: Counter) -> set[int]:
    """Which objects something else holds than the result; what these hold is held elsewhere too."""
    inside: Counter = Counter()
    for node in nodes.values():
        inside.update(map(id, node.edges()))
    counts = _references(nodes)
    # Each reference inside of the result is there twice: in the object, and in its node.
    outside = {i: counts[i] - 2 * inside[i] - held[i] for i in nodes}
    root = next(iter(nodes))
    outside[root] -= 1
    kept: set[int] = set()
    queue = [i for i in nodes if outside[i] > 0]
    while queue:
        i = queue.pop()
        if i in kept:
            continue
        kept.add(i)
        for part in map(id, nodes[i].edges()):
            if part in nodes:
                outside[part] += 1
                queue.append(part)
    return kept


def _references(nodes: dict[int, Node]) -> dict[int, int]:
    """References to objects, but for one by the node of each."""
    return {i: sys.getrefcount(node.value) - _ALONE for i, node in nodes.items()}


_ALONE = 0
_ALONE = _references({0: Node(object(), 0)})[0]


def _check(node: Node, made: dict[int, Node]) -> None:
    """Refuses what cannot be made anew; takes out of `made` what never changes."""
    value = node.value
    if node.base is None:
        if _can_change(value):
            raise Unmakable(name_of_class(value))
        del made[id(value)]
        return
    if node.base in SHELLS and type(value).__weakrefoffset__ and weakref.getweakrefcount(value):
        raise Unmakable(f"{name_of_class(value)}, with a weak reference to it,")
    hashed = node.parts if node.base in (set, frozenset) else node.keys
    if any(_hashed_by_what_it_holds(x, made) for x in hashed):
        raise Unmakable(f"{name_of_class(value)} with objects for keys")


def _can_change(value, depth: int = 0) -> bool:
    """Whether an object that cannot be made anew, or what it holds, may be another one at the next call."""
    if isinstance(value, _SCALARS) or type(value) is object:
        return False
    if isinstance(value, (*_CONTAINERS, *_MUTABLE)) or hasattr(type(value), "__next__") or is_buffer(value):
        return True
    if has_dict(value) or not foreign(type(value)) or depth > _MAX_DEPTH or any(hasattr(value, x) for x in _CHANGING):
        return True
    return any(_can_change(x, depth + 1) for x in gc.get_referents(value))


def _hashed_by_what_it_holds(key, made: dict[int, Node]) -> bool:
    node = made.get(id(key))
    if node is None or node.base is None:
        return False
    return node.base is not tuple or any(_hashed_by_what_it_holds(x, made) for x in node.parts)


def _native(node: Node) -> bool:
    """Whether a program makes it: of tuples, those that hold nothing that is made may be held twice."""
    kinds = type(node.value) in (list, dict) or node.base is tuple
    once = node.times == 1 or (node.base is tuple and all(isinstance(x, PLAIN) for x in node.parts))
    plain = all(isinstance(x, PLAIN) for x in node.keys)
    return kinds and once and plain and not node.state and node.depth < _MAX_DEPTH
