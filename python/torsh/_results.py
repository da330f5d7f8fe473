"""Objects that a function makes and returns: a program has tensors, tuples, lists and dicts to give, but no others."""

from __future__ import annotations

import enum
import sys
import types
from collections import Counter, deque

from torsh import _C
from torsh._containers import is_buffer
from torsh._objects import PLAIN, foreign, has_dict, name_of_class

__all__ = ["made_anew"]

# Deeper than this, lists, tuples and dicts are objects like any other.
_MAX_DEPTH = 16
_MUTABLE = (list, dict, set, deque, types.FunctionType, types.CoroutineType, types.AsyncGeneratorType)


def made_anew(container, ours: Counter, depth: int = 0) -> str | None:
    """Names the first object in a list, tuple or dict that nothing else holds and that can change.

    `ours`: references of guards, by the id of what they hold.
    """
    for item in container.values() if isinstance(container, dict) else container:
        if isinstance(item, (*PLAIN, _C.Tensor)):
            continue
        if depth < _MAX_DEPTH and (type(item) in (list, dict) or isinstance(item, tuple)):
            found = made_anew(item, ours, depth + 1)
            if found is not None:
                return found
        elif sys.getrefcount(item) - ours[id(item)] <= _OWNED and _can_change(item):
            return name_of_class(item)
    return None


def _can_change(value) -> bool:
    if isinstance(value, (type, types.ModuleType, enum.Enum)):
        return False
    if isinstance(value, _MUTABLE) or hasattr(type(value), "__next__") or is_buffer(value):
        return True
    return has_dict(value) or not foreign(type(value))


def _references(container) -> int:
    for item in container:
        return sys.getrefcount(item)
    return 0


_OWNED = _references([object()])
