"""Guards: idioms of Python that lead to a value.

Each case changes one thing between calls, and the compiled function must give what the plain one gives.
"""

from __future__ import annotations

import collections
import contextlib
import cProfile
import functools
import logging
import operator
import time

import numpy as np
import pytest
from guard_cases import Box, Cases, setter

import torsh
from torsh import nn

CASES = Cases()
case, lazily = CASES.case, CASES.lazily


@case
def method_of_an_instance_of_a_layer_replaced():
    layer = nn.Tanh()
    return lambda x: layer(x), setter(layer, forward=lambda x: x * 7)


@case
def container_bound_to_the_function_itself():
    config = {"a": 1.0}
    return functools.partial(lambda d, x: x * d["a"], config), lambda: config.update(a=5.0)


@case
def loop_over_items():
    table = {i: Box(v=float(i)) for i in range(3)}

    def f(x):
        for _, o in table.items():
            x = x + o.v
        return x

    return f, setter(table[2], v=9.0)


@case
def loop_over_keys_that_are_objects():
    box = Box(v=1.0)
    table = {box: 2.0}

    def f(x):
        for k in table:
            x = x * k.v
        return x

    return f, setter(box, v=6.0)


@case
def enumerate_and_zip():
    objs = [Box(v=1.0), Box(v=2.0)]

    def f(x):
        for i, (o, p) in enumerate(zip(objs, reversed(objs), strict=True)):
            x = x * o.v + p.v * i
        return x

    return f, setter(objs[1], v=9.0)


@case
def unpacking():
    objs = [Box(v=1.0), Box(v=2.0)]

    def f(x):
        a, _ = objs
        _, *d = objs
        return x * a.v + d[0].v

    return f, setter(objs[1], v=9.0)


@case
def assignment_in_a_condition():
    objs = [Box(v=1.0)]

    def f(x):
        if (o := objs[0]).v > 0:
            return x * o.v
        return x

    return f, setter(objs[0], v=9.0)


@case
def map_filter_and_reduce():
    objs = [Box(v=2.0)]

    def f(x):
        x = x * list(map(lambda o: o.v, objs))[0] * list(filter(lambda o: o.v > 0, objs))[0].v
        return x * functools.reduce(lambda a, b: a + b.v, objs, 0.0)

    return f, setter(objs[0], v=9.0)


@case
def getattr_handed_to_reduce():
    cfg = Box(a=Box(b=2.0))
    return lambda x: x * functools.reduce(getattr, ["a", "b"], cfg), setter(cfg.a, b=7.0)


@case
def getattr_handed_to_map():
    objs = [Box(b=2.0)]
    return lambda x: x * list(map(getattr, objs, ["b"]))[0], setter(objs[0], b=7.0)


@case
def getattr_in_a_loop():
    cfg = Box(a=Box(b=2.0))

    def f(x):
        at = cfg
        for name in "a.b".split("."):
            at = getattr(at, name)
        return x * at

    return f, setter(cfg.a, b=7.0)


@case
def items_by_reduce():
    cfg = {"a": {"b": 2.0}}
    return lambda x: x * functools.reduce(operator.getitem, ["a", "b"], cfg), lambda: cfg["a"].update(b=7.0)


@case
def proxy():
    box = Box(v=2.0)

    class Proxy:
        __slots__ = ("_inner",)

        def __init__(self, inner):
            object.__setattr__(self, "_inner", inner)

        def __getattr__(self, name):
            return getattr(object.__getattribute__(self, "_inner"), name)

    proxies = [Proxy(box)]
    return lambda x: x * proxies[0].v, setter(box, v=9.0)


@case
def singleton():
    class One:
        made = None

        def __new__(cls):
            if cls.made is None:
                cls.made = super().__new__(cls)
                cls.made.v = 2.0
            return cls.made

    one = One()
    return lambda x: x * One().v, setter(one, v=9.0)


@case
def registry():
    known = {}

    def register(fn):
        known[fn.__name__] = fn
        return fn

    @register
    def helper(x):
        return x * 2.0

    return lambda x: known["helper"](x), lambda: known.update(helper=lambda x: x * 5.0)


@case
def mapping_of_the_user():
    class Table:
        def __init__(self):
            self.held = {"v": 2.0}

        def __contains__(self, key):
            return key in self.held

        def keys(self):
            return self.held.keys()

        def __getitem__(self, key):
            return self.held[key]

    table = Table()
    return lambda x: x * (2.0 if "w" in table else 1.0) * dict(**table)["v"], lambda: table.held.update(w=3.0)


@case
def coroutine():
    box = Box(v=2.0)

    async def value():
        return box.v

    def f(x):
        try:
            value().send(None)
        except StopIteration as e:
            return x * e.value

    return f, setter(box, v=9.0)


@case
def endless_generator_made_here():
    box = Box(v=2.0)

    def each():
        while True:
            yield box.v

    return lambda x: x * next(each()), setter(box, v=9.0)


@case
def values_kept_in_a_table():
    box = Box(table={})

    def f(x):
        if "k" not in box.table:
            box.table["k"] = 3.0
        return x * box.table["k"]

    return f, lambda: box.table.update(k=8.0)


@case
def log_that_grows():
    log = []

    def f(x):
        log.append(1)
        return x * len(log)

    return f, lambda: None


@case
def cleared_cache_of_a_function():
    k = [2.0]

    @functools.lru_cache
    def value():
        return k[0]

    def change():
        k[0] = 7.0
        value.cache_clear()

    return lambda x: x * value(), change


@case
def single_dispatch():
    box = Box(v=2.0)

    @functools.singledispatch
    def value(_):
        return box.v

    @value.register
    def _(_: int):
        return box.v * 2

    return lambda x: x * value(1) * value(""), setter(box, v=9.0)


@case
def array_of_objects():
    array = np.array([Box(v=2.0)], dtype=object)
    return lambda x: x * array[0].v, setter(array[0], v=6.0)


@case
def constructor_of_a_class():
    class Made:
        def __init__(self):
            self.v = 2.0

    def other(self):
        self.v = 5.0

    return lambda x: x * Made().v, setter(Made, __init__=other)


@case
def method_of_an_object_made_here():
    class Made:
        def go(self):
            return 2.0

    return lambda x: x * Made().go(), setter(Made, go=lambda self: 5.0)


@case
def object_in_the_closure_of_a_method():
    class Made:
        def __init__(self):
            self.k = 2.0

        def reader(self):
            return lambda: self.k

    made = Made()
    read = made.reader()
    return lambda x: x * read(), setter(made, k=5.0)


@case
def settings_of_the_standard_library():
    import argparse
    import configparser

    space = argparse.Namespace(opt=argparse.Namespace(lr=2.0))
    config = configparser.ConfigParser()
    config.read_string("[a]\nb=3")

    def change():
        space.opt.lr = 5.0
        config.set("a", "b", "7")

    return lambda x: x * space.opt.lr * config.getfloat("a", "b"), change


@case
def mock():
    from unittest.mock import Mock

    made = Mock()
    made.v = 2.0
    return lambda x: x * made.v, setter(made, v=5.0)


@case
def queue():
    import queue

    made = queue.Queue()
    made.put(2.0)
    return lambda x: x * made.queue[0] * made.qsize(), lambda: made.put(3.0)


@case
def bound_method_in_a_slot():
    class Slotted:
        __slots__ = ("v",)

    box, slotted = Box(v=2.0), Slotted()

    class Reader:
        def get(self):
            return box.v

    slotted.v = Reader().get
    holders = [slotted]
    return lambda x: x * holders[0].v(), setter(box, v=5.0)


@lazily
def database():
    import sqlite3

    base = sqlite3.connect(":memory:")
    base.execute("create table t(v)")
    base.execute("insert into t values(1)")
    return lambda x: x * base.execute("select v from t").fetchone()[0], lambda: base.execute("update t set v=5")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_changed_value_is_seen(name):
    CASES.check(name, globals())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_object_that_fails_when_it_is_looked_at_is_left_to_plain_python():
    class Odd:
        @property
        def __class__(self):
            raise ValueError("hands off")

    odds = [Odd()]
    k = [2.0]
    g = torsh.compile(lambda x: x * k[0] * len(odds))
    x = torsh.tensor([1.0])
    assert g(x).item() == 2.0
    k[0] = 5.0
    assert g(x).item() == 5.0
    assert "cannot be looked at (ValueError: hands off)" in g.explain()["programs"][0]["graph_break"][0]


def test_the_reason_names_the_line():
    g = torsh.compile(lambda x: x * time.time())
    with pytest.warns(UserWarning, match=r"the clock \(time.time\) at .*test_guards_idioms.py:\d+, which cannot"):
        g(torsh.ones(1))
    h = torsh.compile(lambda x: x * time.time(), fullgraph=True)
    with pytest.raises(torsh.TraceError, match="the clock"):
        h(torsh.ones(1))


class Result:
    def __init__(self, y):
        self.y, self.parts, self.count = y, [], 0


class Trainer:
    """What a training loop keeps beside the step: none of it is read by the step."""

    def __init__(self):
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 2))
        self.opt = torsh.optim.AdamW(self.net.parameters(), lr=1e-3)
        self.schedule = torsh.optim.lr_scheduler.StepLR(self.opt, 1, 0.9)
        self.history, self.epoch = [], 0

    def loss(self, y):
        return (y * y).mean()

    def step(self, x):
        self.opt.zero_grad()
        loss = self.loss(self.net(x))
        loss.backward()
        self.opt.step()
        return loss

    def after(self, _):
        self.history.append(self.epoch)
        self.epoch += 1
        self.schedule.step()


def _made_here(x):
    made, table = Result(x * 2), {}
    made.count += 1
    made.parts.append(made.y + made.count)
    table["k"] = made.parts[0]
    return table["k"] + sum(made.parts)


def _returned(x):
    made = Result(x * 2)
    made.parts.append(made.y + 1)
    return made.parts, {"k": made.y}


def _change_what_was_returned(out):
    out[0].append(3)
    out[1]["q"] = 1


def test_objects_that_were_there_are_returned_as_they_are():
    kept, kinds = Result(1), {1, 2}
    g = torsh.compile(lambda x: (x * 2, kept, kinds, Result, np, torsh.float32, make_kept))
    for _ in range(3):
        out = g(torsh.ones(1))
        assert out[1] is kept and out[2] is kinds and out[3] is Result and out[6] is make_kept
    assert g.cache_info()["misses"] == 1 and not g.explain()["programs"][0]["graph_break"]


def make_kept():
    pass


@contextlib.contextmanager
def _scope(k):
    yield k


def _in_a_scope(x):
    with torsh.no_grad(), _scope(2.0) as k:
        return x * k


def _logged(x):
    logging.getLogger("torsh test").debug("shape %s", x.shape)
    return x * 2


def _imported_here(x):
    import math

    return x * math.sqrt(2.0) * math.pi


def _trainer():
    trainer = Trainer()
    return trainer.step, trainer.after


@pytest.mark.parametrize(
    "make",
    [
        _trainer,
        lambda: (_made_here, None),
        lambda: (_returned, _change_what_was_returned),
        lambda: (_in_a_scope, None),
        lambda: (_logged, None),
        lambda: (_imported_here, None),
    ],
)
def test_what_a_function_makes_or_does_not_read_breaks_no_guard(make):
    step, after = make()
    g = torsh.compile(step)
    for _ in range(6):
        out = g(torsh.ones(2, 4))
        if after is not None:
            after(out)
    # A trainer's first step finds no gradients, a logger's first message fills its cache.
    assert g.cache_info()["misses"] <= 2, str(g.explain())
    assert not any(p["graph_break"] for p in g.explain()["programs"])


def test_a_new_deque_at_each_call():
    compiled = torsh.compile(lambda x: (x, collections.deque([1])))
    compiled(torsh.ones(2))[1].append(2)
    assert list(compiled(torsh.ones(2))[1]) == [1]


def test_under_a_profiler_of_c_code():
    profile = cProfile.Profile()
    profile.enable()
    try:
        assert torsh.compile(lambda x: x * 3)(torsh.ones(2)).tolist() == [3.0, 3.0]
        len([])
    finally:
        profile.disable()
    assert any("len" in str(entry.code) for entry in profile.getstats())
