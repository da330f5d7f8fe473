"""Makes an object of the tensors in it, as a trace has found it.

A function is written for each result, as `dataclasses` does it: first come empty objects, then what cannot be changed
once it is made (tuples, frozensets, methods), each after what it holds; at last the empty objects are filled. No code
of the user runs: objects are made by the `__new__` of the type below their class, and their attributes are set.
"""

from __future__ import annotations

import types
from collections import OrderedDict, defaultdict, deque

from torsh import _C
from torsh._objects import owner_of

__all__ = ["written"]

# What cannot be changed once it is made.
_FIXED = (tuple, frozenset, types.MethodType)


def written(result, made: dict) -> tuple:
    """The tensors of a result, and what makes it of such tensors; `made`: nodes by the id of their object."""
    writer = _Writer(made)
    tensors, others, shells, fixed = _listed(result, made)
    for letter, values in (("t", tensors), ("k", others)):
        writer.names.update((id(value), f"{letter}{i}") for i, value in enumerate(values))
    writer.space.update((f"k{i}", value) for i, value in enumerate(others))
    if tensors:
        writer.lines.append(f"{', '.join(f't{i}' for i in range(len(tensors)))}, = tensors")
    for node in shells:
        writer.shell(node)
    for node in fixed:
        writer.fixed(node)
    for node in (*shells, *fixed):
        writer.fill(node)
    writer.lines.append(f"return {writer.names[id(result)]}")
    body = "".join(f"    {line}\n" for line in writer.lines)
    exec(compile(f"def make(tensors):\n{body}", "<torsh result>", "exec"), writer.space)
    return tensors, writer.space["make"]


def _listed(result, made: dict) -> tuple[list, list, list, list]:
    """Tensors, values that stay, nodes of empty objects, and those of the others, each after what it holds."""
    tensors, others, shells, fixed, seen = [], [], [], [], set()
    # What empty objects hold comes later: only through them do cycles go.
    later, stack = [result], []
    while later:
        stack.append((later.pop(), False))
        while stack:
            value, done = stack.pop()
            node = made.get(id(value))
            if done:
                fixed.append(node)
            elif id(value) in seen:
                continue
            elif node is None:
                (tensors if isinstance(value, _C.Tensor) else others).append(value)
            elif node.base in _FIXED:
                stack.append((value, True))
                stack.extend((part, False) for part in node.parts)
                later.extend(node.state.values())
            else:
                shells.append(node)
                later.extend(node.edges())
            seen.add(id(value))
    return tensors, others, shells, fixed


class _Writer:
    """The lines of the function and what they refer to."""

    def __init__(self, made: dict) -> None:
        self.made = made
        self.names: dict[int, str] = {}
        self.lines: list[str] = []
        self.space: dict = {"__builtins__": {}, "set_attribute": object.__setattr__, "get": object.__getattribute__}

    def bound(self, value) -> str:
        """A name for a value of the function's globals."""
        name = f"g{len(self.space)}"
        self.space[name] = value
        return name

    def new(self, node) -> str:
        """A name for a node, that of a variable yet to be set."""
        name = self.names[id(node.value)] = f"v{len(self.names)}"
        return name

    def tuple_of(self, values) -> str:
        return f"({''.join(f'{self.names[id(value)]}, ' for value in values)})"

    def shell(self, node) -> None:
        cls, name = type(node.value), self.new(node)
        if cls in (list, dict):
            self.lines.append(f"{name} = {'[]' if cls is list else '{}'}")
            return
        self.lines.append(f"{name} = {self.bound(node.base.__new__)}({self.bound(cls)})")
        if node.base is deque:
            longest = deque.maxlen.__get__(node.value)
            self.lines.append(f"{self.bound(deque.__init__)}({name}, (), {longest})")

    def fixed(self, node) -> None:
        cls, parts = type(node.value), self.tuple_of(node.parts)
        if cls is types.MethodType:
            parts = f"{self.bound(cls)}(*{parts})"
        elif cls is not tuple:
            parts = f"{self.bound(node.base.__new__)}({self.bound(cls)}, {parts})"
        self.lines.append(f"{self.new(node)} = {parts}")

    def fill(self, node) -> None:
        base, name = node.base, self.names[id(node.value)]
        if base in (dict, OrderedDict, defaultdict) and node.keys:
            put = self.bound(base.__setitem__)
            for key, part in zip(node.keys, node.parts, strict=True):
                self.lines.append(f"{put}({name}, {self.names[id(key)]}, {self.names[id(part)]})")
        elif base in (list, deque, set) and node.parts:
            extend = self.bound(base.update if base is set else base.extend)
            self.lines.append(f"{extend}({name}, {self.tuple_of(node.parts)})")
        for key, value in node.state.items():
            self.attribute(node, name, key, self.names[id(value)])

    def attribute(self, node, name: str, key, value: str) -> None:
        """Sets an attribute: in a slot, or in the object's dict, whatever its class says to that."""
        if isinstance(key, types.MemberDescriptorType):
            self.lines.append(f"{self.bound(key.__set__)}({name}, {value})")
        elif type(key) is str and not hasattr(type(_held(type(node.value), key)), "__set__"):
            self.lines.append(f"set_attribute({name}, {self.bound(key)}, {value})")
        else:
            self.lines.append(f"get({name}, '__dict__')[{self.bound(key)}] = {value}")


def _held(cls, name: str):
    owner = owner_of(cls, name)
    return None if owner is None else vars(owner)[name]
