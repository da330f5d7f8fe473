"""`torsh.random`: seeds and states of the default generator."""

from __future__ import annotations

from contextlib import contextmanager

from torsh._fn.random import Generator, default_generator, get_rng_state, initial_seed, manual_seed, seed, set_rng_state

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
def fork_rng():
    """Restores the state of the default generator on exit."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
