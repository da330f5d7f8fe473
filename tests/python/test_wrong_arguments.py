"""Every public function and method with arguments of the wrong kind: it may refuse, it must not panic, hang, abort."""

from __future__ import annotations

import inspect
import itertools
import warnings

import pytest

import torsh

SKIP = {
    # They change the process: threads, limits, seeds, printing, gradients.
    "set_num_threads", "set_default_dtype", "set_printoptions", "set_grad_enabled", "manual_seed", "seed",
    "set_rng_state", "env_help", "enable_grad", "no_grad", "inference_mode", "compile", "save", "load",
}  # fmt: skip
VALUES = [
    lambda: torsh.ones(2, 3),
    lambda: torsh.tensor(1.5),
    lambda: torsh.zeros(0, 3, dtype=torsh.int64),
    lambda: torsh.tensor([True, False]),
    lambda: torsh.tensor([1, -7, 2**62]),
    lambda: 1,
    lambda: -1,
    lambda: 2**62,
    lambda: 2**70,
    lambda: 0.5,
    lambda: float("nan"),
    lambda: None,
    lambda: "abc",
    lambda: [],
    lambda: [1, -1],
    lambda: (2**40, 2**40),
    lambda: [[1], [2, 3]],
    lambda: object(),
    lambda: True,
]


def functions():
    for module in (torsh, torsh.nn.functional):
        for name in getattr(module, "__all__", dir(module)):
            fn = getattr(module, name)
            if inspect.isfunction(fn) and not name.startswith("_") and name not in SKIP:
                yield f"{module.__name__}.{name}", fn
    for name in dir(torsh.Tensor):
        fn = getattr(torsh.Tensor, name)
        if callable(fn) and not name.startswith("_") and name not in SKIP:
            yield f"Tensor.{name}", fn


FUNCTIONS = dict(functions())


def attempt(fn, args):
    try:
        out = fn(*args)
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torsh.Tensor) and t.numel() < 10**6:
                t.detach().tolist()
    except torsh.InternalError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, MemoryError, OverflowError, KeyError, NotImplementedError,
            BufferError):  # fmt: skip
        pass


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_wrong_arguments(name):
    fn = FUNCTIONS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A method's first argument is a tensor; a function's may be anything.
        for a in VALUES[:5] if name.startswith("Tensor.") else VALUES:
            attempt(fn, (a(),))
        for a, b in itertools.product(VALUES[:1], VALUES):
            attempt(fn, (a(), b()))
        for b, c in itertools.product(VALUES[::5], VALUES[1::5]):
            attempt(fn, (torsh.ones(2, 3), b(), c()))
    assert (torsh.ones(2) + 1).tolist() == [2.0, 2.0]
