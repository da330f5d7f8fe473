"""Makes an object of the tensors in it, as a trace has found it."""

from __future__ import annotations

import types
from collections import OrderedDict, defaultdict, deque

from torsh import _C
from torsh._objects import own_dict

__all__ = ["Recipe"]

# What cannot be changed once it is made.
_FIXED = (tuple, frozenset, types.MethodType)


class Recipe:
    """Called with tensors, gives an object made of them, with every list, dict and object in it a new one.

    Works on a list of values: first the tensors, then what is the same at each call, then empty objects, then what
    cannot be changed once it is made (tuples, frozensets, methods), which hold those before them. At last the empty
    objects are filled.
    """

    def __init__(self, result, made: dict) -> None:
        """`made`: nodes by the id of their object (`_results.py`)."""
        self.tensors: list = []
        self.constants: list = []
        self._made = made
        self._at: dict[int, int] = {}
        shells, fixed = self._listed(result)
        self.shells = [_shell(node) for node in shells]
        self.fixed = [(node.base, type(node.value), self._places(node.parts)) for node in fixed]
        self.fills = [self._fill(node) for node in (*shells, *fixed) if node.base not in _FIXED or node.state]
        self.root = self._at[id(result)]
        del self._made, self._at

    def __call__(self, tensors):
        values = [*tensors, *self.constants]
        values.extend([new(cls) for new, cls in self.shells])
        for base, cls, places in self.fixed:
            values.append(_fixed(base, cls, [values[i] for i in places]))
        for base, at, keys, parts, names, slots in self.fills:
            made = values[at]
            _fill(base, made, [values[i] for i in keys], [values[i] for i in parts])
            if names:
                own_dict(made).update({name: values[i] for name, i in names})
            for slot, i in slots:
                slot.__set__(made, values[i])
        return values[self.root]

    def taken(self) -> list:
        """The tensors of the trace, which are let go."""
        taken, self.tensors = self.tensors, []
        return taken

    def _listed(self, result) -> tuple[list, list]:
        """Gives every value its place; the nodes of empty objects and of the others, each after what it holds."""
        shells, fixed, others, seen = [], [], [], set()
        # What empty objects hold comes later: only through them do cycles go.
        later, stack = [result], []
        while later:
            stack.append((later.pop(), False))
            while stack:
                value, done = stack.pop()
                node = self._made.get(id(value))
                if done:
                    fixed.append(node)
                elif id(value) in seen:
                    continue
                elif node is None:
                    (self.tensors if isinstance(value, _C.Tensor) else others).append(value)
                elif node.base in _FIXED:
                    stack.append((value, True))
                    stack.extend((part, False) for part in node.parts)
                    later.extend(node.state.values())
                else:
                    shells.append(node)
                    later.extend(node.edges())
                seen.add(id(value))
        self.constants = others
        for at, value in enumerate([*self.tensors, *others, *(n.value for n in (*shells, *fixed))]):
            self._at[id(value)] = at
        return shells, fixed

    def _places(self, values) -> list[int]:
        return [self._at[id(value)] for value in values]

    def _fill(self, node) -> tuple:
        names = [(k, self._at[id(v)]) for k, v in node.state.items() if isinstance(k, str)]
        slots = [(k, self._at[id(v)]) for k, v in node.state.items() if not isinstance(k, str)]
        parts = [] if node.base in _FIXED else self._places(node.parts)
        return node.base, self._at[id(node.value)], self._places(node.keys), parts, names, slots


def _shell(node) -> tuple:
    if node.base is deque:
        longest = deque.maxlen.__get__(node.value)
        return lambda cls: _deque(cls, longest), type(node.value)
    return node.base.__new__, type(node.value)


def _deque(cls, longest):
    made = deque.__new__(cls)
    deque.__init__(made, (), longest)
    return made


def _fixed(base, cls, parts):
    return base(*parts) if base is types.MethodType else base.__new__(cls, parts)


def _fill(base, made, keys, parts) -> None:
    """Puts items into an empty container, whatever its class makes of that."""
    if base in (dict, OrderedDict, defaultdict):
        for key, part in zip(keys, parts, strict=True):
            base.__setitem__(made, key, part)
    elif base in (list, deque):
        base.extend(made, parts)
    elif base is set:
        base.update(made, parts)
