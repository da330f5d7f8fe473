"""Looks at objects of Python without running code of the user: where an attribute is kept, and whose it is."""

from __future__ import annotations

import functools
import os
import sys
import types

from torsh import _C
from torsh._containers import CACHE, CONTAINERS

ROOT = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
PLAIN = (type(None), bool, int, float, str)
MISSING = object()
# Callables of a container that are looked through for functions.
_MAX_ITEMS = 65536
# That one of these lacks an attribute is not guarded where it is one of many objects that may be read.
NEVER_LACKING = (types.ModuleType, types.FunctionType, type)
# What a class keeps functions of the user in.
BINDING = (
    types.FunctionType,
    staticmethod,
    classmethod,
    property,
    functools.cached_property,
    functools.partialmethod,
    functools.singledispatchmethod,
    CACHE,
)


@functools.lru_cache(maxsize=4096)
def skipped(filename: str) -> bool:
    if filename.startswith("<frozen"):
        return True
    path = os.path.abspath(filename) if not filename.startswith("<") else filename
    return path.startswith(ROOT) or (path.startswith(_LIB) and "site-packages" not in path)


def is_torsh(module) -> bool:
    """Whether a Python module is torsh's own."""
    return (getattr(module, "__name__", None) or "").split(".")[0] == "torsh"


@functools.lru_cache(maxsize=4096)
def foreign_module(name: str) -> bool:
    if name == "builtins":
        return True
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    return skipped(file) if file else module is not None and name in sys.builtin_module_names


def foreign(cls) -> bool:
    """Whether a class is torsh's, the standard library's or built in."""
    name = cls.__module__
    return isinstance(name, str) and foreign_module(name)


def of_user(held) -> bool:
    """Whether a user has put a function of theirs here."""
    held = getattr(held, "__func__", held) if isinstance(held, (staticmethod, classmethod)) else held
    return isinstance(held, types.FunctionType) and not skipped(held.__code__.co_filename)


def owner_of(cls, name: str):
    return next((base for base in cls.__mro__ if name in vars(base)), None)


def may_have(obj, name: str) -> bool:
    """Whether an attribute may be found, without running code of the user."""
    cls = type(obj)
    if isinstance(obj, types.ModuleType):
        return name in vars(obj)
    if isinstance(obj, type):
        return owner_of(obj, name) is not None or owner_of(cls, name) is not None
    if name in own_dict(obj) or owner_of(cls, name) is not None:
        return True
    getter = owner_of(cls, "__getattr__")
    if is_module(obj) and getter is not None and foreign(getter):
        return any(name in own_dict(obj).get(table, ()) for table in ("_parameters", "_buffers", "_modules"))
    return getter is not None or user_lookup(obj) or (foreign(cls) and hasattr(obj, name))


def has_dict(obj) -> bool:
    try:
        return isinstance(object.__getattribute__(obj, "__dict__"), dict)
    except (AttributeError, TypeError):
        return False


def own_dict(obj) -> dict:
    try:
        own = object.__getattribute__(obj, "__dict__")
    except (AttributeError, TypeError):
        return {}
    return own if isinstance(own, dict) else {}


def user_lookup(obj) -> bool:
    """Whether the class looks attributes up with a function of its own."""
    return not foreign(owner_of(type(obj), "__getattribute__"))


def is_module(value) -> bool:
    """Whether a value is a module of `torsh.nn`."""
    return hasattr(type(value), "register_buffer") and not isinstance(value, type)


def is_number(value) -> bool:
    """Whether a value is None, a number or a string that can have no attributes of its own."""
    return type(value) in PLAIN or (isinstance(value, PLAIN) and (_is_enum(value) or not has_dict(value)))


def _is_enum(value) -> bool:
    # Who has members of an enumeration has loaded its module.
    return isinstance(value, getattr(sys.modules.get("enum"), "Enum", ()))


def name_of_class(value) -> str:
    return f"a {type(value).__name__}"


def functions_of(fn) -> dict:
    """Function objects by the id of their code, as far as they can be reached from `fn`."""
    found: dict = {}
    seen: set = set()
    stack = [fn]
    for _ in range(10000):
        if not stack:
            break
        f = stack.pop()
        if type(f) in CONTAINERS:
            if id(f) not in seen and len(f) <= _MAX_ITEMS:
                seen.add(id(f))
                held = f.values() if isinstance(f, dict) else f
                stack.extend(x for x in held if callable(x) or type(x) in CONTAINERS)
            continue
        f = getattr(f, "__wrapped__", f) if isinstance(f, _C.CompiledFunction) else f
        f = getattr(f, "__func__", f)
        if isinstance(f, functools.partial):
            stack.append(f.func)
            continue
        if not isinstance(f, types.FunctionType) or id(f) in seen or skipped(f.__code__.co_filename):
            continue
        seen.add(id(f))
        found.setdefault(id(f.__code__), []).append(f)
        values = [contents(cell) for cell in f.__closure__ or ()]
        values += [f.__globals__.get(name) for name in f.__code__.co_names]
        stack.extend(x for x in values if callable(x) or type(x) in CONTAINERS)
    return found


def contents(cell):
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def may_run(function, local) -> bool:
    """Whether a frame with these variables may be a call of this function: others share its code."""
    return all(contents(cell) is local.get(name, MISSING) for name, cell in cells_of(function).items())


def cells_of(function) -> dict:
    if not function.__closure__:
        return {}
    return dict(zip(function.__code__.co_freevars, function.__closure__, strict=False))


def now_at(holder, kind, name):
    """What a place that the function has written holds."""
    if kind == "item":
        return holder.get(name, MISSING)
    if kind == "cell":
        return contents(holder)
    return own_dict(holder).get(name, MISSING)
