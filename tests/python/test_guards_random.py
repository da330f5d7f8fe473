"""Random functions that read numbers from random nestings of objects, containers and functions: after one number has
changed, the compiled function must give what the plain one gives. `GUARD_SEEDS=a:b` chooses other seeds."""

from __future__ import annotations

import array
import collections
import contextvars
import dataclasses
import functools
import os
import random
import types
import warnings
import weakref

import numpy as np
import pytest

import torsh
from torsh import nn

ALIVE: list = []


class Plain:
    def __init__(self, v):
        self.v = v

    def get(self):
        return self.v

    @property
    def shown(self):
        return self.v


class Slotted:
    __slots__ = ("v", "__weakref__")

    def __init__(self, v):
        self.v = v


class Missing:
    def __init__(self, v):
        self.table = {"v": v}

    def __getattr__(self, name):
        if name == "table":
            raise AttributeError(name)
        return self.table[name]


class Called:
    def __init__(self, v):
        self.v = v

    def __call__(self):
        return self.v

    def __getitem__(self, i):
        return self.v


class Layer(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.v = v


@dataclasses.dataclass
class Data:
    v: object


Pair = collections.namedtuple("Pair", "a b")


def at(holder, key):
    return lambda value: holder.__setitem__(key, value)


def of(holder, name="v"):
    return lambda value: setattr(holder, name, value)


def closure(v):
    def read():
        return v

    def write(value):
        nonlocal v
        v = value

    return read, write


def default(v):
    def read(v=v):
        return v

    return read, lambda value: setattr(read, "__defaults__", (value,))


def class_of(v):
    own = staticmethod(v) if isinstance(v, types.FunctionType) else v
    cls = type("Made", (Plain,), {"v": own, "__init__": lambda self: None})
    return cls, of(cls)


def variable(v):
    var = contextvars.ContextVar("v")
    var.set(v)
    return var, var.set


def module(v):
    made = types.ModuleType("made")
    made.v = v
    return made, of(made)


def mapping(v):
    low = {"k": v}
    return types.MappingProxyType(low), at(low, "k")


def chained(v):
    low = {"k": v}
    return collections.ChainMap({}, low), at(low, "k")


def partial(v):
    made = functools.partial(lambda k: k, k=v)
    return made, at(made.keywords, "k")


def simple(make, change):
    def build(v):
        made = make(v)
        return made, change(made)

    return build


# What holds a value, and how it is read: `(build, expressions)`; `build(v)` gives a holder and what replaces v in it.
HOLDERS = [
    (
        simple(Plain, of),
        ["{}.v", "{}.get()", "{}.shown", "getattr({}, 'v')", "getattr({}, 'V'.lower())", "vars({})['v']"],
    ),
    (simple(Slotted, of), ["{}.v", "getattr({}, 'v', 1.0)", "getattr({}, 'V'.lower())"]),
    (simple(Missing, lambda m: at(m.table, "v")), ["{}.v", "{}.table['v']", "getattr({}, 'v')"]),
    (simple(Called, of), ["{}()", "{}[0]", "{}.v"]),
    (simple(Layer, of), ["{}.v", "getattr({}, 'v')"]),
    (simple(Data, of), ["{}.v", "{}.__dict__['v']"]),
    (simple(lambda v: types.SimpleNamespace(v=v), of), ["{}.v", "(lambda o: o.v)({})"]),
    (class_of, ["{}.v", "{}().v", "{}().get()", "type({}()).v", "{}().__class__.v"]),
    (module, ["{}.v"]),
    (
        simple(lambda v: [0.5, v], lambda m: at(m, 1)),
        ["{}[1]", "{}[-1]", "list({})[1]", "{}[1:][0]", "[o for o in {}][1]"],
    ),
    (simple(lambda v: collections.deque([v]), lambda m: at(m, 0)), ["{}[0]", "tuple({})[0]"]),
    (simple(lambda v: collections.UserList([v]), lambda m: at(m, 0)), ["{}[0]"]),
    (simple(lambda v: {"k": v}, lambda m: at(m, "k")), ["{}['k']", "{}.get('k')", "next(iter({}.values()))"]),
    (simple(lambda v: collections.OrderedDict(k=v), lambda m: at(m, "k")), ["{}['k']", "list({}.values())[0]"]),
    (simple(lambda v: collections.defaultdict(int, k=v), lambda m: at(m, "k")), ["{}['k']"]),
    (simple(lambda v: collections.UserDict(k=v), lambda m: at(m, "k")), ["{}['k']", "{}.get('k')"]),
    (mapping, ["{}['k']", "{}.get('k')"]),
    (chained, ["{}['k']"]),
    (closure, ["{}()"]),
    (default, ["{}()", "{}.__defaults__[0]"]),
    (partial, ["{}()", "{}.keywords['k']"]),
    (variable, ["{}.get()"]),
]
# These hold only what itself holds something that can change.
FIXED = [
    (lambda v: (v,), ["{}[0]", "({} or 1)[0]"]),
    (lambda v: Pair(v, 1), ["{}.a", "{}[0]"]),
    (lambda v: frozenset([v]), ["next(iter({}))", "[o for o in {}][0]"]),
    (lambda v: Plain(v).get, ["{}()", "{}.__self__.v"]),
    (lambda v: functools.partial(lambda o: o, v), ["{}()", "{}.args[0]"]),
    (lambda v: lambda: v, ["{}()"]),
    (lambda v: (ALIVE.append(v), weakref.ref(v))[1], ["{}()"]),
]
LEAVES = [
    (lambda: np.array([2.0, 3.0]), "float({}[1])", lambda m: at(m, 1)),
    (lambda: array.array("d", [3.0]), "{}[0]", lambda m: at(m, 0)),
    (lambda: bytearray(b"\3"), "float({}[0])", lambda m: lambda v: m.__setitem__(0, int(v))),
]


def nest(rng, depth):
    """A value, the expressions that lead to a number in it, and what sets that number."""
    if depth == 0:
        build, ways = rng.choice(HOLDERS)
        value, change = build(3.0)
        return value, [rng.choice(ways)], change
    if rng.random() < 0.08:
        make, way, change = rng.choice(LEAVES)
        value = make()
        return value, [way], change(value)
    inner, path, change = nest(rng, depth - 1)
    if rng.random() < 0.25:
        for make, ways in rng.sample(FIXED, len(FIXED)):
            try:
                return make(inner), [rng.choice(ways), *path], change
            except TypeError:
                # It cannot be hashed or referred to weakly.
                continue
    build, ways = rng.choice(HOLDERS)
    value, _ = build(inner)
    return value, [rng.choice(ways), *path], change


def read(rng, root, path):
    """Statements that read along a path, and the expression of the number."""
    lines, at_hand = [], root
    for way in path:
        at_hand = way.format(at_hand)
        style = rng.random()
        if style < 0.2:
            name = f"t{len(lines)}"
            lines.append(f"{name} = {at_hand}")
            at_hand = name
        elif style < 0.3:
            at_hand = f"same({at_hand})"
        elif style < 0.35:
            at_hand = f"[{at_hand}, None][0]"
        elif style < 0.4:
            at_hand = f"({at_hand} if len(x.shape) == 1 else None)"
        elif style < 0.45:
            at_hand = f"[o for o in [{at_hand}]][0]"
        elif style < 0.5:
            at_hand = f"dict(k={at_hand}).get('k')"
    return lines, at_hand


def source(rng, count):
    """The text of a random function, its global variables, and what changes the numbers that it reads."""
    space = {"same": lambda o: o}
    body, given, outer, changes, terms = [], [], [], [], []
    for i in range(count):
        value, path, change = nest(rng, rng.randint(0, 4))
        changes.append(change)
        space[f"G{i}"], space[f"L{i}"] = value, [value]
        where = rng.choice(["global", "cell", "default", "list", "helper"])
        if where == "cell":
            outer.append(f"    c{i} = G{i}")
        if where == "default":
            given.append(f"d{i}=G{i}")
        root = {"global": f"G{i}", "cell": f"c{i}", "default": f"d{i}", "list": f"L{i}[0]", "helper": f"h{i}_o"}[where]
        lines, term = read(rng, root, path)
        if where == "helper":
            outer += [f"    def h{i}(x, h{i}_o):", *(f"        {line}" for line in lines), f"        return {term}"]
            term = f"h{i}(x, G{i})"
        else:
            # Each reading has names of its own.
            body += ["", *(f"        {line}" for line in lines)]
            body.append(f"        y{i} = {term}")
            term = f"y{i}"
        terms.append(term)
    args = ", ".join(["x", *given])
    text = "\n".join(
        [
            "def make():",
            *outer,
            f"    def f({args}):",
            *body,
            f"        return x * {' + x * '.join(terms)}",
            "    return f",
        ]
    )
    return text, space, changes


SEEDS = range(*map(int, os.environ.get("GUARD_SEEDS", "0:60").split(":")))


@pytest.mark.parametrize("seed", SEEDS)
def test_one_changed_number_is_seen(seed):
    rng = random.Random(seed)
    text, space, changes = source(rng, rng.randint(1, 3))
    exec(text, space)
    f = space["make"]()
    g = torsh.compile(f)
    x = torsh.tensor([1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for round_ in range(3):
            want = f(x).item()
            assert [g(x).item(), g(x).item()] == [want, want], text
            rng.choice(changes)(float(5 + round_))
        assert g(x).item() == f(x).item(), f"{text}\n{g.explain()}"
    assert not any(p["graph_break"] for p in g.explain()["programs"]), f"{text}\n{g.explain()}"
