"""What the tests of libraries in C share: a library with one context, and its comparison with the compiled function."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess

import numpy as np
import pytest

import torsh
from torsh import nn

CODES = "ok null alignment context arena memory index state size constant weights".split()
ERRORS = {name: i for i, name in enumerate(CODES)}
COMPILERS = ["gcc", "clang"]


def need(*tools):
    """Skips a test where a tool is missing, with its name."""
    for tool in tools:
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")


def pointer(a, by=0):
    return ctypes.c_void_p(a.ctypes.data + by)


class Library:
    """A shared library with one context."""

    def __init__(self, folder, name="model", weights=None, arena=None):
        self.lib, self.name = ctypes.CDLL(os.fspath(folder / f"lib{name}.so")), name
        self.context = (ctypes.c_void_p * 4)()
        self.arena_bytes = self.call("arena_bytes", result=ctypes.c_size_t)
        given = [] if weights is None else [pointer(weights), ctypes.c_size_t(weights.nbytes)]
        memory = None if arena is None else pointer(arena)
        bytes_ = ctypes.c_size_t(0 if arena is None else arena.nbytes)
        self.status = self.call("init", self.context, memory, bytes_, *given)

    def call(self, what, *args, result=ctypes.c_int):
        f = getattr(self.lib, f"{self.name}_{what}")
        f.restype = result
        return f(*args)

    def run(self, inputs, outputs, what="run"):
        arrays = [*inputs, *outputs]
        assert all(a is None or a.flags.c_contiguous for a in arrays)
        return self.call(what, self.context, *[None if a is None else pointer(a) for a in arrays])

    def seed(self, seed):
        return self.call("seed", self.context, ctypes.c_uint64(seed))

    def state(self, name, like):
        out = np.empty_like(like)
        at = self.call("state_find", name.encode())
        assert at >= 0, name
        assert self.call("state_read", self.context, at, pointer(out), ctypes.c_size_t(out.nbytes)) == 0
        return out

    def write(self, name, value):
        at = self.call("state_find", name.encode())
        assert at >= 0, name
        return self.call("state_write", self.context, at, pointer(value), ctypes.c_size_t(value.nbytes))

    def states(self):
        """Names of the state, in order."""
        names, i = [], 0
        while (name := self.call("state_name", i, result=ctypes.c_char_p)) is not None:
            names.append(name.decode())
            i += 1
        return names

    def free(self):
        self.call("free", self.context)


def leaves(x):
    return [a for y in x for a in leaves(y)] if isinstance(x, (tuple, list)) else [x]


def array(x):
    if isinstance(x, float):
        return np.array(x)
    # numpy has no bfloat16: its bits.
    x = x.detach()
    return x.view(torsh.int16).numpy() if x.dtype == torsh.bfloat16 else np.ascontiguousarray(x.numpy())


def same_bits(got, expected):
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g.view(np.uint8) if g.ndim else g, e.view(np.uint8) if e.ndim else e)


def compare(folder, fn, args, name="model", tolerance=None, **options):
    """Exports `fn` and compares its library with the compiled function: bit for bit, or within a tolerance."""
    expected = [array(t) for t in leaves(torsh.compile(fn)(*args))]
    assert torsh.export(fn, args, folder / name, format="c", **options) > 0
    lib = Library(folder, name)
    assert lib.status == 0
    got = [np.full_like(e, 77) for e in expected]
    assert lib.run([array(a) for a in leaves(args)], got) == 0
    lib.free()
    if tolerance is None:
        same_bits(got, expected)
    else:
        for g, e in zip(got, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=tolerance, atol=tolerance)
    return got


def steps(folder, make, args, count=3, name="train"):
    """Exports a training step of `make()`, which gives the step and what it trains, and compares runs of the library
    with those of a compiled step of the same: results and all state, bit for bit."""
    step, _ = make()
    torsh.export(step, args, folder / name, format="c")
    lib = Library(folder, name)
    assert lib.status == 0
    step, model = make()
    step = torsh.compile(step)
    for _ in range(count):
        expected = [array(t) for t in leaves(step(*args))]
        got = [np.full_like(e, 77) for e in expected]
        assert lib.run([array(a) for a in leaves(args)], got) == 0
        same_bits(got, expected)
    held = lib.states()
    found = 0
    for key, value in model.state_dict().items():
        for one in held:
            if one == key or one.endswith(f".{key}"):
                same_bits([lib.state(one, array(value))], [array(value)])
                found += 1
                break
    assert found == len(model.state_dict()), held
    return lib


def rand(*shape, seed=0):
    return torsh.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def mlp():
    torsh.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 48), nn.GELU(), nn.Linear(48, 5), nn.Softmax(-1))


def sh(*command, **options):
    return subprocess.run([os.fspath(c) for c in command], check=True, capture_output=True, **options).stdout
