"""Guards: values that are kept elsewhere than where a function looks: classes, tensors, tables, caches, built-ins."""

from __future__ import annotations

import builtins
import functools
import operator
import sys
import types

import pytest
from guard_cases import Box, Cases, setter, with_arguments

import torsh
from torsh import nn
from torsh._collector import Collector

CASES = Cases()
case, lazily = CASES.case, CASES.lazily


@case
def name_added_to_a_class_that_vars_reads():
    class Thing:
        a = 2.0

    thing, names = Thing(), ("a", "b")
    return lambda x: x * sum(vars(type(thing)).get(n, 0.0) for n in names), setter(Thing, b=5.0)


@case
def name_added_to_a_class_that_getattr_reads():
    class Thing:
        a = 2.0

    thing, names = Thing(), ["a", "b"]
    return lambda x: x * sum(getattr(thing, n, 0.0) for n in names), setter(Thing, b=5.0)


@case
def name_added_to_a_base_class():
    class Base:
        a = 2.0

    class Thing(Base):
        pass

    thing, names = Thing(), ["a", "b"]
    return lambda x: x * sum(getattr(thing, n, 0.0) for n in names), setter(Base, b=5.0)


@case
def attribute_of_a_captured_tensor():
    w = torsh.tensor([2.0, 3.0])
    w.k = 2.0
    return lambda x: x * w * w.k, setter(w, k=5.0)


@case
def attribute_that_a_captured_tensor_lacks():
    w = torsh.tensor([2.0, 3.0])
    return lambda x: x * w * getattr(w, "k", 1.0), setter(w, k=5.0)


@case
def attribute_of_a_tensor_in_a_list():
    ws = [torsh.tensor([2.0, 3.0])]
    ws[0].k = Box(v=2.0)
    return lambda x: x * ws[0] * ws[0].k.v, setter(ws[0].k, v=5.0)


@case
def attribute_that_a_tensor_in_a_list_lacks():
    ws = [torsh.tensor([2.0, 3.0])]

    def f(x):
        for w in ws:
            x = x * w * getattr(w, "k", 1.0)
        return x

    return f, setter(ws[0], k=5.0)


@case
def attribute_that_an_object_in_a_list_lacks():
    objs = [Box(v=2.0)]

    def f(x):
        o = objs[0]
        return x * getattr(o, "k", 1.0)

    return f, setter(objs[0], k=5.0)


@case
def attribute_that_an_object_in_a_list_lacks_in_an_inner_function():
    objs = [Box(v=2.0)]
    return lambda x: x * sum(5.0 for o in objs if not hasattr(o, "k")), setter(objs[0], k=5.0)


@case
def attribute_of_a_parameter():
    net = nn.Linear(2, 2)
    with torsh.no_grad():
        net.weight.fill_(1.0)
        net.bias.zero_()
    net.weight.k = 2.0
    return lambda x: net(x).detach() * net.weight.k, setter(net.weight, k=5.0)


@case
def attribute_of_a_tensor_by_a_made_name():
    w = torsh.tensor([2.0, 3.0])
    w.k, names = 2.0, ["k"]

    def f(x):
        t = w
        return x * sum(getattr(t, n) for n in names)

    return f, setter(w, k=5.0)


@lazily
def attribute_of_an_argument():
    t = torsh.tensor([2.0, 3.0])
    t.k = 2.0
    return with_arguments(t)(lambda x, t: x * t * t.k), setter(t, k=5.0)


class Steps(int):
    pass


class Word(str):
    pass


@case
def attribute_of_an_int():
    n = Steps(3)
    n.k = 2.0
    return lambda x: x * n * n.k, setter(n, k=5.0)


@case
def attribute_of_an_int_that_is_an_argument():
    n = Steps(3)
    n.k = 2.0
    return with_arguments(n)(lambda x, n: x * n * n.k), setter(n, k=5.0)


@case
def attribute_of_another_int_of_the_same_value():
    box = Box(n=Steps(3))
    box.n.k = 2.0
    other = Steps(3)
    other.k = 5.0
    return lambda x: x * box.n * box.n.k, setter(box, n=other)


@case
def attribute_of_a_str_in_a_list():
    words = [Word("a")]
    words[0].k = 2.0
    return lambda x: x * words[0].k * len(words[0]), setter(words[0], k=5.0)


@case
def attribute_of_the_class_of_a_float():
    class Ratio(float):
        k = 2.0

    r = Ratio(3.0)
    return lambda x: x * float(r) * r.k, setter(Ratio, k=5.0)


def _ones(k=1.0):
    return nn.Parameter(torsh.full((2,), k))


@case
def parameter_written_past_setattr():
    net = nn.Module()
    net.w = _ones()
    return lambda x: (x * net.w).detach(), lambda: net._parameters.__setitem__("w", _ones(5.0))


@case
def buffer_written_past_setattr():
    net = nn.Module()
    net.register_buffer("w", torsh.ones(2))
    return lambda x: x * net.w, lambda: net._buffers.update(w=torsh.full((2,), 5.0))


@case
def child_written_past_setattr():
    net = nn.Sequential(nn.Identity(), nn.Identity())
    return lambda x: net(x), lambda: net._modules.__setitem__("1", nn.ReLU6())


@case
def child_taken_out_past_setattr():
    net = nn.Sequential(nn.Identity(), nn.Sigmoid())
    return lambda x: net(x), lambda: net._modules.pop("1")


@case
def hooks_cleared():
    net = nn.Identity()
    net.register_forward_hook(lambda module, args, out: out * 3.0)
    return lambda x: net(x), net._forward_hooks.clear


@case
def builtin_replaced():
    def change():
        builtins.abs = lambda x: x * 5.0

    def f(x):
        return abs(x)

    f.after = lambda: setattr(builtins, "abs", operator.abs)
    return f, change


@case
def builtin_added():
    def change():
        builtins.torsh_test_level = 5.0

    def f(x):
        return x * torsh_test_level  # noqa: F821

    builtins.torsh_test_level = 2.0
    f.after = lambda: delattr(builtins, "torsh_test_level")
    return f, change


@case
def builtin_object():
    builtins.torsh_test_box = Box(v=2.0)
    return lambda x: x * torsh_test_box.v, setter(builtins.torsh_test_box, v=5.0)  # noqa: F821


@case
def cache_filled_before():
    box = Box(v=2.0)

    @functools.lru_cache
    def helper():
        return box.v

    helper()

    def change():
        box.v = 5.0
        helper.cache_clear()

    return lambda x: x * helper(), change


@case
def cache_of_a_method_filled_before():
    class Thing:
        v = 2.0

        @functools.cache  # noqa: B019
        def helper(self):
            return self.v

    thing = Thing()
    thing.helper()

    def change():
        thing.v = 5.0
        Thing.helper.cache_clear()

    return lambda x: x * thing.helper(), change


@case
def cache_filled_in_the_trace():
    box = Box(v=2.0)

    @functools.lru_cache
    def helper():
        return box.v

    def change():
        box.v = 5.0
        helper.cache_clear()

    return lambda x: x * helper(), change


@case
def single_dispatch():
    @functools.singledispatch
    def scale(n):
        return 2.0

    return lambda x: x * scale(3), lambda: scale.register(int, lambda n: 5.0)


@case
def single_dispatch_of_a_method():
    class Thing:
        @functools.singledispatchmethod
        def scale(self, n):
            return 2.0

    thing = Thing()
    change = lambda: Thing.__dict__["scale"].register(int, lambda self, n: 5.0)  # noqa: E731
    return lambda x: x * thing.scale(3), change


def _module(v):
    module = types.ModuleType("torsh_test_module")
    module.v = v
    return module


@case
def module_swapped():
    sys.modules["torsh_test_module"] = _module(2.0)

    def f(x):
        import torsh_test_module

        return x * torsh_test_module.v

    return f, lambda: sys.modules.__setitem__("torsh_test_module", _module(5.0))


@case
def module_swapped_that_names_are_imported_from():
    sys.modules["torsh_test_module"] = _module(2.0)

    def f(x):
        from torsh_test_module import v

        return x * v

    return f, lambda: sys.modules.__setitem__("torsh_test_module", _module(5.0))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_changed_value_is_seen(name):
    CASES.check(name, globals())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_attribute_that_an_argument_lacks():
    g = torsh.compile(lambda x: x * getattr(x, "k", 1.0))
    for _ in range(3):
        assert g(torsh.ones(1)).item() == 1.0
    assert g.cache_info()["hits"] == 2
    x = torsh.ones(1)
    x.k = 5.0
    assert g(x).item() == 5.0 and g(torsh.ones(1)).item() == 1.0
    assert "argument now has the attribute k" in str(g.explain())


@pytest.mark.parametrize("read", [lambda o, n: getattr(o, n), lambda o, n: vars(o)[n]])
def test_work_grows_with_the_number_of_objects(read, monkeypatch):
    """Objects that are read by variable names are looked at once each, however many there are."""
    looks = 0
    plain = Collector.whole

    def whole(self, obj):
        nonlocal looks
        looks += 1
        return plain(self, obj)

    monkeypatch.setattr(Collector, "whole", whole)
    found = []
    for count in (250, 500, 1000):
        objs, looks = [Box(v=1.0) for _ in range(count)], 0
        g = torsh.compile(lambda x, objs=objs: x * sum(read(o, "v") for o in objs))
        assert g(torsh.ones(1)).item() == count
        assert not g.explain()["programs"][0]["graph_break"]
        found.append(looks)
        objs[count // 2].v = 2.0
        assert g(torsh.ones(1)).item() == count + 1
    # Whatever each object costs, twice as many cost twice as much.
    assert found[2] - found[1] <= 2.2 * (found[1] - found[0]), found
