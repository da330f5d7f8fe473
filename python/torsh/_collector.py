"""The facts about Python that a trace rests on."""

from __future__ import annotations

import builtins
import gc
import sys
import types

from torsh import _C
from torsh._attributes import TABLES, Attributes
from torsh._containers import CACHE, CONTAINERS, Cached, Look, Same, is_buffer, named, parts, underlying
from torsh._objects import (
    MISSING,
    NEVER_LACKING,
    PLAIN,
    cells_of,
    contents,
    foreign,
    functions_of,
    is_module,
    is_number,
    is_torsh,
    may_have,
    name_of_class,
    now_at,
    of_user,
    skipped,
)
from torsh._reads import reads

# What a trace that goes beyond one of these has read cannot be guarded, and its function runs as lazy code: items of
# all containers (each is looked at in each call, some nanoseconds), bytes of arrays, containers in containers, objects
# whose attributes are read, and functions with the objects that they were entered with.
_MAX_ITEMS = 65536
_MAX_BYTES = 1 << 20
_MAX_NESTING = 32
_MAX_ELEMENTS = 4096
_MAX_FRAMES = 65536
_MAX_DEPTH_OF_ARGUMENTS = 16
# What is built in when torsh is imported.
_BUILTINS = dict(vars(builtins))


class Collector(Attributes):
    """The guards so far, each fact once."""

    def __init__(self, fn) -> None:
        # The function itself: a guard of its code would be the only one of many functions.
        self.top = getattr(fn, "__func__", fn)
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
        self.functions = functions_of(fn)
        self.unknown: dict = {}
        self.inner: set = set()
        self.written: dict = {}
        # What cannot be guarded if it outlives the trace.
        self.doubtful: list = []
        self.optimizers: list = []
        # The elements in their order, and how many of them are guarded with all their attributes.
        self.order: list = []
        self.whole_until = 0
        # Tensors that stand for arguments, by id; others that were reached.
        self.stand_ins: dict = {}
        self.tensors: dict = {}
        # Caches of functions and their figures when they were reached; modules that functions import.
        self.caches: dict = {}
        self.imported: dict = {}
        self.classes = self.handles = False
        self.optional: set = set()
        # Why what was read cannot be guarded.
        self.refused: str | None = None

    def refuse(self, why: str) -> None:
        self.refused = self.refused or why

    def careful(self, look) -> None:
        """Looking at an object can run its own code: a function that reads what fails then is not guarded."""
        try:
            look()
        except Exception as e:
            self.refuse(f"an object that cannot be looked at ({type(e).__name__}: {e})")

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
        if isinstance(value, _C.Tensor):
            self._tensor(value)
            return
        if is_number(value):
            return
        if isinstance(value, (types.ModuleType, type)):
            # Objects of a class may be made and read at once.
            if not (foreign(value) if isinstance(value, type) else is_torsh(value)):
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
            if not skipped(value.__code__.co_filename):
                known = self.functions.setdefault(id(value.__code__), [])
                if value not in known:
                    known.append(value)
                self._element(value)
            elif hasattr(value, "registry") and hasattr(value, "dispatch"):
                # Of `functools.singledispatch`: which function is for which class.
                self._container(underlying(value.registry), True, depth)
            return
        if isinstance(value, CACHE) and of_user(value.__wrapped__):
            self.caches[id(value)] = (Cached(value), value.cache_info().hits)
            for held in _results_in(value):
                self.reach(held, True, depth + 1)
        inner, live = parts(value)
        for call, now in live:
            # What a weak reference or a context variable holds.
            self.add("call", call, "", now)
        for part in inner:
            self.reach(part, True, depth + 1)
        if hasattr(type(value), "__next__"):
            self.doubtful.append(("", value, f"{name_of_class(value)}, which each call moves on"))
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
        if is_module(value):
            of_module(self, value)
        elif hasattr(type(value), "__dlpack__") or hasattr(type(value), "__array__"):
            if not type(value).__module__.startswith("numpy"):
                self.refuse(f"{name_of_class(value)}, whose contents may change unseen")
        self._element(value)

    def _tensor(self, value) -> None:
        """Attributes may be set on tensors too."""
        if id(value) not in self.tensors:
            self.tensors[id(value)] = value
            self.queue.extend((value, chain) for chain in self.loose if not hasattr(_C.Tensor, chain[0]))

    def _element(self, value) -> None:
        """An object that attributes may be read of which follow no root."""
        if id(value) in self.elements:
            return
        self.objects += not is_module(value)
        if self.objects > _MAX_ELEMENTS:
            self.refuse(f"more than {_MAX_ELEMENTS} objects in containers")
            return
        self.elements[id(value)] = value
        self.order.append(value)
        if self.classes:
            self._class_of(value)
        self.queue.extend((value, chain) for chain in self.loose)

    def _class_of(self, value) -> None:
        self.add("class" + (" of module" if is_module(value) else ""), value, "", type(value))
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
            if type(item) not in PLAIN:
                self.reach(item, guard, depth + 1)

    def _buffer(self, value) -> None:
        same = Same(value)
        self.bytes += same.nbytes
        if self.bytes > _MAX_BYTES:
            self.refuse(f"arrays of more than {_MAX_BYTES} bytes outside its arguments and tensors")
            return
        self.add("call", same, "", True)
        if getattr(getattr(value, "dtype", None), "hasobject", False):
            self.reach(value.tolist(), False)

    def argument(self, value, depth: int = 0) -> None:
        """What an argument holds beyond what its signature says, which has the items of lists, tuples and dicts."""
        if depth < _MAX_DEPTH_OF_ARGUMENTS:
            if type(value) is list or isinstance(value, tuple):
                for item in value:
                    self.argument(item, depth + 1)
                return
            if type(value) is dict and all(isinstance(k, PLAIN) for k in value):
                for item in value.values():
                    self.argument(item, depth + 1)
                return
        if isinstance(value, _C.Tensor):
            self.stand_ins[id(value)] = value
        self.reach(value)

    def follow(self, root, chain, glob, local, cells, whole: bool = False) -> None:
        """Guards what a root and its attributes are."""
        kind, name = root
        if kind == "global":
            value = glob.get(name, MISSING)
            if value is MISSING:
                self.add("no item", glob, name)
                self._builtin(name, chain, glob, whole)
                return
            self.add("item", glob, name, value)
        elif kind == "import":
            self._import(name, chain, glob, whole)
            return
        elif kind == "cell" and name in cells:
            value = contents(cells[name])
            if value is MISSING:
                return
            self.add("cell", cells[name], name, value)
        else:
            # An argument, or a variable of an enclosing function.
            value = local.get(name, MISSING)
        self.along(value, chain, kind != "local", whole)

    def _builtin(self, name, chain, glob, whole: bool) -> None:
        """What is no global variable is built in, unless somebody puts something else there."""
        space = glob.get("__builtins__", builtins)
        space = vars(space) if isinstance(space, types.ModuleType) else space
        value = space.get(name, MISSING) if type(space) is dict else MISSING
        if value is MISSING:
            return
        self.add("item", space, name, value)
        if value is not _BUILTINS.get(name):
            self.along(value, chain, True, whole)

    def _import(self, name, chain, glob, whole: bool) -> None:
        """A module that a function imports: its name may be relative, and the variable may be its first parent."""
        packages = (glob.get("__package__") or "").split(".")
        inner = [".".join((*packages[:n], name)).strip(".") for n in range(1, len(packages) + 1) if packages[0]]
        for full in dict.fromkeys((name, name.split(".")[0], *inner)):
            self.imported[full] = None
            value = sys.modules.get(full, MISSING)
            if value is not MISSING:
                self.along(value, chain, True, whole)

    def along(self, value, chain, guard: bool = True, whole: bool = False) -> None:
        for at, attr in enumerate(chain):
            if value is MISSING:
                # A property or a method: what it gives is seen when it returns.
                self.also(chain[at:])
                return
            if whole:
                self.whole(value)
            self.reach(value, guard)
            value = self.attribute(value, attr)
            guard = True
        if value is not MISSING:
            if whole:
                self.whole(value)
            self.reach(value, guard)

    def also(self, chain) -> None:
        """Attributes that are read of values that no root leads to."""
        if chain not in self.loose:
            self.loose[chain] = None
            self.queue.extend((element, chain) for element in self.elements.values())
            if not hasattr(_C.Tensor, chain[0]):
                self.queue.extend((tensor, chain) for tensor in self.tensors.values())

    def may_lack(self, names) -> None:
        """Attributes with these names may be absent where they are read."""
        new = names - self.optional
        self.optional |= new
        for chain in self.loose:
            if chain[0] in new:
                self.queue.extend((x, chain) for x in (*self.elements.values(), *self.tensors.values()))

    def settle(self) -> None:
        """Looks up what is read of items and results on every object that may be one."""
        while self.queue:
            value, chain = self.queue.pop()
            # That an object lacks an attribute matters only where somebody may catch the error, or asks.
            lacking = (chain[0] in self.optional and not isinstance(value, NEVER_LACKING)) or (
                self.handles and not isinstance(value, (*NEVER_LACKING, _C.Tensor))
            )
            if lacking or may_have(value, chain[0]):
                self.along(value, chain)

    def finish(self) -> tuple[list, str | None]:
        """The guards that say something after the trace, and why they are not all."""
        for look in (self.settle, self._closures, self._states, self._writes, self._kept_outside, self.settle):
            self.careful(look)
        for table in (self.entered, self.reached, self.elements, self.functions, self.written, self.unknown, self.born):
            table.clear()
        for table in (self.stand_ins, self.tensors, self.caches, self.imported):
            table.clear()
        self.queue.clear()
        self.order.clear()
        self.kept.clear()
        self.optimizers.clear()
        # An object that only guards hold belongs to the trace: nobody can read it again.
        before = -1
        while len(self.guards) + len(self.doubtful) != before:
            before = len(self.guards) + len(self.doubtful)
            ours: dict = {}
            for guard in (*self.guards, *self.doubtful):
                subject = id(subject_of(guard))
                ours[subject] = ours.get(subject, 0) + 1
            self.guards = [guard for guard in self.guards if _references(guard) > ours[id(subject_of(guard))]]
            self.doubtful = [guard for guard in self.doubtful if _references(guard) > ours[id(subject_of(guard))]]
        if self.doubtful:
            self.refuse(self.doubtful[0][2])
        return self.guards, self.refused

    def _states(self) -> None:
        """The state of each parameter, as the trace has left it: a first step makes it."""
        for optimizer in self.optimizers:
            self.add("attr", optimizer, "state", optimizer.state)
            self.reach(optimizer.state)

    def _kept_outside(self) -> None:
        """Results that a cache gave without a call, and the modules that an import has found."""
        for cache, hits in self.caches.values():
            # Objects that the trace has put there are found there by the next call.
            filled = not cache() and any(not isinstance(x, (*PLAIN, _C.Tensor)) for x in _results_in(cache.value))
            if filled or cache.value.cache_info().hits != hits:
                self.add("call", cache, "", True)
        for name in self.imported:
            if name in sys.modules:
                self.add("item", sys.modules, name, sys.modules[name])

    def _writes(self) -> None:
        """What the function leaves behind must be there already: a program writes no variables and attributes."""
        for holder, kind, name in self.written.values():
            value = now_at(holder, kind, name)
            if isinstance(value, PLAIN):
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
            for name, cell in cells_of(function).items():
                value = contents(cell)
                if value is MISSING:
                    continue
                if any(root == ("cell", name) for root, _ in reads(code).writes):
                    self.refuse(f"the variable {name} of a function that it also writes")
                self.add("cell", cell, name, value)
        self.settle()

    def _defaults(self, function) -> None:
        if function is not self.top:
            self.add("attr", function, "__code__", function.__code__)
        if function.__defaults__:
            self.add("attr", function, "__defaults__", function.__defaults__)
            self.reach(function.__defaults__)
        if function.__kwdefaults__:
            self.add("attr", function, "__kwdefaults__", function.__kwdefaults__)
            self.reach(function.__kwdefaults__)


def subject_of(guard):
    """The object that a guard looks at."""
    return guard[1].value if isinstance(guard[1], Look) else guard[1]


def _references(guard) -> int:
    """References to the object of a guard, but for those that looking at it makes."""
    value = subject_of(guard)
    return sys.getrefcount(value) - _LOOKING


_LOOKING = 0
_LOOKING = _references(("", object())) - 1


def _results_in(cache) -> list:
    """What a cache holds. Of a bounded one Python shows nothing: its results are taken for constants."""
    tables = [t for t in gc.get_referents(cache) if type(t) is dict and t is not vars(cache)]
    return [x for table in tables for x in table.values() if type(x).__name__ != "_lru_list_elem"]


def of_optimizer(out, optimizer) -> None:
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


def of_module(out, module) -> None:
    """What a module of ours reads when it is called: its plain attributes, its children and hooks."""
    for name, value in list(vars(module).items()):
        if name == "training" or (not name.startswith("_") and isinstance(value, (*PLAIN, tuple))):
            out.add("attr of module", module, name, value)
    for name in TABLES:
        table = vars(module).get(name)
        if isinstance(table, dict):
            out.add("items of module", table, "", tuple(x for pair in table.items() for x in pair))
            for value in list(table.values()):
                out.reach(value)
    out.attribute(module, "forward")
