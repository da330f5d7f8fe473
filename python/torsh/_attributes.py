"""Guards of attributes."""

from __future__ import annotations

import functools
import types

from torsh import _C
from torsh._containers import CACHE, CONTAINERS, Names, is_buffer, underlying
from torsh._objects import (
    BINDING,
    MISSING,
    foreign,
    foreign_module,
    has_dict,
    is_module,
    is_number,
    is_torsh,
    of_user,
    own_dict,
    owner_of,
    user_lookup,
)

# Where a module of `torsh.nn` keeps what is more than an attribute.
TABLES = ("_modules", "_parameters", "_buffers", "_forward_pre_hooks", "_forward_hooks")


class Attributes:
    """The part of the collector that knows where attributes are kept."""

    def attribute(self, obj, name: str):
        """Guards `obj.name` where it is state, and returns its value."""
        if isinstance(obj, _C.Tensor):
            return self._of_tensor(obj, name)
        if is_number(obj) or type(obj) in CONTAINERS or is_buffer(obj):
            return MISSING
        if isinstance(obj, types.ModuleType):
            return self._of_python_module(obj, name)
        if isinstance(obj, type):
            return self._of_class(obj, name)
        own = own_dict(obj)
        if "_orig_mod" in own and foreign(type(obj)) and name not in own and not hasattr(type(obj), name):
            obj = own["_orig_mod"]
            own = own_dict(obj)
        module = " of module" if is_module(obj) else ""
        owner = owner_of(type(obj), name)
        held = vars(owner)[name] if owner is not None else MISSING
        if name in own and not hasattr(type(held), "__set__"):
            if user_lookup(obj):
                self.add("item", own, name, own[name])
            else:
                self.add("attr" + module, obj, name, own[name])
            return own[name]
        if owner is None:
            return self._not_of_class(obj, own, name, module)
        if foreign(owner) and not of_user(held):
            if callable(held) or isinstance(held, (classmethod, staticmethod, property)):
                if module:
                    # Somebody may put another method in its place.
                    self.add("no item of module", own, name)
                return MISSING
            return self._attr(obj, name)
        if hasattr(type(held), "__get__") and foreign(type(held)) and not isinstance(held, BINDING):
            # A slot, or a value that C code keeps.
            return self._attr(obj, name)
        # Both are guarded: an object that the trace makes brings no guard of its own.
        value = self._of_class(type(obj), name)
        self.add("class" + module, obj, "", type(obj))
        if has_dict(obj):
            self.add("no item" + module, own, name)
        return value

    def _of_tensor(self, obj, name):
        cls = type(obj)
        owner = owner_of(cls, name)
        if owner is not None:
            return MISSING if foreign(owner) else self._of_class(cls, name)
        own = own_dict(obj)
        if id(obj) in self.stand_ins:
            # Another tensor comes with each call.
            if name in own:
                self.refuse(f"the attribute {name} of a tensor that is an argument")
            else:
                self.add("lacked", None, name)
            return MISSING
        if name not in own:
            self.add("no item", own, name)
            return MISSING
        self.add("item", own, name, own[name])
        return own[name]

    def _attr(self, obj, name):
        if user_lookup(obj):
            return MISSING
        try:
            value = getattr(obj, name)
        except AttributeError:
            self.add("no attr", obj, name)
            return MISSING
        if isinstance(value, (types.MethodType, types.BuiltinMethodType)) and getattr(obj, name) is not value:
            # It is bound anew at each look.
            return MISSING
        self.add("attr", obj, name, value)
        return value

    def _not_of_class(self, obj, own, name, module):
        if module:
            try:
                value = getattr(obj, name)
            except AttributeError:
                self.add("no attr of module", obj, name)
                return MISSING
            self.add("attr of module", obj, name, value)
            return value
        if user_lookup(obj) or hasattr(type(obj), "__getattr__"):
            if has_dict(obj):
                self.add("no item", own, name)
            self.add("class", obj, "", type(obj))
        else:
            return self._attr(obj, name)
        return MISSING

    def _of_class(self, obj, name):
        owner = owner_of(obj, name)
        held = vars(owner)[name] if owner is not None else MISSING
        if owner is None:
            if not foreign(type(obj)) and hasattr(type(obj), name):
                # Of the metaclass.
                return self._attr(obj, name)
            if not foreign(obj) and not hasattr(type(obj), name) and not hasattr(type(obj), "__getattr__"):
                self.add("no attr", obj, name)
            return MISSING
        if foreign(owner) and not of_user(held):
            return MISSING
        if isinstance(held, classmethod):
            self.reach(held.__func__)
            self.add("bound", obj, name, held.__func__)
            return MISSING
        if isinstance(held, (types.FunctionType, staticmethod, property)) or not hasattr(type(held), "__get__"):
            value = getattr(obj, name, MISSING)
            self.add("attr", obj, name, value)
            self.reach(value)
            return MISSING if isinstance(value, (types.FunctionType, property)) else value
        self.add("item", underlying(vars(owner)), name, held)
        if isinstance(held, (CACHE, functools.singledispatchmethod)):
            self.reach(held)
        return MISSING

    def _of_python_module(self, obj, name):
        if is_torsh(obj):
            return MISSING
        space = vars(obj)
        if name not in space:
            self.add("no item", space, name)
            return MISSING
        self.add("item", space, name, space[name])
        return space[name]

    def whole(self, obj) -> None:
        """Guards every attribute of an object: it is read by names that are not known."""
        key = ("whole", id(obj))
        if key in self.seen or is_number(obj) or type(obj) in CONTAINERS:
            return
        self.seen.add(key)
        if isinstance(obj, _C.Tensor):
            self._whole_tensor(obj)
            return
        self.kept.append(obj)
        if isinstance(obj, types.ModuleType):
            if not is_torsh(obj) and not foreign_module(obj.__name__):
                self.space(vars(obj))
            return
        if isinstance(obj, type):
            if not foreign(obj):
                self._classes(obj, obj)
            return
        own = own_dict(obj)
        if "_orig_mod" in own and foreign(type(obj)):
            self.whole(own["_orig_mod"])
            return
        if isinstance(obj, types.FunctionType):
            self._container(own, True, 0)
            return
        if is_module(obj):
            self.add("items of module", own, "", tuple(x for pair in own.items() for x in pair))
            for name, value in own.items():
                if name not in TABLES:
                    self.reach(value)
        elif has_dict(obj):
            self._container(own, True, 0)
        self.add("class", obj, "", type(obj))
        if not foreign(type(obj)):
            self._classes(obj, type(obj))

    def _whole_tensor(self, obj) -> None:
        own = own_dict(obj)
        if id(obj) not in self.stand_ins:
            self._container(own, True, 0)
        elif own:
            self.refuse("attributes of a tensor that is an argument")

    def whole_elements(self, deep: bool) -> None:
        """Guards every attribute of the objects found so far; `deep`: and of those that this finds.

        Each is looked at once, however often this is called.
        """
        end = len(self.order)
        while self.whole_until < end:
            at = self.whole_until
            self.whole_until += 1
            self.whole(self.order[at])
            if deep:
                end = len(self.order)

    def _classes(self, obj, cls) -> None:
        for base in cls.__mro__:
            if foreign(base):
                continue
            if ("names", id(base)) not in self.seen:
                self.seen.add(("names", id(base)))
                self.add("call", Names(base), "", True)
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
