"""Finds out what a traced function reads from Python, and makes guards of it.

The bytecode of every user function that runs in the trace says what it loads (`_reads.py`); the functions are seen
through `sys.setprofile`, which is set during the trace only. Values are taken when a function is entered. Attributes
that follow a root (`self.cfg.k`) are looked up on it. Those that follow an item, a result or a choice (`objs[0].k`) are
looked up on every object that was found in containers, results and variables: these are more guards than needed, never
fewer.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import types
from collections import Counter
from collections.abc import Callable
from typing import Any

from torsh import _C
from torsh._containers import CONTAINERS, Look, Same, is_buffer, named, parts, underlying
from torsh._reads import reads

__all__ = ["run_traced"]

_ROOT = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_PLAIN = (type(None), bool, int, float, str)
_MISSING = object()
# What a trace that goes beyond one of these has read cannot be guarded, and its function runs as lazy code: items of
# all containers (each is looked at in each call, some nanoseconds), bytes of arrays, containers in containers, objects
# whose attributes are read, and functions with the objects that they were entered with.
_MAX_ITEMS = 65536
_MAX_BYTES = 1 << 20
_MAX_NESTING = 32
_MAX_ELEMENTS = 4096
_MAX_FRAMES = 65536
_MAX_DEPTH_OF_ARGUMENTS = 16
# They read attributes by a name that the bytecode does not show.
_BY_NAME = frozenset((getattr, hasattr, vars, dir, globals, locals, eval, exec))
_BY_NAME_IN_CODE = {"__dict__", "__getattribute__", "attrgetter", "methodcaller", "eval", "exec"}
_CLASS_IN_CODE = {"isinstance", "issubclass", "type", "__class__"}
# Where a module keeps what is more than an attribute.
_TABLES = ("_modules", "_parameters", "_buffers", "_forward_pre_hooks", "_forward_hooks")
_NEVER_LACKING = (types.ModuleType, types.FunctionType, type)
_MESSAGES = ("linecache.py", "warnings.py", "tokenize.py", "traceback.py", f"logging{os.sep}__init__.py")
# What a class keeps functions of the user in.
_BINDING = (
    types.FunctionType,
    staticmethod,
    classmethod,
    property,
    functools.cached_property,
    functools.partialmethod,
)
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__")


def run_traced(fn: Callable, args: tuple, kwargs: dict) -> tuple[Any, list, str | None]:
    """Runs `fn` and lists what it read: `(kind, holder, name, value)` for each guard, and why that is not all."""
    found = _Collector(fn)
    for value in (*args, *kwargs.values()):
        found.argument(value)
    previous = sys.getprofile()

    def note(frame, event, arg):
        if found.refused is not None:
            return
        try:
            if event == "call":
                _enter(found, frame)
            elif event == "return":
                _leave(found, frame, arg)
            elif event == "c_call":
                _called(found, frame, arg)
        except Exception as e:
            # Looking at an object can run its own code.
            found.refuse(f"an object that cannot be looked at ({type(e).__name__}: {e})")

    sys.setprofile(note)
    try:
        result = fn(*args, **kwargs)
    finally:
        sys.setprofile(previous)
    return result, *found.finish()


class _Collector:
    """The guards so far, each fact once."""

    def __init__(self, fn) -> None:
        self.guards: list = []
        self.seen: set = set()
        self.entered: dict = {}
        self.items = self.bytes = self.objects = 0
        # Everything reached, by id, kept alive so that ids stay its own; the objects among it; what is read of any.
        self.reached: dict = {}
        self.elements: dict = {}
        self.kept: list = []
        self.loose: dict = {}
        self.queue: list = []
        # Objects that the trace itself is making.
        self.born: dict = {}
        # Function objects by the id of their code, and code that ran without one.
        self.functions = _functions(fn)
        self.unknown: dict = {}
        self.inner: set = set()
        self.written: dict = {}
        # What cannot be guarded if it outlives the trace.
        self.doubtful: list = []
        self.optimizers: list = []
        self.classes = self.handles = False
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

    def add(self, kind: str, holder, name, value=None) -> None:
        """A fact; the first one about a place stands, for it is what the place held before the function wrote there."""
        key = (kind.removeprefix("no "), id(holder), name)
        if key in self.seen or id(holder) in self.born:
            return
        self.seen.add(key)
        self.guards.append((kind, holder, name, value))

    def reach(self, value, guard: bool = True, depth: int = 0) -> None:
        """Takes note of a value that was read. `guard`: the items of containers, which may be the function's own."""
        if isinstance(value, (*_PLAIN, _C.Tensor)):
            return
        if isinstance(value, (types.ModuleType, type)):
            # Objects of a class may be made and read at once.
            if not (_foreign(value) if isinstance(value, type) else _skipped_module(value)):
                self._element(value)
            return
        value = underlying(value)
        if isinstance(value, CONTAINERS):
            self._container(value, guard, depth)
            if type(value) in CONTAINERS:
                return
        if id(value) in self.reached:
            return
        self.reached[id(value)] = value
        if is_buffer(value):
            self._buffer(value)
            return
        if isinstance(value, types.FunctionType):
            if not _skipped(value.__code__.co_filename):
                known = self.functions.setdefault(id(value.__code__), [])
                if value not in known:
                    known.append(value)
                self._element(value)
            return
        inner, live = parts(value)
        for call, now in live:
            # What a weak reference or a context variable holds.
            self.add("call", call, "", now)
        for part in inner:
            self.reach(part, True, depth + 1)
        if hasattr(type(value), "__next__"):
            self.doubtful.append(("", value, f"{_a(value)}, which each call moves on"))
            return
        if type(value).__module__.startswith("numpy.random"):
            self.refuse("random numbers of NumPy")
            return
        owner = getattr(value, "__self__", None) if isinstance(value, types.BuiltinMethodType) else None
        if owner is not None and type(owner).__module__.startswith("numpy.random"):
            self.refuse("random numbers of NumPy")
            return
        for name in named(value):
            self.also(tuple(name.split(".")))
        if isinstance(value, types.BuiltinFunctionType):
            return
        if _is_module(value):
            _module(self, value)
        elif hasattr(type(value), "__dlpack__") or hasattr(type(value), "__array__"):
            if not type(value).__module__.startswith("numpy"):
                self.refuse(f"{_a(value)}, whose contents may change unseen")
        self._element(value)

    def _element(self, value) -> None:
        """An object that attributes may be read of which follow no root."""
        if id(value) in self.elements:
            return
        self.objects += not _is_module(value)
        if self.objects > _MAX_ELEMENTS:
            self.refuse(f"more than {_MAX_ELEMENTS} objects in containers")
            return
        self.elements[id(value)] = value
        if self.classes:
            self._class_of(value)
        self.queue.extend((value, chain) for chain in self.loose)

    def _class_of(self, value) -> None:
        self.add("class" + (" of module" if _is_module(value) else ""), value, "", type(value))
        self.reach(type(value))

    def _container(self, value, guard: bool, depth: int) -> None:
        """Guards what is in a container: plain items by value, all others by identity."""
        key = ("items" if guard else "scan", id(value))
        if key in self.seen:
            return
        self.seen.add(key)
        self.kept.append(value)
        self.items += len(value)
        if self.items > _MAX_ITEMS:
            self.refuse(f"containers of more than {_MAX_ITEMS} items")
            return
        if depth > _MAX_NESTING:
            self.refuse(f"containers nested more than {_MAX_NESTING} deep")
            return
        held = list(value.values()) if isinstance(value, dict) else list(value)
        if guard and type(value) not in (tuple, frozenset):
            both = tuple(x for pair in value.items() for x in pair) if isinstance(value, dict) else tuple(held)
            self.add("items", value, "", both)
        if isinstance(value, dict):
            held += list(value)
        for item in held:
            if not isinstance(item, _PLAIN):
                self.reach(item, guard, depth + 1)

    def _buffer(self, value) -> None:
        same = Same(value)
        self.bytes += same.nbytes
        if self.bytes > _MAX_BYTES:
            self.refuse(f"arrays of more than {_MAX_BYTES} bytes outside its arguments and tensors")
            return
        self.add("call", same, "", True)

    def argument(self, value, depth: int = 0) -> None:
        """What an argument holds beyond what its signature says, which has the items of lists, tuples and dicts."""
        if depth < _MAX_DEPTH_OF_ARGUMENTS:
            if type(value) is list or isinstance(value, tuple):
                for item in value:
                    self.argument(item, depth + 1)
                return
            if type(value) is dict and all(isinstance(k, _PLAIN) for k in value):
                for item in value.values():
                    self.argument(item, depth + 1)
                return
        self.reach(value)

    def follow(self, root, chain, glob, local, cells, whole: bool = False) -> None:
        """Guards what a root and its attributes are."""
        kind, name = root
        if kind == "global":
            value = glob.get(name, _MISSING)
            if value is _MISSING:
                self.add("no item", glob, name)
                return
            self.add("item", glob, name, value)
        elif kind == "import":
            value = sys.modules.get(name, _MISSING)
        elif kind == "cell" and name in cells:
            value = _contents(cells[name])
            if value is _MISSING:
                return
            self.add("cell", cells[name], name, value)
        else:
            # An argument, or a variable of an enclosing function.
            value = local.get(name, _MISSING)
        self.along(value, chain, kind != "local", whole)

    def along(self, value, chain, guard: bool = True, whole: bool = False) -> None:
        for at, attr in enumerate(chain):
            if value is _MISSING:
                # A property or a method: what it gives is seen when it returns.
                self.also(chain[at:])
                return
            if whole:
                self.whole(value)
            self.reach(value, guard)
            value = self.attribute(value, attr)
            guard = True
        if value is not _MISSING:
            if whole:
                self.whole(value)
            self.reach(value, guard)

    def also(self, chain) -> None:
        """Attributes that are read of values that no root leads to."""
        if chain not in self.loose:
            self.loose[chain] = None
            self.queue.extend((element, chain) for element in self.elements.values())

    def settle(self) -> None:
        """Looks up what is read of items and results on every object that may be one."""
        while self.queue:
            value, chain = self.queue.pop()
            # That an object lacks an attribute matters only where somebody may catch the error.
            if _has(value, chain[0]) or (self.handles and not isinstance(value, _NEVER_LACKING)):
                self.along(value, chain)

    def attribute(self, obj, name: str):
        """Guards `obj.name` where it is state, and returns its value."""
        if isinstance(obj, (*_PLAIN, _C.Tensor)) or type(obj) in CONTAINERS or is_buffer(obj):
            return _MISSING
        if isinstance(obj, types.ModuleType):
            return self._of_python_module(obj, name)
        if isinstance(obj, type):
            return self._of_class(obj, name)
        own = _own(obj)
        if "_orig_mod" in own and _foreign(type(obj)) and name not in own and not hasattr(type(obj), name):
            obj = own["_orig_mod"]
            own = _own(obj)
        module = " of module" if _is_module(obj) else ""
        owner = _owner(type(obj), name)
        held = vars(owner)[name] if owner is not None else _MISSING
        if name in own and not hasattr(type(held), "__set__"):
            if _user_lookup(obj):
                self.add("item", own, name, own[name])
            else:
                self.add("attr" + module, obj, name, own[name])
            return own[name]
        if owner is None:
            return self._not_of_class(obj, own, name, module)
        if _foreign(owner) and not _of_user(held):
            if callable(held) or isinstance(held, (classmethod, staticmethod, property)):
                return _MISSING
            return self._attr(obj, name)
        if hasattr(type(held), "__get__") and _foreign(type(held)) and not isinstance(held, _BINDING):
            # A slot, or a value that C code keeps.
            return self._attr(obj, name)
        # Both are guarded: an object that the trace makes brings no guard of its own.
        value = self._of_class(type(obj), name)
        self.add("class" + module, obj, "", type(obj))
        if _has_dict(obj):
            self.add("no item" + module, own, name)
        return value

    def _attr(self, obj, name):
        if _user_lookup(obj):
            return _MISSING
        try:
            value = getattr(obj, name)
        except AttributeError:
            self.add("no attr", obj, name)
            return _MISSING
        if isinstance(value, (types.MethodType, types.BuiltinMethodType)):
            return _MISSING
        self.add("attr", obj, name, value)
        return value

    def _not_of_class(self, obj, own, name, module):
        if module:
            try:
                value = getattr(obj, name)
            except AttributeError:
                self.add("no attr of module", obj, name)
                return _MISSING
            self.add("attr of module", obj, name, value)
            return value
        if _user_lookup(obj) or hasattr(type(obj), "__getattr__"):
            if _has_dict(obj):
                self.add("no item", own, name)
            self.add("class", obj, "", type(obj))
        else:
            return self._attr(obj, name)
        return _MISSING

    def _of_class(self, obj, name):
        owner = _owner(obj, name)
        held = vars(owner)[name] if owner is not None else _MISSING
        if owner is None:
            if not _foreign(type(obj)) and hasattr(type(obj), name):
                # Of the metaclass.
                return self._attr(obj, name)
            if not _foreign(obj) and not hasattr(type(obj), name) and not hasattr(type(obj), "__getattr__"):
                self.add("no attr", obj, name)
            return _MISSING
        if _foreign(owner) and not _of_user(held):
            return _MISSING
        if isinstance(held, classmethod):
            self.reach(held.__func__)
            self.add("bound", obj, name, held.__func__)
            return _MISSING
        if isinstance(held, (types.FunctionType, staticmethod, property)) or not hasattr(type(held), "__get__"):
            value = getattr(obj, name, _MISSING)
            self.add("attr", obj, name, value)
            self.reach(value)
            return _MISSING if isinstance(value, (types.FunctionType, property)) else value
        self.add("item", underlying(vars(owner)), name, held)
        return _MISSING

    def _of_python_module(self, obj, name):
        if _skipped_module(obj):
            return _MISSING
        space = vars(obj)
        if name not in space:
            self.add("no item", space, name)
            return _MISSING
        self.add("item", space, name, space[name])
        return space[name]

    def whole(self, obj) -> None:
        """Guards every attribute of an object: it is read by names that are not known."""
        key = ("whole", id(obj))
        if key in self.seen or isinstance(obj, (*_PLAIN, _C.Tensor)) or type(obj) in CONTAINERS:
            return
        self.seen.add(key)
        if isinstance(obj, types.ModuleType):
            if not _skipped_module(obj) and not _foreign_module(obj.__name__):
                self.space(vars(obj))
            return
        if isinstance(obj, type):
            if not _foreign(obj):
                self._classes(obj, obj)
            return
        own = _own(obj)
        if "_orig_mod" in own and _foreign(type(obj)):
            self.whole(own["_orig_mod"])
            return
        if isinstance(obj, types.FunctionType):
            self._container(own, True, 0)
            return
        if _is_module(obj):
            self.add("items of module", own, "", tuple(x for pair in own.items() for x in pair))
            for name, value in own.items():
                if name not in _TABLES:
                    self.reach(value)
        elif _has_dict(obj):
            self._container(own, True, 0)
        self.add("class", obj, "", type(obj))
        if not _foreign(type(obj)):
            self._classes(obj, type(obj))

    def _classes(self, obj, cls) -> None:
        for base in cls.__mro__:
            if _foreign(base):
                continue
            self.add("items", vars(base), "", tuple(vars(base)))
            for name, held in list(vars(base).items()):
                if not name.startswith("__") and not callable(held) and not isinstance(held, property):
                    self.along(obj, (name,))

    def space(self, glob: dict) -> None:
        """Guards all global variables of a module."""
        if ("space", id(glob)) in self.seen:
            return
        self.seen.add(("space", id(glob)))
        self.add("items", glob, "", tuple(x for pair in glob.items() for x in pair))
        for name, value in list(glob.items()):
            if not name.startswith("__"):
                self.reach(value)

    def finish(self) -> tuple[list, str | None]:
        """The guards that say something after the trace, and why they are not all."""
        self.settle()
        self._closures()
        self._states()
        self._writes()
        for table in (self.entered, self.reached, self.elements, self.functions, self.written, self.unknown, self.born):
            table.clear()
        self.queue.clear()
        self.kept.clear()
        self.optimizers.clear()
        # An object that only guards hold belongs to the trace: nobody can read it again.
        before = -1
        while len(self.guards) + len(self.doubtful) != before:
            before = len(self.guards) + len(self.doubtful)
            ours = Counter(id(_subject(guard)) for guard in self.guards + self.doubtful)
            self.guards = [guard for guard in self.guards if _references(guard) > ours[id(_subject(guard))]]
            self.doubtful = [guard for guard in self.doubtful if _references(guard) > ours[id(_subject(guard))]]
        if self.doubtful:
            self.refuse(self.doubtful[0][2])
        return self.guards, self.refused

    def _states(self) -> None:
        """The state of each parameter, as the trace has left it: a first step makes it."""
        for optimizer in self.optimizers:
            self.add("attr", optimizer, "state", optimizer.state)
            self.reach(optimizer.state)

    def _writes(self) -> None:
        """What the function leaves behind must be there already: a program writes no variables and attributes."""
        for holder, kind, name in self.written.values():
            value = _written(holder, kind, name)
            if isinstance(value, _PLAIN):
                self.add(kind, holder, name, value)

    def _closures(self) -> None:
        """Variables of functions that only C code knew: they are found by their code."""
        unknown = [code for i, code in self.unknown.items() if i not in self.inner]
        if not unknown:
            return
        for function in gc.get_referrers(*unknown):
            if not isinstance(function, types.FunctionType):
                continue
            code = function.__code__
            self._defaults(function)
            for name, cell in _cells(function).items():
                value = _contents(cell)
                if value is _MISSING:
                    continue
                if any(root == ("cell", name) for root, _ in reads(code).writes):
                    self.refuse(f"the variable {name} of a function that it also writes")
                self.add("cell", cell, name, value)
        self.settle()

    def _defaults(self, function) -> None:
        self.add("attr", function, "__code__", function.__code__)
        if function.__defaults__:
            self.add("attr", function, "__defaults__", function.__defaults__)
            self.reach(function.__defaults__)
        if function.__kwdefaults__:
            self.add("attr", function, "__kwdefaults__", function.__kwdefaults__)
            self.reach(function.__kwdefaults__)


def _subject(guard):
    """The object that a guard looks at."""
    return guard[1].value if isinstance(guard[1], Look) else guard[1]


def _references(guard) -> int:
    """References to the object of a guard, but for those that looking at it makes."""
    subject = _subject(guard)
    return sys.getrefcount(subject) - _LOOKING


_LOOKING = 0
_LOOKING = _references(("", object())) - 1


def _enter(found: _Collector, frame) -> None:
    code = frame.f_code
    if _skipped(code.co_filename):
        _enter_foreign(found, frame, code)
        return
    found.inner.update(id(c) for c in code.co_consts if isinstance(c, types.CodeType))
    local = frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = [local.get(name) for name in names]
    if code.co_name in _CONSTRUCTORS and given:
        made = given[0]
        found.born[id(made)] = made
        if _has_dict(made):
            found.born[id(_own(made))] = _own(made)
    elif code.co_name.startswith("__") and given and not isinstance(given[0], type):
        # A method that an operator has called.
        held = getattr(type(given[0]), code.co_name, None)
        if getattr(held, "__code__", None) is code:
            found.add("attr", type(given[0]), code.co_name, held)
    known = found.functions.get(id(code), ())
    objects = (x for x in given if not isinstance(x, (*_PLAIN, _C.Tensor, *CONTAINERS)))
    if not found.first((code, *known, *objects)):
        return
    if not any(_runs(function, local) for function in known):
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
    _follow(found, frame, what, known, local, whole)
    if what.handles and not found.handles:
        found.handles = True
        found.queue.extend((element, chain) for element in found.elements.values() for chain in found.loose)
    for chain in what.loose:
        found.also(chain)
    if whole:
        for element in list(found.elements.values()):
            found.whole(element)
    found.settle()


def _follow(found, frame, what, known, local, whole: bool) -> None:
    for cells in [_cells(f) for f in known] or [{}]:
        for root, chain in what.chains:
            if root[0] != "any":
                found.follow(root, chain, frame.f_globals, local, cells, whole)


def _enter_foreign(found: _Collector, frame, code) -> None:
    """A function of torsh or of the standard library."""
    if code.co_filename.startswith(_ROOT):
        if code.co_name == "__call__" and code.co_argcount:
            owner = frame.f_locals.get(code.co_varnames[0])
            if _is_module(owner):
                found.reach(owner)
                found.settle()
        elif frame.f_back is not None and not _skipped(frame.f_back.f_code.co_filename) and code.co_argcount:
            owner = frame.f_locals.get(code.co_varnames[0])
            if hasattr(type(owner), "add_param_group"):
                _optimizer(found, owner)
            elif type(owner).__module__.startswith("torsh.") and _has_dict(owner) and not _is_module(owner):
                # A schedule of learning rates, a scope.
                if not isinstance(owner, _C.Tensor):
                    found.whole(owner)
        return
    if code.co_filename.startswith(("<frozen importlib", "<frozen abc", "<frozen zipimport")):
        return
    caller = frame.f_back
    if caller is None or _skipped(caller.f_code.co_filename):
        return
    # It reads what it likes of the objects that it was given.
    if code.co_name == "getenv":
        found.whole(os.environ)
    local = frame.f_locals
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        value = local.get(name)
        if not isinstance(value, (*_PLAIN, _C.Tensor, types.ModuleType)):
            found.whole(value)
            found.reach(value, False)
    found.settle()


def _leave(found: _Collector, frame, result) -> None:
    """Takes note of a result, of the objects that a function has found on its way, and of what it has written."""
    code = frame.f_code
    if _skipped(code.co_filename):
        return
    found.reach(result, False)
    what = reads(code)
    local = frame.f_locals
    if what.loose:
        for name in code.co_varnames[code.co_argcount + code.co_kwonlyargcount :]:
            value = local.get(name)
            if value is None or isinstance(value, (*_PLAIN, _C.Tensor)) or id(value) in found.reached:
                continue
            found.reach(value, False)
            if id(value) in found.elements and any(chain[-1] in _names_of(what.writes) for chain in what.loose):
                found.doubtful.append(("", value, f"{_a(value)}, which it also writes"))
    found.settle()
    if what.writes:
        known = found.functions.get(id(code), ())
        for cells in [_cells(f) for f in known] or [{}]:
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
        holders = [e for e in found.elements.values() if names[-1] in _own(e)]
    else:
        at = glob.get(name) if kind == "global" else local.get(name)
        for attr in names[:-1]:
            at = _own(at).get(attr)
        holders = [at]
    for at in holders:
        if names[-1] in _own(at):
            module = " of module" if _is_module(at) else ""
            found.written[id(at), names[-1]] = (at, "attr" + module, names[-1])


def _written(holder, kind, name):
    if kind == "item":
        return holder.get(name, _MISSING)
    if kind == "cell":
        return _contents(holder)
    return _own(holder).get(name, _MISSING)


def _called(found: _Collector, frame, function) -> None:
    """A function written in C is about to be called."""
    code = frame.f_code
    if code.co_filename.startswith(_ROOT):
        return
    owner = getattr(function, "__self__", None)
    why = _unknowable(function, owner)
    if why is not None and _by_user(frame):
        found.refuse(why)
    if function in _BY_NAME and not _skipped(code.co_filename):
        if function in (getattr, hasattr) and reads(code).constant and "getattr" in (*code.co_names, "hasattr"):
            return
        if function in (globals, eval, exec):
            found.space(frame.f_globals)
        local = frame.f_locals
        for value in (*local.values(), *list(found.elements.values())):
            found.whole(value)
        _follow(found, frame, reads(code), found.functions.get(id(code), ()), local, True)
        found.settle()
    elif type(owner).__name__ == "ContextVar" and type(owner).__module__ == "_contextvars":
        found.reach(owner)
        found.settle()


def _by_user(frame) -> bool:
    """Whether the user's code asked for what this frame does: not torsh, an import or a message."""
    while frame is not None and _skipped(frame.f_code.co_filename):
        name = frame.f_code.co_filename
        if name.startswith((_ROOT, "<frozen importlib", "<frozen zipimport")) or name.endswith(_MESSAGES):
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
    if isinstance(owner, type) and owner.__module__ == "datetime" and name in ("now", "utcnow", "today"):
        return f"the clock (datetime.{name})"
    generator = getattr(sys.modules.get("_random"), "Random", None)
    if generator is not None and isinstance(owner, generator) and name not in ("seed", "getstate", "setstate"):
        return "random numbers of Python"
    if kind.__module__.startswith("numpy.random"):
        return "random numbers of NumPy"
    return None


@functools.lru_cache(maxsize=4096)
def _skipped(filename: str) -> bool:
    if filename.startswith("<frozen"):
        return True
    path = os.path.abspath(filename) if not filename.startswith("<") else filename
    return path.startswith(_ROOT) or (path.startswith(_LIB) and "site-packages" not in path)


def _skipped_module(module) -> bool:
    """Whether a Python module is torsh's own."""
    return (getattr(module, "__name__", None) or "").split(".")[0] == "torsh"


@functools.lru_cache(maxsize=4096)
def _foreign_module(name: str) -> bool:
    if name == "builtins":
        return True
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    return _skipped(file) if file else module is not None and name in sys.builtin_module_names


def _foreign(cls) -> bool:
    """Whether a class is torsh's, the standard library's or built in."""
    name = cls.__module__
    return isinstance(name, str) and _foreign_module(name)


def _of_user(held) -> bool:
    """Whether a user has put a function of theirs here."""
    held = getattr(held, "__func__", held) if isinstance(held, (staticmethod, classmethod)) else held
    return isinstance(held, types.FunctionType) and not _skipped(held.__code__.co_filename)


def _owner(cls, name: str):
    return next((base for base in cls.__mro__ if name in vars(base)), None)


def _has(obj, name: str) -> bool:
    """Whether an attribute may be found, without running code of the user."""
    cls = type(obj)
    if isinstance(obj, types.ModuleType):
        return name in vars(obj)
    if isinstance(obj, type):
        return _owner(obj, name) is not None or _owner(cls, name) is not None
    if name in _own(obj) or _owner(cls, name) is not None:
        return True
    return _is_module(obj) or hasattr(cls, "__getattr__") or _user_lookup(obj) or (_foreign(cls) and hasattr(obj, name))


def _has_dict(obj) -> bool:
    try:
        return isinstance(object.__getattribute__(obj, "__dict__"), dict)
    except (AttributeError, TypeError):
        return False


def _own(obj) -> dict:
    try:
        own = object.__getattribute__(obj, "__dict__")
    except (AttributeError, TypeError):
        return {}
    return own if isinstance(own, dict) else {}


def _user_lookup(obj) -> bool:
    """Whether the class looks attributes up with a function of its own."""
    return not _foreign(_owner(type(obj), "__getattribute__"))


def _is_module(value) -> bool:
    """Whether a value is a module of `torsh.nn`."""
    return hasattr(type(value), "register_buffer") and not isinstance(value, type)


def _a(value) -> str:
    return f"a {type(value).__name__}"


def _functions(fn) -> dict:
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
        if not isinstance(f, types.FunctionType) or id(f) in seen or _skipped(f.__code__.co_filename):
            continue
        seen.add(id(f))
        found.setdefault(id(f.__code__), []).append(f)
        values = [_contents(cell) for cell in f.__closure__ or ()]
        values += [f.__globals__.get(name) for name in f.__code__.co_names]
        stack.extend(x for x in values if callable(x) or type(x) in CONTAINERS)
    return found


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _runs(function, local) -> bool:
    """Whether a frame with these variables may be a call of this function: others share its code."""
    return all(_contents(cell) is local.get(name, _MISSING) for name, cell in _cells(function).items())


def _cells(function) -> dict:
    if not function.__closure__:
        return {}
    return dict(zip(function.__code__.co_freevars, function.__closure__, strict=False))


def _optimizer(out, optimizer) -> None:
    """What a step reads: the options of each group but for the learning rate, which is an input, and parameters."""
    if ("optimizer", id(optimizer)) in out.seen:
        return
    out.seen.add(("optimizer", id(optimizer)))
    out.optimizers.append(optimizer)
    groups = optimizer.param_groups
    out.add("attr", optimizer, "param_groups", groups)
    out.add("items", groups, "", tuple(groups))
    for group in groups:
        for name, value in group.items():
            if name != "lr" or type(value) is not float:
                out.add("item", group, name, value)
                out.reach(value)


def _module(out, module) -> None:
    """What a module of ours reads when it is called: its plain attributes, its children and hooks."""
    for name, value in list(vars(module).items()):
        if name == "training" or (not name.startswith("_") and isinstance(value, (*_PLAIN, tuple))):
            out.add("attr of module", module, name, value)
    for name in _TABLES:
        table = vars(module).get(name)
        if isinstance(table, dict):
            out.add("items of module", table, "", tuple(x for pair in table.items() for x in pair))
            for value in list(table.values()):
                out.reach(value)
    out.attribute(module, "forward")
