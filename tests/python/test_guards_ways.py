"""Guards: other ways to a value, what the function writes, and what cannot be checked.

Each case changes one thing between calls, and the compiled function must give what the plain one gives.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import operator
import os
import random
import sys
import time
import types

import numpy as np
import pytest
from guard_cases import Box, Cases, setter, with_arguments

CASES = Cases()
case, lazily = CASES.case, CASES.lazily
LEVEL, SWITCH = 2.0, False


# More ways to a value.


@case
def pattern_by_position():
    class Point:
        __match_args__ = ("v", "w")

        def __init__(self, v, w):
            self.v, self.w = v, w

    point = Point(2.0, 3.0)

    def f(x):
        match point:
            case Point(a, b):
                return x * a * b

    return f, setter(point, w=5.0)


@case
def attribute_through_the_class():
    class Thing:
        v = 2.0

    thing = Thing()
    return lambda x: x * thing.__class__.v * type(thing).v, setter(Thing, v=5.0)


@case
def attribute_of_the_base_through_super():
    class Base:
        v = 2.0

        def go(self):
            return 3.0

    class Thing(Base):
        def go(self):
            return super().go() * super().v

    thing = Thing()
    return lambda x: x * thing.go(), setter(Base, v=5.0)


@case
def method_of_the_base_through_super():
    class Base:
        def go(self):
            return 3.0

    class Thing(Base):
        def go(self):
            return super().go() * 2.0

    thing = Thing()
    return lambda x: x * thing.go(), setter(Base, go=lambda self: 5.0)


@case
def attribute_of_a_function_in_a_list():
    def helper():
        return 1.0

    helper.k = 2.0
    calls = [helper]
    return lambda x: x * calls[0].k, setter(helper, k=5.0)


@case
def attribute_of_a_method():
    class Thing:
        def go(self):
            return 1.0

    Thing.go.k = 2.0
    thing = Thing()
    return lambda x: x * thing.go.k, setter(Thing.go, k=5.0)


@case
def contents_of_a_cell():
    k = [2.0]
    box = Box(v=3.0)

    def helper():
        return k, box

    read = helper
    return lambda x: x * read.__closure__[1].cell_contents[0] * read.__closure__[0].cell_contents.v, setter(box, v=5.0)


@case
def python_module_imported_in_the_function():
    module = types.ModuleType("torsh_test_module")
    module.v, module.w = 2.0, Box(k=3.0)
    sys.modules["torsh_test_module"] = module

    def f(x):
        import torsh_test_module

        return x * torsh_test_module.v

    return f, setter(module, v=5.0)


@case
def names_imported_in_the_function():
    module = types.ModuleType("torsh_test_module")
    module.u, module.v, module.w = 1.0, 2.0, Box(k=3.0)
    sys.modules["torsh_test_module"] = module

    def f(x):
        from torsh_test_module import u, v, w

        return x * u * v * w.k

    def change():
        module.v, module.w = 5.0, Box(k=7.0)

    return f, change


@case
def python_module_of_the_table_of_modules():
    module = types.ModuleType("torsh_test_module")
    module.v = 2.0
    sys.modules["torsh_test_module"] = module
    return lambda x: x * sys.modules["torsh_test_module"].v, setter(module, v=5.0)


@case
def value_of_the_thread():
    import threading

    local = threading.local()
    local.v = 2.0
    return lambda x: x * local.v, setter(local, v=5.0)


@case
def ctypes_structure():
    import ctypes

    class Pair(ctypes.Structure):
        _fields_ = [("a", ctypes.c_int), ("b", ctypes.c_int)]

    pair, number = Pair(2, 3), ctypes.c_double(2.0)
    return lambda x: x * pair.a * number.value, setter(pair, a=5)


@case
def replaced_dict_of_an_object():
    box = Box(v=2.0)
    return lambda x: x * box.v, setter(box, __dict__={"v": 5.0})


@case
def pattern_of_a_match():
    box = Box(v=2.0, w=[3.0])

    def f(x):
        match box:
            case Box(v=2.0, w=[w]):
                return x * w
            case Box(v=v):
                return x * v

    return f, setter(box, v=5.0)


@case
def unpacked_dict():
    cfg = {"k": 2.0, "o": Box(v=3.0)}

    def helper(x, k, o):
        return x * k * o.v

    return lambda x: helper(x, **cfg), setter(cfg["o"], v=5.0)


@case
def sorted_by_an_attribute():
    objs = [Box(n=1, v=2.0), Box(n=2, v=3.0)]
    return lambda x: x * sorted(objs, key=lambda o: o.n)[0].v, setter(objs[0], n=3)


@case
def sorted_by_a_getter():
    objs = [Box(n=1, v=2.0), Box(n=2, v=3.0)]
    return lambda x: x * sorted(objs, key=operator.attrgetter("n"))[0].v, setter(objs[0], n=3)


@case
def linked_list():
    head = None
    for v in (2.0, 3.0, 4.0):
        head = Box(v=v, next=head)

    def f(x):
        at = head
        while at is not None:
            x = x * at.v
            at = at.next
        return x

    return f, setter(head.next.next, v=5.0)


@case
def tree():
    def leaf(v):
        return Box(v=v, kids=[])

    root = Box(v=1.0, kids=[Box(v=2.0, kids=[leaf(3.0)]), leaf(4.0)])

    def total(node):
        return node.v + sum(total(k) for k in node.kids)

    return lambda x: x * total(root), setter(root.kids[0].kids[0], v=5.0)


@case
def text_of_an_object():
    @dataclasses.dataclass
    class Config:
        v: int = 2

    cfg = Config()
    return lambda x: x * len(f"{cfg}"), setter(cfg, v=50)


@case
def copied_object():
    import copy

    objs = [Box(v=2.0)]
    return lambda x: x * copy.copy(objs[0]).v * copy.deepcopy(objs)[0].v, setter(objs[0], v=5.0)


@case
def replaced_dataclass():
    @dataclasses.dataclass(frozen=True)
    class Config:
        v: float = 2.0
        w: float = 3.0

    box = Box(cfg=Config())
    return lambda x: x * dataclasses.replace(box.cfg, w=1.0).v, setter(box, cfg=Config(5.0))


@case
def class_decorator_and_class_call():
    class Scale:
        def __init__(self, fn):
            self.fn, self.k = fn, 2.0

        def __call__(self, x):
            return self.fn(x) * self.k

    @Scale
    def helper(x):
        return x

    return lambda x: helper(x), setter(helper, k=5.0)


@case
def descriptor_of_the_user():
    class Field:
        def __init__(self):
            self.values = {}

        def __get__(self, obj, cls):
            return self if obj is None else self.values[id(obj)]

        def __set__(self, obj, value):
            self.values[id(obj)] = value

    class Thing:
        v = Field()

    thing = Thing()
    thing.v = 2.0
    return lambda x: x * thing.v, setter(thing, v=5.0)


@case
def lookup_of_the_user():
    class Thing:
        def __init__(self):
            self.v = 2.0

        def __getattribute__(self, name):
            return object.__getattribute__(self, name)

    thing = Thing()
    return lambda x: x * thing.v, setter(thing, v=5.0)


@case
def metaclass_attribute():
    class Meta(type):
        v = 2.0

    class Thing(metaclass=Meta):
        pass

    return lambda x: x * Thing.v, setter(Meta, v=5.0)


@case
def attribute_of_a_class_in_a_dict():
    class Thing:
        v = 2.0

    kinds = {"t": Thing}
    return lambda x: x * kinds["t"].v, setter(Thing, v=5.0)


@case
def attribute_of_an_object_of_a_class_in_a_dict():
    class Thing:
        v = 2.0

    kinds = {"t": Thing}
    return lambda x: x * kinds["t"]().v, setter(Thing, v=5.0)


@case
def default_factory():
    k = 2.0

    def make():
        return k

    def change():
        nonlocal k
        k = 5.0

    return lambda x: x * collections.defaultdict(make)["a"], change


@case
def conditional_import_of_a_global():
    holder = {"fn": lambda x: x * 2.0}

    def f(x):
        fn = holder.get("fn") or (lambda y: y)
        return fn(x)

    return f, lambda: holder.pop("fn")


@case
def annotations_of_a_class():
    class Thing:
        v: int = 0

    thing = Thing()
    return lambda x: x * len(thing.__annotations__), lambda: Thing.__annotations__.update(w=int)


@case
def pickled_object():
    import pickle

    box = Pickled(2.0)
    return lambda x: x * pickle.loads(pickle.dumps(box)).v, setter(box, v=5.0)  # noqa: S301


class Pickled:
    def __init__(self, v):
        self.v = v


@lazily
def clock():
    return lambda x: x * (time.time() * 0.0 + 1.0), lambda: None


@lazily
def file_on_disk():
    import tempfile

    handle = tempfile.NamedTemporaryFile("w+", suffix=".txt")
    handle.write("2")
    handle.flush()

    def change():
        handle.seek(0)
        handle.write("5")
        handle.flush()

    def f(x):
        with open(handle.name) as file:
            return x * float(file.read())

    return f, change


@lazily
def directory_on_disk(tmp=[]):  # noqa: B006
    import tempfile

    folder = tempfile.TemporaryDirectory()
    return lambda x: x * len(os.listdir(folder.name)), lambda: open(f"{folder.name}/new", "w").close()


@lazily
def uuid():
    import uuid

    return lambda x: x * float(uuid.uuid4().int > 0), lambda: None


@lazily
def array_of_another_library():
    class Foreign:
        def __init__(self):
            self.data = [2.0]

        def __array__(self, dtype=None, copy=None):
            return np.array(self.data)

    a = Foreign()
    return lambda x: x * float(np.asarray(a)[0]), lambda: a.data.__setitem__(0, 5.0)


@case
def reading_an_iterator_made_here():
    items = [2.0, 3.0]

    class Loader:
        def __init__(self, items):
            self.it = iter(items)

        def take(self):
            return next(self.it)

    def helper(it):
        return next(it)

    def f(x):
        return x * Loader(items).take() * helper(iter(items)) * next(v for v in items)

    return f, lambda: items.__setitem__(0, 5.0)


# Writes.


@case
def a_global_written_and_read():
    def f(x):
        global LEVEL
        LEVEL = LEVEL + 1.0
        return x * LEVEL

    return f, lambda: None


@case
def a_global_that_is_only_written():
    def f(x):
        global SWITCH
        SWITCH = True
        return x * 2.0

    def change():
        global SWITCH
        assert SWITCH
        SWITCH = False

    f.after = lambda: SWITCH
    return f, change


@case
def a_closure_variable_written_and_read():
    n = 0

    def f(x):
        nonlocal n
        n += 1
        return x * n

    return f, lambda: None


@case
def an_attribute_that_is_only_written():
    box = Box(seen=0)

    def f(x):
        box.seen = 7
        return x * 2.0

    f.after = lambda: box.seen
    return f, setter(box, seen=0)


@case
def an_attribute_of_an_item_written_and_read():
    objs = [Box(n=0)]

    def f(x):
        objs[0].n += 1
        return x * objs[0].n

    return f, lambda: None


@case
def an_attribute_of_a_result_written_and_read():
    box = Box(n=0)
    get = functools.partial(operator.itemgetter("b"), {"b": box})

    def f(x):
        o = get()
        y = x * o.n
        o.n += 1
        return y

    return f, lambda: None


# What each call changes: these run without compilation.


@lazily
def iterator():
    it = itertools.count(1)
    return lambda x: x * next(it), lambda: None


@lazily
def generator():
    it = (i for i in range(1, 100))
    return lambda x: x * next(it), lambda: None


@lazily
def iterator_in_an_object():
    box = Box(it=iter(range(1, 100)))

    def f(x):
        for i in box.it:
            return x * i

    return f, lambda: None


@lazily
def iterator_as_an_argument():
    it = itertools.count(1)
    f = with_arguments(it)(lambda x, o: x * next(o))
    return f, lambda: None


@lazily
def random_number():
    return lambda x: x * random.random(), lambda: None


@lazily
def random_number_of_python_code():
    return lambda x: x * random.uniform(1.0, 2.0), lambda: None


@lazily
def random_number_of_an_own_generator():
    rng = random.Random(3)
    return lambda x: x * rng.randint(1, 100), lambda: rng.seed(4)


@lazily
def random_number_of_numpy():
    return lambda x: x * float(np.random.rand()), lambda: None


@lazily
def random_number_of_a_numpy_generator():
    rng = np.random.default_rng(3)
    return lambda x: x * float(rng.random()), lambda: None


@lazily
def numpy_array_too_large():
    a = np.ones(200_000, dtype="float64")
    return lambda x: x * float(a[150_000]), lambda: a.__setitem__(150_000, 5.0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_changed_value_is_seen(name):
    CASES.check(name, globals())
