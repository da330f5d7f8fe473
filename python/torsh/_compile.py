"""`torsh.compile`: trace once per signature, then run as one program.

The call path is native (`_C.CompiledFunction`). This module runs a function under trace and finds out what it
read from Python besides its arguments: globals, closure variables and attributes. These become guards: a later
call whose guards do not hold is traced again. They are found by walking the bytecode of every user function that
ran in the trace; the functions are seen through `sys.setprofile`, which is set during the trace only.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from torsh import _C

__all__ = ["compile"]

_ROOT = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_PLAIN = (type(None), bool, int, float, str)
_MISSING = object()
# What a trace that goes beyond one of these has read cannot be guarded, and its function runs as lazy code: items of
# all containers (each is looked at in each call, some nanoseconds), containers in containers, objects in containers
# whose attributes are read, and functions with the objects that they were entered with.
_MAX_ITEMS = 65536
_MAX_NESTING = 32
_MAX_ELEMENTS = 4096
_MAX_FRAMES = 65536
# Attributes of attributes, and names that a function gives to what it reads.
_MAX_CHAIN = 24
_MAX_NAMES = 1024
_CONTAINERS = (list, tuple, dict, set, frozenset)


def compile(fn=None, *, fullgraph: bool = False, dynamic: bool | None = None, name: str | None = None):
    """Compiles a function or a module.

    The first call for a signature (structure, dtypes and shapes of the arguments, and values of those that are
    not tensors or floats) traces `fn`; later calls go straight to machine code. Tensors that `fn` reaches without
    an argument are found in the trace and updated in place.

    Args:
        fn: a function or a `torsh.nn.Module`; without it, a decorator is returned.
        fullgraph: make a read of a tensor's value inside `fn` a `TraceError` instead of running `fn` piecewise.
        dynamic: accepted for PyTorch's sake; every shape has its own program.
        name: shown by `explain()`.

    Returns:
        A callable with `explain()`, `cache_info()` and `clear_cache()`.

    >>> f = torsh.compile(lambda x: x * 2 + 1)
    >>> f(torsh.tensor([1.0, 2.0])).tolist()
    [3.0, 5.0]
    """
    if fn is None:
        return functools.partial(compile, fullgraph=fullgraph, dynamic=dynamic, name=name)
    if isinstance(fn, Compiled):
        return fn
    if not callable(fn):
        raise TypeError(f"torsh.compile: expected a function or a module, got {type(fn).__name__}")
    if hasattr(fn, "forward") and hasattr(fn, "named_parameters"):
        return _compile_module(fn, fullgraph, name)
    compiled = Compiled(fn, fullgraph, name)
    _copy_names(compiled, fn)
    return compiled


def _copy_names(compiled, fn) -> None:
    for attr in ("__module__", "__qualname__", "__doc__", "__annotations__"):
        value = getattr(fn, attr, None)
        if value is not None:
            try:
                setattr(compiled, attr, value)
            except (AttributeError, TypeError):
                pass


Compiled = _C.CompiledFunction


class Explanation(dict):
    """What was compiled and why, as data; prints as a short report."""

    def __str__(self) -> str:
        cache = self["cache"]
        lines = [f"{self['name']}: {cache['hits']} hits, {cache['misses']} misses, {cache['entries']} programs"]
        for p in self["programs"]:
            lines.append(
                f"  {p['signature']}  hits={p['hits']} guards={p['guards']}  traced at {p['site']}: {p['reason']}"
            )
            if p["graph_break"]:
                reason, where = p["graph_break"]
                lines.append(f"    graph break: {reason} at {where}")
                continue
            lines.append(
                f"    {p['kernels_unfused']} -> {p['kernels']} kernels, {p['bytes_moved']} bytes, {p['flops']} flops, "
                f"peak {p['peak_bytes']} bytes, compiled in {p['compile_seconds'] * 1e3:.1f} ms"
            )
            passes = ", ".join(f"{name} {seconds * 1e3:.2f}" for name, seconds in p["passes"])
            lines.append(f"    ms per pass: {passes}, codegen {p['codegen_seconds'] * 1e3:.2f}")
            unit = None
            for s in p["steps"]:
                joined = s.get("together", "step") != "step" and s["unit"] == unit
                unit = s.get("unit")
                lines.append(f"      {_step_text(s, joined)}")
        return "\n".join(lines)


def _step_text(s: dict, joined: bool) -> str:
    """One step of an explanation; `joined` says that it runs together with the one before it."""
    text = f"{s['kind']}: {' '.join(s['ops'])}"
    if joined:
        text = f"{'+ on its rows' if s['together'] == 'chain' else '+ beside it'} {text}"
    if s["kind"] == "kernel" and "schedule" in s:
        text += f"  [{s['schedule']}: {s['reason']}; threads {s['threads']}]"
    return f"{text}  {s.get('bytes', 0)} bytes, {s.get('flops', 0)} flops  ({s['location']})"


def _compile_module(module, fullgraph: bool, name: str | None):
    from torsh import nn

    inner = Compiled(module.__call__, fullgraph, name or type(module).__name__)
    return CompiledModule(module, inner) if isinstance(module, nn.Module) else inner


class CompiledModule:
    """A module whose calls are compiled; everything else is the module's own."""

    def __init__(self, module, compiled) -> None:
        object.__setattr__(self, "_orig_mod", module)
        object.__setattr__(self, "_compiled", compiled)

    def __call__(self, *args, **kwargs):
        return self._compiled(*args, **kwargs)

    def explain(self):
        return self._compiled.explain()

    def cache_info(self):
        return self._compiled.cache_info()

    def clear_cache(self):
        return self._compiled.clear_cache()

    def __getattr__(self, name):
        return getattr(self._orig_mod, name)

    def __setattr__(self, name, value):
        setattr(self._orig_mod, name, value)

    def __delattr__(self, name):
        delattr(self._orig_mod, name)

    def __repr__(self):
        return f"CompiledModule({self._orig_mod!r})"


class _Collector:
    """The guards so far, each fact once."""

    def __init__(self) -> None:
        self.guards: list = []
        self.seen: set = set()
        self.entered: dict = {}
        self.kept: list = []
        self.items = 0
        # Objects found in containers: a loop over one reads attributes of each.
        self.elements: dict = {}
        # Why what was read cannot be guarded.
        self.refused: str | None = None

    def refuse(self, why: str) -> None:
        self.refused = self.refused or why

    def first(self, key: tuple) -> bool:
        """Whether this function, entered with this object, is new; keeps both alive, so that ids stay theirs."""
        ids = tuple(map(id, key))
        if ids in self.entered:
            return False
        if len(self.entered) >= _MAX_FRAMES:
            self.refuse(f"more than {_MAX_FRAMES} functions and objects")
            return False
        self.entered[ids] = key
        return True

    def add(self, kind: str, holder, name: str, value) -> None:
        key = (kind, id(holder), name)
        if key in self.seen or not _stable(value):
            return
        self.seen.add(key)
        self.guards.append((kind, holder, name, value))

    def container(self, value, depth: int = 0) -> None:
        """Guards what is in a container: plain items by value, all others by identity."""
        key = ("items", id(value), "")
        if key in self.seen:
            return
        self.seen.add(key)
        self.items += len(value)
        if self.items > _MAX_ITEMS:
            self.refuse(f"containers of more than {_MAX_ITEMS} items")
            return
        if depth > _MAX_NESTING:
            self.refuse(f"containers nested more than {_MAX_NESTING} deep")
            return
        held = list(value.values()) if isinstance(value, dict) else list(value)
        if type(value) in (tuple, frozenset):
            # It cannot change. Kept alive, so that its id stays its own.
            self.kept.append(value)
        else:
            both = tuple(x for pair in value.items() for x in pair) if isinstance(value, dict) else tuple(held)
            self.guards.append(("items", value, "", both))
        for item in held:
            if isinstance(item, _CONTAINERS):
                self.container(item, depth + 1)
            elif not isinstance(item, (*_PLAIN, _C.Tensor)):
                self.elements[id(item)] = item


def run_traced(fn: Callable, args: tuple, kwargs: dict) -> tuple[Any, list, str | None]:
    """Runs `fn` and lists what it read: `(kind, holder, name, value)` for each guard, and why that is not all.

    Values are taken when a function is entered, so that one that changes what it reads is traced again.
    """
    found = _Collector()
    functions = _functions(fn)
    previous = sys.getprofile()

    def note(frame, event, arg):
        if event == "call":
            _enter(found, frame, functions)
        elif event == "return":
            _leave(found, frame)

    sys.setprofile(note)
    try:
        result = fn(*args, **kwargs)
    finally:
        sys.setprofile(previous)
    return result, found.guards, found.refused


def _enter(found: _Collector, frame, functions: dict) -> None:
    code = frame.f_code
    if _skipped(code.co_filename):
        if code.co_name == "__call__" and code.co_argcount:
            owner = frame.f_locals.get(code.co_varnames[0])
            if hasattr(type(owner), "register_buffer") and found.first(("module", owner)):
                _module(found, owner)
        return
    local = frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = (local.get(name) for name in names)
    if not found.first((code, *(x for x in given if not isinstance(x, (*_PLAIN, _C.Tensor, *_CONTAINERS))))):
        return
    known = functions.get(id(code), ())
    for function in known:
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if isinstance(default, _CONTAINERS):
                found.container(default)
    for cells in [_cells(f) for f in known] or [{}]:
        for root, chain in _reads(code):
            _follow(found, root, chain, frame.f_globals, local, cells)
    _follow_elements(found, code, names)


def _leave(found: _Collector, frame) -> None:
    """Follows what a function has read of objects that it found on its way: they are its local variables."""
    code = frame.f_code
    if _skipped(code.co_filename):
        return
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    local = frame.f_locals
    chains = [(name, chain) for (kind, name), chain in _reads(code) if kind == "local" and name not in names and chain]
    objects = {name: local.get(name) for name, _ in chains}
    objects = {n: x for n, x in objects.items() if x is not None and not isinstance(x, (*_PLAIN, _C.Tensor))}
    if objects and found.first((code, "left", *objects.values())):
        for name, chain in chains:
            if name in objects:
                _follow(found, ("local", name), chain, {}, objects, {})


def _follow_elements(found: _Collector, code, names) -> None:
    chains = [chain for (kind, name), chain in _reads(code) if kind == "local" and name not in names and chain]
    if not chains:
        return
    if len(found.elements) > _MAX_ELEMENTS:
        found.refuse(f"more than {_MAX_ELEMENTS} objects in containers")
        return
    for element in list(found.elements.values()):
        for chain in chains:
            _follow(found, ("local", "element"), chain, {}, {"element": element}, {})


@functools.lru_cache(maxsize=4096)
def _skipped(filename: str) -> bool:
    if filename.startswith("<frozen"):
        return True
    path = os.path.abspath(filename) if not filename.startswith("<") else filename
    return path.startswith(_ROOT) or (path.startswith(_LIB) and "site-packages" not in path)


def _stable(value) -> bool:
    """Whether an identity or value guard on this means anything: not for objects made anew at each look."""
    return not isinstance(value, (types.MethodType, types.BuiltinMethodType))


def _functions(fn) -> dict:
    """Function objects by the id of their code, as far as they can be reached from `fn`."""
    found: dict = {}
    seen: set = set()
    stack = [fn]
    for _ in range(10000):
        if not stack:
            break
        f = stack.pop()
        if isinstance(f, _CONTAINERS):
            if id(f) not in seen and len(f) <= _MAX_ITEMS:
                seen.add(id(f))
                held = f.values() if isinstance(f, dict) else f
                stack.extend(x for x in held if callable(x) or isinstance(x, _CONTAINERS))
            continue
        f = getattr(f, "__wrapped__", f) if isinstance(f, Compiled) else f
        f = getattr(f, "__func__", f)
        if isinstance(f, functools.partial):
            stack.append(f.func)
            continue
        if not isinstance(f, types.FunctionType) or id(f) in seen or _skipped(f.__code__.co_filename):
            continue
        seen.add(id(f))
        found.setdefault(id(f.__code__), []).append(f)
        values = [_contents(cell) for cell in f.__closure__ or ()]
        values += [f.__globals__.get(name) for name in f.__code__.co_names]
        stack.extend(x for x in values if callable(x) or isinstance(x, _CONTAINERS))
    return found


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _cells(function) -> dict:
    if not function.__closure__:
        return {}
    return dict(zip(function.__code__.co_freevars, function.__closure__, strict=False))


@functools.lru_cache(maxsize=4096)
def _reads(code) -> tuple:
    """`(root, attribute chain)` of everything that the code loads: root is `(kind, name)`.

    A variable that is only a name for a chain (`c = self.cfg`) is followed to where that comes from, and
    functions inside the code count for what they read of it.
    """
    out = []
    alias: dict = {}
    root, chain = None, ()
    for ins in dis.get_instructions(code):
        op = ins.opname
        if op in ("CACHE", "PRECALL", "EXTENDED_ARG", "RESUME", "PUSH_NULL", "NOP"):
            continue
        if root is not None and op in ("LOAD_ATTR", "LOAD_METHOD") and len(chain) < _MAX_CHAIN:
            chain = (*chain, ins.argval)
            continue
        if root is not None:
            out.append((root, chain))
            if op.startswith(("STORE_FAST", "STORE_DEREF")) and root not in (
                ("local", ins.argval),
                ("cell", ins.argval),
            ):
                # The first name in what newer interpreters store and load at once.
                name = ins.argval[0] if isinstance(ins.argval, tuple) else ins.argval
                alias.setdefault(name, []).append((root, chain))
        root, chain = None, ()
        if op in ("LOAD_GLOBAL", "LOAD_NAME"):
            root = ("global", ins.argval)
        elif op in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"):
            root = ("cell", ins.argval)
        elif op.startswith("LOAD_FAST") or op.startswith("STORE_FAST_LOAD_FAST"):
            # Superinstructions of newer interpreters load two; what is loaded last is what an attribute is read of.
            name = ins.argval[-1] if isinstance(ins.argval, tuple) else ins.argval
            root = ("local", name)
    if root is not None:
        out.append((root, chain))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            out.extend((root, chain) for root, chain in _reads(inner) if root[0] != "local")
    for _ in range(3):
        for (kind, name), chain in list(out):
            if kind != "global" and len(out) < _MAX_NAMES:
                out.extend((r, (*c, *chain)[:_MAX_CHAIN]) for r, c in alias.get(name, ()))
        out = list(dict.fromkeys(out))
    return tuple(out)


def _follow(out, root, chain, glob, local, cells) -> None:
    kind, name = root
    if kind == "global":
        value = glob.get(name, _MISSING)
        if value is _MISSING:
            return
        out.add("item", glob, name, value)
    elif kind == "cell" and name in cells:
        value = _contents(cells[name])
        if value is _MISSING:
            return
        out.add("cell", cells[name], name, value)
    else:
        # An argument, or a variable of an enclosing function.
        value = local.get(name, _MISSING)
    if kind != "local" and isinstance(value, _CONTAINERS):
        # A container given as an argument is part of the signature.
        out.container(value)
    for attr in chain:
        if value is _MISSING:
            return
        value = _attribute(out, value, attr)
        if isinstance(value, _CONTAINERS):
            out.container(value)


def _attribute(out, obj, name: str):
    """Guards `obj.name` where it is state, and returns its value."""
    if isinstance(obj, (_C.Tensor, types.ModuleType)) and not _user_module(obj):
        return _MISSING
    if isinstance(obj, _PLAIN) or isinstance(obj, _CONTAINERS):
        return _MISSING
    if isinstance(obj, type):
        value = getattr(obj, name, _MISSING)
        if value is _MISSING or callable(value) or hasattr(type(value), "__get__"):
            return _MISSING
        out.add("attr", obj, name, value)
        return value
    kind = "module" if hasattr(type(obj), "register_buffer") else "attr"
    own = getattr(obj, "__dict__", None)
    if isinstance(own, dict) and name in own:
        value = own[name]
        if kind == "module":
            out.add(kind, obj, name, value)
        else:
            out.add("item", own, name, value)
        return value
    held = getattr(type(obj), name, _MISSING)
    if isinstance(held, (types.FunctionType, classmethod, staticmethod)) or callable(held):
        return _MISSING
    if isinstance(held, property) or kind == "attr" and held is _MISSING and not hasattr(type(obj), "__slots__"):
        return _MISSING
    try:
        value = getattr(obj, name)
    except Exception:
        return _MISSING
    out.add(kind, obj, name, value)
    return value


def _user_module(obj) -> bool:
    if not isinstance(obj, types.ModuleType):
        return False
    file = getattr(obj, "__file__", None)
    return bool(file) and not _skipped(file)


def _module(out, module) -> None:
    """What a module of ours reads when it is called: its plain attributes and its children."""
    for name, value in list(vars(module).items()):
        if name == "training" or (not name.startswith("_") and isinstance(value, (*_PLAIN, tuple))):
            out.add("module", module, name, value)
    for table in ("_modules", "_parameters", "_buffers"):
        for name, value in list(getattr(module, table, {}).items()):
            if isinstance(name, str) and name.isidentifier():
                out.add("module", module, name, value)
