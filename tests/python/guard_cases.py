"""Cases of the guard tests: functions that return the function under test and what changes what it reads."""

from __future__ import annotations

import os
import random
import sys

import numpy as np

import torsh


class Box:
    """A plain object with attributes."""

    def __init__(self, **values):
        self.__dict__.update(values)


def setter(obj, **values):
    """What sets these attributes."""
    return lambda: [setattr(obj, k, v) for k, v in values.items()]


def with_arguments(*args):
    """Calls the function with these after its tensor."""

    def wrap(fn):
        fn.more = args
        return fn

    return wrap


class Cases(dict):
    """Cases by name; `lazily` marks those that cannot be checked, which must run without compilation and say why."""

    def case(self, fn):
        self[fn.__name__] = (fn, False)
        return fn

    def lazily(self, fn):
        self[fn.__name__] = (fn, True)
        return fn

    def check(self, name: str, space: dict) -> None:
        """Compares plain and compiled calls, three before the change and two after it; `space`: the case's globals."""
        make, lazy = self[name]
        x = torsh.tensor([1.0, 3.0])
        results = []
        before, environment = dict(space), dict(os.environ)
        for compiled in (False, True):
            random.seed(1)
            np.random.seed(1)
            try:
                fn, change = make()
                more = getattr(fn, "more", ())
                run = torsh.compile(fn) if compiled else fn
                found = [run(x, *more).tolist() for _ in range(3)]
                change()
                found += [run(x, *more).tolist() for _ in range(2)]
                found.append(fn.after() if hasattr(fn, "after") else None)
                results.append(found)
            finally:
                for added in set(space) - set(before):
                    del space[added]
                space.update(before)
                for added in set(os.environ) - set(environment):
                    del os.environ[added]
                sys.modules.pop("torsh_test_module", None)
        assert results[1] == results[0]
        broken = [p["graph_break"] for p in run.explain()["programs"] if p["graph_break"]]
        if lazy:
            assert broken and "cannot be checked" in broken[0][0], run.explain()
            return
        assert not broken
        # Where plain calls give the same again, so does a program: no guard is broken by the trace itself.
        if len({str(r) for r in results[0][:3]}) == 1:
            assert run.cache_info()["hits"] >= 2, str(run.explain())
