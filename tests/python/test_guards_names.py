"""Guards: names, functions and their defaults.

Each case changes one thing between calls, and the compiled function must give what the plain one gives.
"""

from __future__ import annotations

import functools
import operator

import pytest
from guard_cases import Box, Cases, setter

import torsh

CASES = Cases()
case, lazily = CASES.case, CASES.lazily
LEVEL, SWITCH = 2.0, False


# By name.


@case
def getattr_by_a_constant():
    a = Box(v=2.0)
    return lambda x: x * getattr(a, "v"), setter(a, v=5.0)  # noqa: B009


@case
def getattr_by_a_made_name():
    a = Box(v0=2.0, v1=3.0)
    return lambda x: x * sum(getattr(a, f"v{i}") for i in range(2)), setter(a, v1=5.0)


@case
def getattr_of_an_item():
    objs = [Box(v=2.0)]
    return lambda x: x * getattr(objs[0], "v", 1.0), setter(objs[0], v=5.0)


@case
def getattr_with_a_default():
    a = Box()
    return lambda x: x * getattr(a, "v", 2.0), setter(a, v=5.0)


@case
def getattr_under_another_name():
    get, a = getattr, Box(v=2.0)
    return lambda x: x * get(a, "v"), setter(a, v=5.0)


@case
def hasattr_of_an_object():
    a = Box(w=1)
    return lambda x: x * (5.0 if hasattr(a, "v") else 2.0), setter(a, v=1.0)


@case
def hasattr_of_a_class():
    class Thing:
        pass

    thing = Thing()
    return lambda x: x * (5.0 if hasattr(thing, "v") else 2.0), setter(Thing, v=1.0)


@case
def an_attribute_that_is_missed():
    a = Box(w=1)

    def f(x):
        try:
            return x * a.v
        except AttributeError:
            return x * 2.0

    return f, setter(a, v=5.0)


@case
def a_global_that_is_missed():
    def f(x):
        try:
            return x * NOT_THERE_YET  # noqa: F821
        except NameError:
            return x * 2.0

    return f, lambda: globals().update(NOT_THERE_YET=5.0)


@case
def a_builtin_that_is_hidden():
    def f(x):
        return x * abs(-2.0)

    return f, lambda: globals().update(abs=lambda _: 5.0)


@case
def vars_of_an_object():
    a = Box(v=2.0)
    return lambda x: x * vars(a)["v"], setter(a, v=5.0)


@case
def dict_of_an_object():
    a = Box(v=[2.0])
    return lambda x: x * a.__dict__["v"][0], lambda: a.v.__setitem__(0, 5.0)


@case
def number_of_attributes():
    a = Box(v=[2.0])
    return lambda x: x * len(vars(a)), setter(a, w=5.0)


@case
def global_by_name():
    def change():
        global LEVEL
        LEVEL = 5.0

    return lambda x: x * globals()["LEVEL"], change


@case
def local_by_name():
    a = Box(v=2.0)

    def f(x):
        b = a  # noqa: F841
        return x * locals()["b"].v

    return f, setter(a, v=5.0)


@case
def attribute_getter():
    a, get = Box(b=Box(v=2.0)), operator.attrgetter("b.v")
    return lambda x: x * get(a), setter(a.b, v=5.0)


@case
def attribute_getter_made_here():
    a = Box(b=Box(v=2.0))
    return lambda x: x * operator.attrgetter("b.v")(a), setter(a.b, v=5.0)


@case
def item_getter():
    a, get = [Box(v=2.0)], operator.itemgetter(0)
    return lambda x: x * get(a).v, setter(a[0], v=5.0)


@case
def attribute_by_its_dunder():
    a = Box(v=2.0)
    return lambda x: x * a.__getattribute__("v"), setter(a, v=5.0)


@case
def attribute_by_eval():
    a = Box(v=2.0)
    return lambda x: x * eval("a.v", {"a": a}), setter(a, v=5.0)  # noqa: S307


# Functions.


@case
def default_of_a_helper():
    def helper(x, k=2.0):
        return x * k

    return lambda x: helper(x), setter(helper, __defaults__=(5.0,))


@case
def keyword_default_of_a_helper():
    def helper(x, *, k=2.0):
        return x * k

    return lambda x: helper(x), lambda: helper.__kwdefaults__.update(k=5.0)


@case
def replaced_keyword_defaults():
    def helper(x, *, k=2.0):
        return x * k

    return lambda x: helper(x), setter(helper, __kwdefaults__={"k": 5.0})


@case
def object_as_a_default():
    box = Box(v=2.0)

    def helper(x, o=box):
        return x * o.v

    return lambda x: helper(x), setter(box, v=5.0)


@case
def object_in_a_list_as_a_default():
    box = Box(v=2.0)

    def helper(x, o=[box]):  # noqa: B006
        return x * o[0].v

    return lambda x: helper(x), setter(box, v=5.0)


@case
def mutable_default_of_the_function():
    def f(x, o={"k": [2.0]}):  # noqa: B006
        return x * o["k"][0]

    return f, lambda: f.__defaults__[0]["k"].__setitem__(0, 5.0)


@case
def code_of_a_helper():
    def helper(x):
        return x * 2.0

    def other(x):
        return x * 5.0

    return lambda x: helper(x), setter(helper, __code__=other.__code__)


@case
def attribute_of_a_function():
    def helper(x):
        return x * helper.k

    helper.k = 2.0
    return lambda x: helper(x), setter(helper, k=5.0)


@case
def partial():
    box = Box(v=2.0)

    def helper(x, o, k):
        return x * o.v * k[0]

    p = functools.partial(helper, o=box, k=[1.0])
    return lambda x: p(x), setter(box, v=5.0)


@case
def keywords_of_a_partial():
    p = functools.partial(lambda x, k: x * k, k=2.0)
    return lambda x: p(x), lambda: p.keywords.update(k=5.0)


@case
def partial_of_a_method():
    box = Box(v=2.0)

    class Thing:
        def go(self, x, o):
            return x * o.v

    p = [functools.partial(Thing().go, o=box)]
    return lambda x: p[0](x), setter(box, v=5.0)


@case
def bound_method_in_a_list():
    class Thing:
        def __init__(self):
            self.v = 2.0

        def go(self, x):
            return x * self.v

    thing = Thing()
    calls = [thing.go]
    return lambda x: calls[0](x), setter(thing, v=5.0)


@case
def closure_of_a_function_in_an_object():
    k = 2.0

    def helper(x):
        return x * k

    def change():
        nonlocal k
        k = 5.0

    box = Box(calls={"h": helper})
    return lambda x: box.calls["h"](x), change


@case
def closure_of_a_decorated_function():
    k = 2.0

    def decorate(fn):
        @functools.wraps(fn)
        def wrapper(*args):
            return fn(*args) * k

        return wrapper

    @decorate
    def helper(x):
        return x

    def change():
        nonlocal k
        k = 5.0

    return lambda x: helper(x), change


@case
def closure_that_only_c_code_calls():
    k = 2.0

    def helper(x):
        return x * k

    def change():
        nonlocal k
        k = 5.0

    get = operator.itemgetter(0)
    hidden = (y for y in [helper])
    call = next(hidden).__call__
    return lambda x: list(map(call, [x]))[0] * len(str(get)[:1]), change


@case
def one_of_several_closures():
    factors = [[2.0], [3.0]]
    calls = [lambda x, f=f: x * f[0] for f in factors]
    return lambda x: calls[1](calls[0](x)), lambda: factors[1].__setitem__(0, 5.0)


@case
def recursion_through_helpers():
    limits = {"n": 2}

    def even(x, n):
        return x if n == 0 else odd(x * 2.0, n - 1)

    def odd(x, n):
        return x if n == 0 else even(x * 3.0, n - 1)

    return lambda x: even(x, limits["n"]), lambda: limits.update(n=3)


@case
def global_of_a_helper_of_another_module():
    space = {}
    exec("K = 2.0\ndef helper(x):\n    return x * K\n", space)
    helper = space["helper"]
    return lambda x: helper(x), lambda: space.update(K=5.0)


@case
def replaced_helper_of_a_helper():
    space = {}
    exec("def low(x):\n    return x * 2.0\ndef helper(x):\n    return low(x)\n", space)
    helper = space["helper"]
    return lambda x: helper(x), lambda: space.update(low=lambda x: x * 5.0)


@case
def context_manager_of_the_user():
    import contextlib

    box = Box(v=2.0)

    @contextlib.contextmanager
    def scale():
        yield box.v

    def f(x):
        with scale() as k:
            return x * k

    return f, setter(box, v=5.0)


@case
def generator_of_the_user():
    objs = [Box(v=2.0), Box(v=3.0)]

    def each():
        yield from objs

    return lambda x: sum(x * o.v for o in each()), setter(objs[0], v=5.0)


@case
def inner_compiled_function():
    box = Box(v=2.0)
    inner = torsh.compile(lambda x: x * box.v)
    return lambda x: inner(x), setter(box, v=5.0)


@case
def objects_made_in_the_function():
    objs = [Box(v=2.0)]

    class Made:
        def __init__(self, o):
            self.n = 0
            self.o = o
            self.k = self.n + 1

        def go(self, x):
            self.n += 1
            return x * self.o.v * self.n

    def f(x):
        made = Made(objs[0])
        return made.go(made.go(x))

    return f, setter(objs[0], v=5.0)


@case
def objects_that_are_returned():
    box = Box(v=2.0)

    class Out:
        def __init__(self, y):
            self.parts = [y]
            self.parts.append(self.parts[0] * 2)

    def f(x):
        out = Out(x * box.v)
        return out.parts[0] + out.parts[1]

    return f, setter(box, v=5.0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_changed_value_is_seen(name):
    CASES.check(name, globals())
