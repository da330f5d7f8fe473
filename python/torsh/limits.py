"""`torsh.limits`: what a graph may ask for, checked before anything is allocated or compiled.

>>> torsh.limits.get()["max_rank"]
64
"""

from __future__ import annotations

from contextlib import contextmanager

from torsh import _C


def get() -> dict[str, int]:
    """The limits in force: max_rank, max_elements, max_tensor_bytes, max_nodes, max_kernel_insts,
    max_constant_bytes, max_peak_bytes."""
    return _C.limits()


def set(**limits: int) -> None:
    """Changes the named limits.

    Raises: TypeError for an unknown name or a value that is no int, ValueError for a negative one.
    """
    known = _C.limits()
    for name, value in limits.items():
        if name not in known:
            raise TypeError(f"limits.set(): unknown limit {name!r}; known: {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"limits.set(): {name} must be int, not {type(value).__name__}")
        if not 0 <= value < 2**63:
            raise ValueError(f"limits.set(): {name} must be in 0..2^63, got {value}")
    _C.set_limits({**known, **limits})


@contextmanager
def override(**limits: int):
    """The named limits within a `with` block.

    >>> with torsh.limits.override(max_rank=3):
    ...     pass
    """
    before = _C.limits()
    set(**limits)
    try:
        yield
    finally:
        _C.set_limits(before)


def set_memory_limit(nbytes: int, device=None) -> None:
    """Caps the bytes of all tensors of a device (None: the CPU) together; what is live stays."""
    if isinstance(nbytes, bool) or not isinstance(nbytes, int):
        raise TypeError(f"set_memory_limit(): nbytes must be int, not {type(nbytes).__name__}")
    if nbytes < 0:
        raise ValueError(f"set_memory_limit(): nbytes must be >= 0, got {nbytes}")
    _C.set_memory_limit(nbytes, device)
