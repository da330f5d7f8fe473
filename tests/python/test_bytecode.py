"""The instructions that guards look at are those that `dis` lists."""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import inspect
import subprocess
import sys
import textwrap
import types

import pytest

import torsh
from torsh import _bytecode, _reads

_MODULES = (ast, contextlib, dis, functools, inspect, subprocess, textwrap, types, pytest, _bytecode, _reads)


def codes(code):
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from codes(const)


@pytest.mark.parametrize("module", _MODULES, ids=lambda m: m.__name__)
def test_instructions_are_those_of_dis(module):
    whole = compile(inspect.getsource(module), module.__name__, "exec")
    seen = 0
    for code in codes(whole):
        mine, listed = _bytecode.instructions(code), _bytecode._listed(code)
        assert [x.opname for x in mine] == [x.opname for x in listed]
        for x, y in zip(mine, listed, strict=True):
            where = (code.co_name, x.opname)
            if x.argval is not None and x.opname != "KW_NAMES":
                assert (x.arg, x.argval) == (y.arg, y.argval), where
            if x.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
                assert x.argval is not None and x.is_jump_target == y.is_jump_target, where
            if x.opname.startswith(("LOAD_GLOBAL", "CALL", "MATCH_")):
                assert x.arg == y.arg, where
            seen += 1
    assert seen > 20


def test_an_argument_of_more_than_a_byte():
    source = (
        "def f(o):\n" + "".join(f"    o.a{i} = {i}\n" for i in range(700)) + "    return o.last if o.first else o\n"
    )
    space: dict = {}
    exec(source, space)
    mine = _bytecode.instructions(space["f"].__code__)
    assert [x.argval for x in mine if x.opname == "STORE_ATTR"] == [f"a{i}" for i in range(700)]
    assert [x.argval for x in mine if x.opname == "LOAD_ATTR"] == ["first", "last"]


def test_a_jump_to_a_prefix_of_an_argument():
    """The attribute's number takes two bytes, so that the branches meet at what comes before LOAD_ATTR."""
    source = (
        "def f(x, c):\n    if c is None:\n"
        + "".join(f"        y = c.n{i}\n" for i in range(300))
        + "    return x * (aa if flag else bb).attr\n"
    )
    space: dict = {}
    exec(source, space)
    for list_ in (_bytecode.instructions, _bytecode._listed):
        last = [x for x in list_(space["f"].__code__) if x.argval == "attr"]
        assert [x.is_jump_target for x in last] == [True], list_

    class Holder:
        def __init__(self, attr):
            self.attr = attr

    space.update(aa=Holder(2), bb=Holder(3), flag=True)
    g = torsh.compile(space["f"])
    x = torsh.ones(1)
    assert g(x, 1).tolist() == [2.0]
    space["aa"].attr = 5
    assert g(x, 1).tolist() == [5.0]


def test_other_interpreters_are_left_to_dis(monkeypatch):
    code = test_an_argument_of_more_than_a_byte.__code__
    known = [x.opname for x in _bytecode.instructions(code)]
    monkeypatch.setattr(_bytecode, "_VERSION", (3, 99))
    assert [x.opname for x in _bytecode.instructions(code)] == known


def test_a_first_compile_loads_what_it_needs():
    """Each of these modules takes a good part of the milliseconds that a first compile has."""
    script = (
        "import sys, torsh\n"
        "x = torsh.ones(4)\n"
        "before = set(sys.modules)\n"
        "torsh.compile(lambda x: x * 2 + 1)(x)\n"
        "print(*(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "torsh._guards" in loaded
    late = {"typing", "dis", "inspect", "dataclasses", "weakref", "contextvars", "re", "enum", "torsh._rebuild"}
    assert not late & set(loaded), late & set(loaded)
