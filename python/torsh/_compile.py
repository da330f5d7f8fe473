"""`torsh.compile`: trace once per signature, then run as one program.

The call path is native (`_C.CompiledFunction`). What a function read from Python besides its arguments is found in the
trace (`_guards.py`) and guarded: a later call whose guards do not hold is traced again.
"""

from __future__ import annotations

import functools

from torsh import _C

__all__ = ["compile"]


def compile(fn=None, *, fullgraph: bool = False, dynamic: bool | None = None, name: str | None = None):
    """Compiles a function or a module.

    The first call for a signature (structure, dtypes and shapes of the arguments, and values of those that are
    not tensors or floats) traces `fn`; later calls go straight to machine code. Tensors that `fn` reaches without
    an argument are found in the trace and updated in place.

    A program is used only while everything that `fn` read from Python is as it was; otherwise `fn` is traced again.
    That goes for global and closure variables, defaults and code of functions, attributes of objects, classes and
    modules however they are reached, the items of containers and arrays (up to 65536 items and 1 MiB in all), settings
    of optimizers, environment and context variables. Numbers and strings are compared by value and type, other objects
    by identity. A plain value that `fn` leaves in a variable or an attribute must be there already. What cannot be
    compared makes `fn` run without compilation, with a warning once and the reason in `explain()`: iterators that
    outlive the call, the clock, random numbers of Python and NumPy, files, databases and the system, arrays of other
    libraries, larger containers, attributes set on tensors among the arguments.

    Each call makes the containers and objects of its result anew (lists, dicts, sets, deques, dataclasses, other
    objects of classes: their attributes are set, their constructors do not run again); what is held twice in a result
    is one object there. What was there before the call is returned itself, but for plain lists, tuples and dicts, which
    are copies; a view beside its base is a copy, too. A function that returns something else that it has made (a
    function, an array, a module, a lock, an object of a class written in C or with `__del__`) runs without compilation,
    and so does one that changes a list or dict that it is given.

    Not looked at are: functions of torsh itself that are replaced; other code put into `fn` itself; state that only C
    code sees, other than what is named above (a `decimal` context); `id`, `hash` and the text of objects that show
    their address; stack frames; what a thread changes while `fn` is traced; attributes that C code reads of an object
    that `fn` does not otherwise reach; a module's `__dict__` where it is written past `setattr`; attributes that only
    later arguments have where `fn` reads them by a variable name; what changes in the results that a bounded
    `functools.lru_cache` holds. Effects on Python that are none of the above
    (messages, an object stored in an attribute) happen when `fn` is traced and not again.

    Args:
        fn: a function or a `torsh.nn.Module`; without it, a decorator is returned.
        fullgraph: make a read of a tensor's value inside `fn` a `TraceError` instead of running `fn` piecewise, and
            whatever else would make it run without compilation.
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
