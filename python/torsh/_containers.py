"""Values of Python that hold others, and what a guard must look at in them."""

from __future__ import annotations

import functools
import gc
import operator
import sys
import types
from _weakref import ref
from collections import OrderedDict, deque

from torsh import _C

__all__ = ["CONTAINERS", "Look", "Same", "is_buffer", "is_context_variable", "named", "parts", "underlying"]

CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
CACHE = type(functools.lru_cache(lambda: None))
# A compiled function, and a cache in front of one.
_WRAPPERS = (_C.CompiledFunction, CACHE)
_METHODS = (types.MethodType, types.BuiltinMethodType, types.MethodWrapperType)


def is_buffer(value) -> bool:
    """Whether a value is memory that can change in place: an array of NumPy or Python, a bytearray, a mapping ..."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return True
        if isinstance(value, numpy.generic):
            return False
    if isinstance(value, (str, bytes)):
        return False
    try:
        return not memoryview(value).readonly or isinstance(value, memoryview)
    except (TypeError, ValueError, BufferError):
        return False


def is_context_variable(value) -> bool:
    """Whether a value is a `contextvars.ContextVar`; nobody else has to load that module."""
    return type(value).__name__ == "ContextVar" and type(value).__module__ == "_contextvars"


class Look:
    """A look at a value, as a guard calls it."""

    def __init__(self, value) -> None:
        self.value = value


class Same(Look):
    """Called, says whether an array holds what it held."""

    def __init__(self, value) -> None:
        super().__init__(value)
        self.nbytes = value.nbytes if hasattr(value, "nbytes") else memoryview(value).nbytes
        self.was = self._now() if self.nbytes <= 1 << 20 else None

    def _now(self) -> tuple:
        v = self.value
        raw = v.tobytes() if hasattr(v, "tobytes") else memoryview(v).tobytes()
        return raw, getattr(v, "shape", None), getattr(v, "dtype", getattr(v, "format", None))

    def __call__(self) -> bool:
        return self._now() == self.was


class Order(Look):
    """Called, says whether the keys of an OrderedDict stand in the order that they had."""

    def __init__(self, value) -> None:
        super().__init__(value)
        self.was = list(map(id, value))

    def __call__(self) -> bool:
        return list(map(id, self.value)) == self.was


class Names(Look):
    """Called, says whether a class has the attributes that it had, in their order."""

    def __init__(self, value) -> None:
        super().__init__(value)
        self.was = tuple(vars(value))

    def __call__(self) -> bool:
        return tuple(vars(self.value)) == self.was


class Cached(Look):
    """Called, says whether a `functools.lru_cache` has been neither filled further nor cleared."""

    def __init__(self, value) -> None:
        super().__init__(value)
        self.was = self._now()

    def _now(self) -> tuple:
        info = self.value.cache_info()
        return info.misses, info.currsize

    def __call__(self) -> bool:
        return self._now() == self.was


class Held(Look):
    """Called, gives what a context variable holds."""

    def __call__(self):
        try:
            return self.value.get()
        except LookupError:
            return None


class Alive(Look):
    """Called, says which object a weak reference leads to, without keeping it."""

    def __call__(self):
        return id(self.value())


def underlying(value):
    """The dict behind a view of one."""
    if isinstance(value, _VIEWS):
        value = value.mapping
    if isinstance(value, types.MappingProxyType):
        behind = gc.get_referents(value)
        return behind[0] if behind else value
    return value


def parts(value) -> tuple[list, list]:
    """What a value of Python holds out of sight of its attributes: values, and `(call, value)` of what is looked up."""
    if isinstance(value, OrderedDict):
        return [], [(Order(value), True)]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords], []
    if isinstance(value, _METHODS):
        return [getattr(value, "__self__", None), getattr(value, "__func__", None)], []
    if is_context_variable(value):
        held = Held(value)
        return [held()], [(held, held())]
    if isinstance(value, ref):
        alive = Alive(value)
        return [value()], [(alive, alive())]
    if isinstance(value, functools.singledispatchmethod):
        return [value.dispatcher, value.func], []
    if isinstance(value, _WRAPPERS):
        return [value.__wrapped__], []
    return [], []


def named(value) -> tuple:
    """The attributes that an `operator.attrgetter` or `methodcaller` reads."""
    if isinstance(value, operator.attrgetter):
        return value.__reduce__()[1]
    if isinstance(value, operator.methodcaller):
        made, args = value.__reduce__()
        return (made.args if isinstance(made, functools.partial) else args)[:1]
    return ()
