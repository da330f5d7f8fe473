"""Guards: objects in containers, containers, and arguments.

Each case changes one thing between calls, and the compiled function must give what the plain one gives.
"""

from __future__ import annotations

import array
import collections
import contextvars
import os
import types
import weakref

import numpy as np
import pytest
from guard_cases import Box, Cases, setter, with_arguments

import torsh

CASES = Cases()
case, lazily = CASES.case, CASES.lazily
LEVEL, SWITCH = 2.0, False


# Subscripts and calls before an attribute.


@case
def attribute_of_an_item():
    objs = [Box(v=2.0)]
    return lambda x: x * objs[0].v, setter(objs[0], v=5.0)


@case
def attributes_of_an_item_of_a_dict():
    cfg = {"a": Box(opt=Box(lr=2.0))}
    return lambda x: x * cfg["a"].opt.lr, setter(cfg["a"].opt, lr=5.0)


@case
def attribute_of_a_result():
    box = Box(v=2.0)

    def get():
        return box

    return lambda x: x * get().v, setter(box, v=5.0)


@case
def attribute_of_a_result_of_dict_get():
    cfg = {"a": Box(v=2.0)}
    return lambda x: x * cfg.get("a").v, setter(cfg["a"], v=5.0)


@case
def attribute_of_the_result_of_a_method():
    class Owner:
        def __init__(self):
            self.made = {"k": Box(v=2.0)}

        def find(self, name):
            return self.made[name]

    owner = Owner()
    return lambda x: x * owner.find("k").v, setter(owner.made["k"], v=5.0)


@case
def attribute_of_an_item_kept_in_an_argument_name():
    objs = [Box(v=2.0)]

    def f(x, c=None):
        c = objs[0]
        return x * c.v

    return f, setter(objs[0], v=5.0)


@case
def attribute_of_an_item_of_an_attribute():
    owner = Box(parts=[Box(cfg=Box(v=2.0))])

    def f(x):
        part = owner.parts[0].cfg
        return x * part.v

    return f, setter(owner.parts[0].cfg, v=5.0)


@case
def attribute_of_a_choice():
    a, b = Box(v=2.0), Box(v=3.0)
    return lambda x: x * (a if len(x.shape) == 1 else b).v, setter(a, v=5.0)


@case
def attribute_of_the_larger():
    a, b = Box(v=2.0), Box(v=3.0)
    return lambda x: x * max(a, b, key=id).v * min(a, b, key=id).v, setter(a, v=5.0)


@case
def attribute_of_an_item_of_a_list_made_here():
    a, b = Box(v=2.0), Box(v=3.0)
    return lambda x: x * [a, b][0].v, setter(a, v=5.0)


@case
def attribute_of_the_element_of_a_loop_in_a_comprehension():
    objs = [Box(v=2.0), Box(v=3.0)]
    return lambda x: sum(x * o.v for o in objs), setter(objs[1], v=5.0)


@case
def attribute_in_a_nested_function():
    objs = {"k": [Box(v=2.0)]}

    def f(x):
        def inner(y):
            return [y * o.v for o in objs["k"]][0]

        return inner(x)

    return f, setter(objs["k"][0], v=5.0)


@case
def item_of_an_attribute_of_an_item():
    objs = [Box(t={"a": [2.0]})]
    return lambda x: x * objs[0].t["a"][0], lambda: objs[0].t["a"].__setitem__(0, 5.0)


# Containers.


@case
def deque():
    d = collections.deque([2.0, 3.0])
    return lambda x: x * d[0], lambda: d.rotate()


@case
def deque_of_objects():
    d = collections.deque([Box(v=2.0)])
    return lambda x: x * d[-1].v, setter(d[0], v=5.0)


@case
def array_array():
    a = array.array("d", [2.0])
    return lambda x: x * a[0], lambda: a.__setitem__(0, 5.0)


@case
def byte_array():
    a = bytearray(b"\2")
    return lambda x: x * a[0], lambda: a.__setitem__(0, 5)


@case
def memory_view():
    a = bytearray(b"\2")
    m = memoryview(a)
    return lambda x: x * m[0], lambda: a.__setitem__(0, 5)


@case
def user_list():
    a = collections.UserList([2.0])
    return lambda x: x * a[0], lambda: a.__setitem__(0, 5.0)


@case
def user_dict():
    a = collections.UserDict(k=2.0)
    return lambda x: x * a["k"], lambda: a.update(k=5.0)


@case
def chain_map():
    low = {"k": 2.0}
    a = collections.ChainMap({}, low)
    return lambda x: x * a["k"], lambda: low.update(k=5.0)


@case
def chain_map_with_a_new_child():
    a = collections.ChainMap({}, {"k": 2.0})
    return lambda x: x * a["k"], lambda: a.maps.insert(0, {"k": 5.0})


@case
def mapping_proxy():
    low = {"k": 2.0}
    a = types.MappingProxyType(low)
    return lambda x: x * a["k"], lambda: low.update(k=5.0)


@case
def values_of_a_dict_kept():
    low = {"k": 2.0}
    values = low.values()
    return lambda x: x * sum(values), lambda: low.update(k=5.0)


@case
def ordered_dict():
    a = collections.OrderedDict(a=2.0, b=3.0)
    return lambda x: x * next(iter(a.values())), lambda: a.move_to_end("a")


@case
def default_dict():
    a = collections.defaultdict(lambda: 2.0)
    a["k"] = 2.0
    return lambda x: x * a["k"], lambda: a.update(k=5.0)


@case
def counter():
    a = collections.Counter("aab")
    return lambda x: x * a["a"], lambda: a.update("aa")


@case
def order_of_keys():
    a = {"a": 2.0, "b": 3.0}

    def change():
        a["a"] = a.pop("a")

    return lambda x: x * list(a.values())[0], change


@case
def length():
    a = [1, 2]
    return lambda x: x * len(a), lambda: a.append(0)


@case
def membership():
    a = {1, 2}
    return lambda x: x * (2.0 if 3 in a else 1.0), lambda: a.add(3)


@case
def subclass_of_list():
    class Own(list):
        scale = 2.0

    a = Own([1.0])

    def change():
        a.scale = 5.0

    return lambda x: x * a[0] * a.scale, change


@case
def subclass_of_dict_with_attributes():
    class Config(dict):
        def __getattr__(self, name):
            return self[name]

    cfg = Config(k=2.0)
    return lambda x: x * cfg.k, lambda: cfg.update(k=5.0)


@case
def environment():
    os.environ["TORSHTEST_SCALE"] = "2"
    return lambda x: x * float(os.environ["TORSHTEST_SCALE"]), lambda: os.environ.update(TORSHTEST_SCALE="5")


@case
def environment_by_getenv():
    os.environ["TORSHTEST_SCALE"] = "2"
    return lambda x: x * float(os.getenv("TORSHTEST_SCALE", "1")), lambda: os.environ.pop("TORSHTEST_SCALE")


@case
def context_variable():
    var = contextvars.ContextVar("var", default=2.0)
    return lambda x: x * var.get(), lambda: var.set(5.0)


@case
def context_variable_of_objects():
    var = contextvars.ContextVar("var")
    var.set(Box(v=2.0))
    return lambda x: x * var.get().v, setter(var.get(), v=5.0)


@case
def numpy_array():
    a = np.array([2.0, 3.0], dtype="float32")
    return lambda x: x * float(a[0]), lambda: a.__setitem__(0, 5.0)


@case
def numpy_array_as_a_constant():
    a = np.array([2.0], dtype="float32")
    return lambda x: x * torsh.from_numpy(a.copy()).to(x.device), lambda: a.__setitem__(0, 5.0)


@case
def numpy_view():
    base = np.arange(6.0).reshape(2, 3)
    a = base[:, 1]
    return lambda x: x * float(a[1]), lambda: base.__setitem__((1, 1), 9.0)


@case
def numpy_array_in_an_object():
    objs = [Box(a=np.array([2.0]))]
    return lambda x: x * float(objs[0].a[0]), lambda: objs[0].a.__setitem__(0, 5.0)


@case
def numpy_scalar():
    a = Box(v=np.float32(2.0))
    return lambda x: x * float(a.v), setter(a, v=np.float32(5.0))


@case
def simple_namespace():
    a = types.SimpleNamespace(v=2.0)
    return lambda x: x * a.v, setter(a, v=5.0)


@case
def weak_reference():
    box = Box(v=2.0)
    ref = weakref.ref(box)

    def change():
        box.v = 5.0

    return lambda x: x * ref().v, change


@case
def cyclic_container():
    a = [2.0]
    a.append(a)
    return lambda x: x * a[1][1][0], lambda: a.__setitem__(0, 5.0)


@case
def cyclic_objects():
    a = Box(v=2.0)
    a.next = Box(next=a)
    return lambda x: x * a.next.next.next.next.v, setter(a, v=5.0)


@case
def items_that_refuse_to_be_compared():
    class Odd:
        __hash__ = None

        def __init__(self, v):
            self.v = v

        def __eq__(self, other):
            raise RuntimeError("no comparison")

    items = [Odd(2.0), np.ones(3)]
    return lambda x: x * items[0].v * len(items[1]), lambda: items.__setitem__(0, Odd(5.0))


# Arguments.


@case
def object_in_a_list_argument():
    objs = [Box(v=2.0)]
    return with_arguments(objs)(lambda x, o: x * o[0].v), setter(objs[0], v=5.0)


@case
def numpy_argument():
    a = np.array([2.0])
    return with_arguments(a)(lambda x, o: x * float(o[0])), lambda: a.__setitem__(0, 5.0)


@case
def deque_argument():
    a = collections.deque([2.0])
    return with_arguments(a)(lambda x, o: x * float(o[0])), lambda: a.__setitem__(0, 5.0)


@case
def set_argument():
    a = {1}
    return with_arguments(a)(lambda x, o: x * len(o)), lambda: a.add(2)


@case
def subclass_of_dict_as_an_argument():
    a = collections.OrderedDict(k=2.0)
    return with_arguments(a)(lambda x, o: x * o["k"]), lambda: a.update(k=5.0)


@case
def nested_set_argument():
    a = {"k": [{1}]}
    return with_arguments(a)(lambda x, o: x * len(o["k"][0])), lambda: a["k"][0].add(2)


@case
def object_in_a_list_that_is_handed_on():
    objs = [Box(v=2.0)]

    def inner(x, many):
        return x * many[0].v

    return with_arguments(objs)(lambda x, o: inner(x, o[:])), setter(objs[0], v=5.0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_changed_value_is_seen(name):
    CASES.check(name, globals())
