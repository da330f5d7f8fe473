"""Sizes that vary in a package (`torsh.Dim`)."""

from __future__ import annotations

MAX_SIZE = 2**31


class Dim:
    """A size that each call of an exported program may choose, within a range; see `torsh.export`.

    Two dims of one name are the same size, and must have the same range.

    Args:
        name: a word of letters, digits and `_`, 64 at the most.
        min: the smallest size, at least 1.
        max: the largest size, at most 2**31.

    Raises: ValueError for a bad name or range, TypeError for bounds that are no int.

    >>> torsh.Dim("batch", max=512)
    Dim('batch', min=1, max=512)
    """

    __slots__ = ("max", "min", "name")

    def __init__(self, name: str, *, min: int | None = None, max: int | None = None):
        if not isinstance(name, str) or len(name) > 64 or not (name.isascii() and name.isidentifier()):
            raise ValueError(f"Dim(): the name must be a word of letters, digits and _, got {name!r}")
        self.name = name
        self.min = 1 if min is None else min
        self.max = MAX_SIZE if max is None else max
        for bound in (self.min, self.max):
            if isinstance(bound, bool) or not isinstance(bound, int):
                raise TypeError(f"Dim({name!r}): min and max must be int, got {type(bound).__name__}")
        if not 1 <= self.min <= self.max <= MAX_SIZE:
            raise ValueError(
                f"Dim({name!r}): the range must lie within 1 to 2**31 and not be empty, got min={self.min}, "
                f"max={self.max}"
            )

    def __repr__(self) -> str:
        return f"Dim({self.name!r}, min={self.min}, max={self.max})"

    def __eq__(self, other) -> bool:
        if not isinstance(other, Dim):
            return NotImplemented
        return (self.name, self.min, self.max) == (other.name, other.min, other.max)

    def __hash__(self) -> int:
        return hash((self.name, self.min, self.max))
