"""`torsh.random`: seeds and states of the default generator."""

from __future__ import annotations

from contextlib import contextmanager

from torsh._fn.random import (
    Generator,
    _generators,
    default_generator,
    generator_of,
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)  # fmt: skip

__all__ = [
    "Generator",
    "default_generator",
    "fork_rng",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
]


@contextmanager
def fork_rng(devices=None, enabled: bool = True):
    """Restores the states of the default generators, or of the CPU's and those of `devices` alone, on exit."""
    if not enabled:
        yield
        return
    known = [default_generator, *map(generator_of, devices)] if devices is not None else list(_generators.values())
    states = [(g, g.get_state()) for g in known]
    try:
        yield
    finally:
        for g, state in states:
            g.set_state(state)
