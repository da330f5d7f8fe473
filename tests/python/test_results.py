"""Results of compiled functions: objects that a call makes, and what is shared inside of one result."""

from __future__ import annotations

import collections
import dataclasses
import gc
import types
import typing
import weakref

import numpy as np
import pytest

import torsh
from torsh import nn


@dataclasses.dataclass
class Output:
    y: typing.Any
    parts: list = dataclasses.field(default_factory=list)
    name: str = "out"


@dataclasses.dataclass(frozen=True)
class Frozen:
    y: typing.Any
    inner: Output | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    y: typing.Any
    n: int = 1


class Slots:
    __slots__ = ("unset", "y")

    def __init__(self, y):
        self.y = y


class Mixed(Slots):
    def __init__(self, y):
        super().__init__(y)
        self.more = [y]


class Hidden:
    """Its attribute lies behind a property, and can be set once only."""

    kind = "class"

    def __init__(self, y):
        self.__dict__["y"], self.kind = y, "own"

    @property
    def y(self):
        return self.__dict__["y"]

    @y.setter
    def y(self, value):
        raise AttributeError("read only")


class Table(dict):
    """A dict with attributes, whose own methods must not run when it is made anew."""

    def __init__(self, **items):
        super().__init__(items)
        self.first = next(iter(items.values()))

    def __setitem__(self, key, value):
        raise RuntimeError("read only")


class Pair(typing.NamedTuple):
    a: typing.Any
    b: typing.Any


class Point(tuple):
    """A tuple with attributes."""


def _point(x):
    made = Point((x, x * 2))
    made.note = [x * 3]
    return made


def _defaults(x):
    made = collections.defaultdict(list)
    made["y"].append(x * 2)
    made["n"].append(1)
    return made


def _shared(x):
    made = Output(x * 2)
    return {"a": made, "b": [made, made.parts], "c": (made.parts,)}


def _cycle(x):
    made = Output(x * 2)
    made.parts.append((made, x))
    return made


def _nested_tuples(x):
    parts = []
    outer = ((parts, x * 2), 3)
    parts.append((outer, (outer[0],)))
    return outer


def _method(x):
    made = Scaled(x * 2)
    return made.scaled


class Scaled:
    def __init__(self, y):
        self.y = y

    def scaled(self):
        return self.y * 3


def text(value, seen=()):
    """What a result holds, with repetitions as places on the way to it."""
    if isinstance(value, torsh.Tensor):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str, type)):
        return value
    if id(value) in seen:
        return f"#{seen.index(id(value))}"
    seen = (*seen, id(value))
    out: list = [type(value).__name__]
    if isinstance(value, types.MethodType):
        return [*out, value.__func__.__name__, text(value.__self__, seen)]
    if isinstance(value, dict):
        out += [(text(k, seen), text(v, seen)) for k, v in value.items()]
    elif isinstance(value, (set, frozenset)):
        out += sorted(map(str, (text(v, seen) for v in value)))
    elif isinstance(value, (list, tuple, collections.deque)):
        out += [text(v, seen) for v in value]
    for cls in type(value).__mro__:
        names = vars(cls).get("__slots__", ())
        out += [(n, text(getattr(value, n), seen)) for n in names if n != "__dict__" and hasattr(value, n)]
    out += [(n, text(v, seen)) for n, v in getattr(value, "__dict__", {}).items()]
    return out


MAKES = [
    lambda x: Output(x * 2),
    lambda x: Output(x * 2, [x, x + 1], "name"),
    lambda x: [Frozen(x * 2, Output(x + 1))],
    lambda x: (x, {"k": Slotted(x * 2), "m": Mixed(x + 1)}),
    lambda x: Slots(x),
    lambda x: Hidden(x),
    lambda x: types.SimpleNamespace,
    lambda x: collections.OrderedDict(b=x * 2, a=x),
    lambda x: collections.OrderedDict([("b", {"c": collections.OrderedDict(d=x)}), ("a", 1.5)]),
    _defaults,
    lambda x: Table(y=x * 2, z=[x]),
    lambda x: collections.Counter("aab"),
    lambda x: (x, {1, 2}, frozenset((3, None))),
    lambda x: (x, frozenset((x,))),
    lambda x: collections.deque([x, x * 2, 3], maxlen=2),
    lambda x: {(1, 2): x * 2, 3: {None: x}},
    lambda x: Pair(x, [Pair(x * 2, Output(x))]),
    lambda x: Output((), [(), (1, 2), x.shape]),
    _point,
    _shared,
    _cycle,
    _nested_tuples,
    _method,
]


@pytest.mark.parametrize("make", MAKES)
def test_a_result_is_made_anew_at_each_call(make):
    g = torsh.compile(make)
    out = []
    for k in range(5):
        x = torsh.tensor([float(k), 1.0])
        out.append(g(x))
        assert text(out[-1]) == text(make(x))
    if not isinstance(out[0], type):
        assert len({id(o) for o in out}) == 5
    # Those of earlier calls keep what they have.
    for k, made in enumerate(out):
        assert text(made) == text(make(torsh.tensor([float(k), 1.0])))
    assert g.cache_info()["hits"] == 4 and not g.explain()["programs"][0]["graph_break"]
    torsh.compile(make, fullgraph=True)(torsh.ones(2))


def test_what_is_held_twice_is_one_object_in_a_result_and_another_in_the_next():
    def f(x):
        parts = [x * 2]
        return parts, {"a": parts, "b": (parts,)}, parts[0]

    g = torsh.compile(f)
    results = [g(torsh.full((1,), float(k))) for k in range(3)]
    for parts, table, y in results:
        assert table["a"] is parts and table["b"][0] is parts and parts[0] is y
    results[0][0].append(1)
    assert [len(parts) for parts, _, _ in results] == [2, 1, 1]
    assert len(g(torsh.ones(1))[0]) == 1


def test_arguments_and_captured_tensors_in_an_object_are_themselves():
    w = torsh.ones(2)
    g = torsh.compile(lambda x: Output(x, [w, x + w]))
    for _ in range(3):
        x = torsh.ones(2)
        out = g(x)
        assert out.y is x and out.parts[0] is w


def test_objects_that_were_there_are_not_copied():
    kept = Output(1, [2])
    holder = [kept]
    g = torsh.compile(lambda x: Frozen(x * 2, kept))
    h = torsh.compile(lambda x: (x * 2, holder, kept.parts, vars(kept)))
    for _ in range(3):
        assert g(torsh.ones(1)).inner is kept
        assert h(torsh.ones(1))[1][0] is kept
    assert g.cache_info()["misses"] == h.cache_info()["misses"] == 1


def test_an_object_of_a_broken_trace():
    def f(x):
        made = Output(x * 2)
        made.parts.append(x)
        return made if x.sum() > 0 else None

    g = torsh.compile(f)
    with pytest.warns(UserWarning, match="needs a value"):
        x = torsh.ones(1)
        out = g(x)
    assert out.y.tolist() == [2.0] and out.parts[0] is x


def test_gradients_flow_through_an_object():
    g = torsh.compile(lambda x: Output((x * x).sum()))
    for k in (1.0, 2.0, 3.0):
        x = torsh.full((2,), k, requires_grad=True)
        g(x).y.backward()
        assert x.grad.tolist() == [2 * k, 2 * k]


REGISTRY = weakref.WeakSet()


def _watched(x):
    made = Output.__new__(Watched)
    made.__init__(x * 2)
    REGISTRY.add(made)
    return made


class Watched(Output):
    __hash__ = object.__hash__


class Closing:
    def __del__(self):
        pass


class Error(Exception):
    pass


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda x: (x, lambda: x * 3),
        lambda x: (x, np.zeros(2)),
        lambda x: Output(nn.Linear(2, 2)),
        lambda x: (x, Closing()),
        lambda x: Error("no"),
        lambda x: {Slots(x): 1},
        lambda x: types.SimpleNamespace(y=x),
        lambda x: (x, slice(Output(x), 1)),
        _watched,
    ],
)
def test_what_cannot_be_made_anew_is_made_by_python(make):
    g = torsh.compile(make)
    out = [g(torsh.full((1,), float(k))) for k in range(6)]
    last = [o[1] if isinstance(o, tuple) else o for o in out]
    assert len({id(o) for o in last}) == 6
    assert "that it makes" in g.explain()["programs"][0]["graph_break"][0]
    with pytest.raises(torsh.TraceError, match="that it makes"):
        torsh.compile(make, fullgraph=True)(torsh.ones(1))


# Cycles through a compiled function.


def _through_a_closure():
    k = [2.0]

    def f(x):
        assert g.__name__
        return x * k[0]

    g = torsh.compile(f)
    return g


def _through_an_attribute():
    g = torsh.compile(lambda x: x * 2)
    g.me = g
    return g


def _through_a_guard():
    class Holder:
        scale = 2.0

    holder = Holder()
    holder.run = torsh.compile(lambda x: x * holder.scale)
    return holder.run


def _through_a_module():
    net = nn.Linear(1, 1)
    net.compiled = torsh.compile(net.forward)
    return net.compiled


def _through_a_result():
    kept = Output(1)
    kept.run = torsh.compile(lambda x: (x, kept))
    return kept.run


def _through_an_argument():
    kept = Output(1)
    run = torsh.compile(lambda x, kept: x * kept.y)
    kept.run = lambda x: run(x, kept)
    run.keep = kept
    run(torsh.ones(1), kept)
    return run


@pytest.mark.parametrize(
    "make",
    [
        _through_a_closure,
        _through_an_attribute,
        _through_a_guard,
        _through_a_module,
        _through_a_result,
        _through_an_argument,
    ],
)
@pytest.mark.parametrize("called", [False, True])
def test_a_cycle_through_a_compiled_function_is_collected(make, called):
    g = make()
    if called and make is not _through_an_argument:
        for _ in range(3):
            g(torsh.ones(1))
    at = weakref.ref(g)
    del g
    gc.collect()
    assert at() is None


def test_the_collector_leaves_compiled_functions_that_are_in_use():
    k = [2.0]
    g = torsh.compile(lambda x: (x * k[0], gc.collect())[0])
    for value in (2.0, 3.0, 3.0):
        k[0] = value
        assert g(torsh.ones(1)).item() == value
        gc.collect()
