"""Lists and dicts that a traced function is given: it gets copies, whose leaves stand for the caller's.

What it changes in them is written to the caller's own; a program could not do that, so that such a function runs
without compilation from then on.
"""

from __future__ import annotations

from torsh import _C

__all__ = ["Given"]


class Given:
    """The arguments of a trace beside those of the caller, which have the same form."""

    def __init__(self, copies: tuple, own: tuple) -> None:
        # By the id of a copy: it and what it stands for. Lists and dicts with what they held.
        self._own: dict[int, tuple] = {}
        self._before: list[tuple] = []
        # Other lists and dicts that were put into them, by id, and those that are still to be looked through.
        self._new: dict[int, list | dict] = {}
        self._todo: list[list | dict] = []
        stack = list(zip(copies, own, strict=True))
        while stack:
            copy, given = stack.pop()
            if isinstance(copy, _C.Tensor):
                self._own[id(copy)] = (copy, given)
            elif type(copy) is list and type(given) is list:
                self._note(copy, given)
                stack.extend(zip(copy, given, strict=False))
            elif type(copy) is dict and type(given) is dict:
                self._note(copy, given)
                stack.extend((copy[key], given[key]) for key in copy if key in given)
            elif isinstance(copy, tuple) and isinstance(given, tuple):
                self._own[id(copy)] = (copy, given)
                stack.extend(zip(copy, given, strict=False))

    def _note(self, copy, given) -> None:
        self._own[id(copy)] = (copy, given)
        self._before.append((copy, given, _contents(copy)))

    def settle(self) -> str | None:
        """Writes what has changed to the caller's own; says that something has."""
        changed = None
        for copy, given, before in self._before:
            after = _contents(copy)
            if len(after) == len(before) and all(a is b for a, b in zip(after, before, strict=True)):
                continue
            changed = f"changes a {type(copy).__name__} that it is given"
            if isinstance(copy, list):
                given[:] = [self._owned(x) for x in copy]
            else:
                now = {self._owned(key): self._owned(x) for key, x in copy.items()}
                given.clear()
                given.update(now)
        while self._todo:
            new = self._todo.pop()
            if isinstance(new, list):
                new[:] = [self._owned(x) for x in new]
            else:
                new.update({key: self._owned(x) for key, x in new.items()})
        return changed

    def _owned(self, value):
        """The value with the caller's own for what stands for it."""
        known = self._own.get(id(value))
        if known is not None:
            return known[1]
        if type(value) is tuple:
            parts = tuple(self._owned(x) for x in value)
            return value if all(a is b for a, b in zip(parts, value, strict=True)) else parts
        if type(value) in (list, dict) and id(value) not in self._new:
            self._new[id(value)] = value
            self._todo.append(value)
        return value


def _contents(container) -> list:
    if isinstance(container, list):
        return list(container)
    return [x for item in container.items() for x in item]
