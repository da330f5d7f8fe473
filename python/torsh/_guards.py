"""Finds out what a traced function reads from Python, and makes guards of it.

The bytecode of every user function that runs in the trace says what it loads (`_reads.py`); the functions are seen
through `sys.setprofile`, which is set during the trace only. Values are taken when a function is entered. Attributes
that follow a root (`self.cfg.k`) are looked up on it. Those that follow an item, a result or a choice (`objs[0].k`) are
looked up on every object that was found in containers, results and variables: these are more guards than needed, never
fewer.
"""

from __future__ import annotations

import collections
import functools
import os
import sys
import types

from torsh import _C
from torsh._collector import Collector, of_optimizer
from torsh._containers import CONTAINERS, is_context_variable
from torsh._objects import (
    PLAIN,
    ROOT,
    cells_of,
    has_dict,
    is_module,
    may_run,
    name_of_class,
    own_dict,
    skipped,
)
from torsh._reads import reads

__all__ = ["run_traced"]

# They read attributes by a name that the bytecode does not show.
_BY_NAME = frozenset((getattr, hasattr, vars, dir, globals, locals, eval, exec))
_BY_NAME_IN_CODE = {"__dict__", "__getattribute__", "attrgetter", "methodcaller", "eval", "exec"}
_CLASS_IN_CODE = {"isinstance", "issubclass", "type", "__class__"}
_MESSAGES = ("linecache.py", "warnings.py", "tokenize.py", "traceback.py", f"logging{os.sep}__init__.py")
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__")


def run_traced(fn, args: tuple, kwargs: dict, own: tuple | None = None) -> tuple:
    """Runs `fn` on copies of `own`, the caller's args and kwargs.

    Gives its result, what it read (`(kind, holder, name, value)` for each guard), why a program will not do, and what
    makes the result of the tensors in it that stand for it, where there is such a thing.
    """
    found = Collector(fn)
    found.careful(lambda: [found.argument(value) for value in (*args, *kwargs.values())])
    # What the function is bound to is no argument of a call, but is read like a global.
    bound = fn.__self__ if isinstance(fn, types.MethodType) else fn
    if isinstance(bound, (functools.partial, list, dict, set, collections.deque)):
        found.careful(lambda: found.reach(bound))
    previous = sys.getprofile()

    def note(frame, event, arg):
        if found.refused is not None:
            return
        if event == "call":
            found.careful(lambda: _enter(found, frame))
        elif event == "return":
            found.careful(lambda: _leave(found, frame, arg))
        elif event == "c_call":
            found.careful(lambda: _called(found, frame, arg))
        if found.refused is not None:
            found.refused += _place(frame)

    given = _given(args, kwargs, own)
    changed = None
    sys.setprofile(note)
    try:
        result = fn(*args, **kwargs)
    finally:
        # A profiler of C code stands there as an object, which has to be switched on again by itself.
        sys.setprofile(previous if previous is None or callable(previous) else None)
        if previous is not None and not callable(previous):
            previous.enable()
        if given is not None:
            changed = given.settle()
            del given
    guards, why = found.finish()
    if why is not None:
        return result, guards, f"reads {why}, which cannot be checked at each call", None
    if changed is not None:
        return result, guards, changed, None
    if isinstance(result, (_C.Tensor, *PLAIN)):
        return result, guards, None, None
    from torsh._results import Unmakable, plan

    box = [result]
    del result
    try:
        planned = plan(box, guards)
    except Unmakable as made:
        return box[0], guards, f"returns {made} that it makes, which a program cannot make anew", None
    if planned is None:
        return box[0], guards, None, None
    tensors, make = planned
    return tuple(tensors), guards, None, make


def _given(args: tuple, kwargs: dict, own: tuple | None):
    """What notes changes in lists and dicts among the arguments, where there are any."""
    if own is None or not any(isinstance(x, (list, dict, tuple)) for x in (*args, *kwargs.values())):
        return None
    from torsh._arguments import Given

    return Given((args, kwargs), own)


def _place(frame) -> str:
    """The line of the user that a frame works for."""
    while frame is not None and skipped(frame.f_code.co_filename):
        frame = frame.f_back
    return f" at {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def _enter(found: Collector, frame) -> None:
    code = frame.f_code
    if skipped(code.co_filename):
        _enter_foreign(found, frame, code)
        return
    found.inner.update(id(c) for c in code.co_consts if isinstance(c, types.CodeType))
    local = frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = [local.get(name) for name in names]
    if code.co_name in _CONSTRUCTORS and given:
        made = given[0]
        found.born[id(made)] = made
        if has_dict(made):
            found.born[id(own_dict(made))] = own_dict(made)
    if code.co_name.startswith("__") and given:
        # A method that an operator or a class has called.
        cls = given[0] if isinstance(given[0], type) else type(given[0])
        held = getattr(cls, code.co_name, None)
        if getattr(held, "__code__", None) is code:
            found.add("attr", cls, code.co_name, held)
    known = found.functions.get(id(code), ())
    objects = (x for x in given if not isinstance(x, (*PLAIN, _C.Tensor, *CONTAINERS)))
    if not found.first((code, *known, *objects)):
        return
    if not any(may_run(function, local) for function in known):
        found.unknown[id(code)] = code
    what = reads(code)
    if not _CLASS_IN_CODE.isdisjoint(code.co_names) and not found.classes:
        found.classes = True
        for element in list(found.elements.values()):
            found._class_of(element)
    whole = what.unnamed or not _BY_NAME_IN_CODE.isdisjoint(code.co_names)
    for value in given:
        found.reach(value, False)
    if "super" in code.co_names and given:
        for base in type(given[0]).__mro__[1:]:
            found.reach(base)
    for function in known:
        found._defaults(function)
    _follow(found, frame, what, known, local, whole or what.passed)
    if what.handles and not found.handles:
        found.handles = True
        found.queue.extend((element, chain) for element in found.elements.values() for chain in found.loose)
    found.may_lack(what.optional)
    for chain in what.loose:
        found.also(chain)
    if whole or what.passed:
        found.whole_elements(what.passed)
    found.settle()


def _follow(found, frame, what, known, local, whole: bool) -> None:
    for cells in [cells_of(f) for f in known] or [{}]:
        for root, chain in what.chains:
            if root[0] != "any":
                found.follow(root, chain, frame.f_globals, local, cells, whole)


def _enter_foreign(found: Collector, frame, code) -> None:
    """A function of torsh or of the standard library."""
    if code.co_filename.startswith(ROOT):
        if code.co_name == "__call__" and code.co_argcount:
            owner = frame.f_locals.get(code.co_varnames[0])
            if is_module(owner):
                found.reach(owner)
                found.settle()
        elif frame.f_back is not None and not skipped(frame.f_back.f_code.co_filename) and code.co_argcount:
            owner = frame.f_locals.get(code.co_varnames[0])
            if hasattr(type(owner), "add_param_group"):
                of_optimizer(found, owner)
            elif type(owner).__module__.startswith("torsh.") and has_dict(owner) and not is_module(owner):
                # A schedule of learning rates, a scope.
                if not isinstance(owner, _C.Tensor):
                    found.whole(owner)
        return
    if code.co_filename.startswith(("<frozen importlib", "<frozen abc", "<frozen zipimport")):
        return
    caller = frame.f_back
    if caller is None or skipped(caller.f_code.co_filename):
        return
    # It reads what it likes of the objects that it was given.
    if code.co_name in ("getenv", "expandvars", "expanduser"):
        found.whole(os.environ)
    local = frame.f_locals
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        value = local.get(name)
        if not isinstance(value, (*PLAIN, _C.Tensor, types.ModuleType)):
            found.whole(value)
            found.reach(value, False)
    found.settle()


def _leave(found: Collector, frame, result) -> None:
    """Takes note of a result, of the objects that a function has found on its way, and of what it has written."""
    code = frame.f_code
    if skipped(code.co_filename):
        return
    found.reach(result, False)
    what = reads(code)
    local = frame.f_locals
    if what.loose:
        for name in code.co_varnames[code.co_argcount + code.co_kwonlyargcount :]:
            value = local.get(name)
            if value is None or isinstance(value, (*PLAIN, _C.Tensor)) or id(value) in found.reached:
                continue
            found.reach(value, False)
            if id(value) in found.elements and any(chain[-1] in _names_of(what.writes) for chain in what.loose):
                found.doubtful.append(("", value, f"{name_of_class(value)}, which it also writes"))
    found.settle()
    if what.writes:
        known = found.functions.get(id(code), ())
        for cells in [cells_of(f) for f in known] or [{}]:
            for root, names in what.writes:
                _wrote(found, root, names, frame.f_globals, local, cells)


def _names_of(writes) -> set:
    return {names[-1] for _, names in writes}


def _wrote(found, root, names, glob, local, cells) -> None:
    kind, name = root
    if names == (None,):
        if kind == "global":
            found.written[id(glob), name] = (glob, "item", name)
        elif name in cells:
            found.written[id(cells[name]), name] = (cells[name], "cell", name)
        return
    if kind == "any":
        holders = [e for e in found.elements.values() if names[-1] in own_dict(e)]
    else:
        at = glob.get(name) if kind == "global" else local.get(name)
        for attr in names[:-1]:
            at = own_dict(at).get(attr)
        holders = [at]
    for at in holders:
        if names[-1] in own_dict(at):
            module = " of module" if is_module(at) else ""
            found.written[id(at), names[-1]] = (at, "attr" + module, names[-1])


def _called(found: Collector, frame, function) -> None:
    """A function written in C is about to be called."""
    code = frame.f_code
    if code.co_filename.startswith(ROOT):
        return
    owner = getattr(function, "__self__", None)
    why = _unknowable(function, owner)
    if why is not None and _by_user(frame):
        found.refuse(why)
    if function in _BY_NAME and not skipped(code.co_filename):
        if function in (getattr, hasattr) and reads(code).constant and "getattr" in (*code.co_names, "hasattr"):
            return
        if function in (globals, eval, exec):
            found.space(frame.f_globals)
        local = frame.f_locals
        for value in local.values():
            found.whole(value)
        found.whole_elements(False)
        _follow(found, frame, reads(code), found.functions.get(id(code), ()), local, True)
        found.settle()
    elif is_context_variable(owner):
        found.reach(owner)
        found.settle()


def _by_user(frame) -> bool:
    """Whether the user's code asked for what this frame does: not torsh, an import or a message."""
    while frame is not None and skipped(frame.f_code.co_filename):
        name = frame.f_code.co_filename
        if name.startswith((ROOT, "<frozen importlib", "<frozen zipimport")) or name.endswith(_MESSAGES):
            return False
        frame = frame.f_back
    return frame is not None


def _unknowable(function, owner) -> str | None:
    """Why the result of a function differs from call to call."""
    name = getattr(function, "__name__", "")
    if isinstance(owner, types.ModuleType):
        module = owner.__name__
        if module == "time" and name not in ("sleep", "strptime", "mktime"):
            return f"the clock (time.{name})"
        if (module in ("posix", "nt") and name not in ("fspath", "getpid")) or module in ("_socket", "select"):
            return f"the system (os.{name})"
        if (module, name) in (("builtins", "input"), ("builtins", "open"), ("io", "open"), ("_io", "open")):
            return f"input ({name})"
        return None
    kind = type(owner)
    if kind.__module__ == "_io" and name.startswith("read"):
        return f"input ({kind.__name__}.{name})"
    if kind.__module__ == "sqlite3":
        return "a database"
    if isinstance(owner, type) and owner.__module__ == "datetime" and name in ("now", "utcnow", "today"):
        return f"the clock (datetime.{name})"
    generator = getattr(sys.modules.get("_random"), "Random", None)
    if generator is not None and isinstance(owner, generator) and name not in ("seed", "getstate", "setstate"):
        return "random numbers of Python"
    if kind.__module__.startswith("numpy.random"):
        return "random numbers of NumPy"
    return None
