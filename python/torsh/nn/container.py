"""Modules that hold modules and parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from torsh.nn.module import Module, Parameter


def _position(index, n: int) -> int:
    i = operator.index(index)
    if not -n <= i < n:
        raise IndexError(f"index {i} is out of range for {n} entries")
    return i + n if i < 0 else i


class Sequential(Module):
    """Calls its children one after the other.

    >>> torsh.nn.Sequential(torsh.nn.ReLU(), torsh.nn.Tanh())(torsh.tensor([-1.0])).tolist()
    [0.0]
    """

    def __init__(self, *args):
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def forward(self, input):
        for module in self._modules.values():
            input = module(input)
        return input

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules.values())

    def __getitem__(self, index):
        items = list(self._modules.items())
        if isinstance(index, slice):
            return Sequential(dict(items[index]))
        return items[_position(index, len(items))][1]

    def __setitem__(self, index, module) -> None:
        key = list(self._modules)[_position(index, len(self))]
        setattr(self, key, module)

    def append(self, module: Module):
        """Adds a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules):
        """Adds modules at the end."""
        for m in modules:
            self.append(m)
        return self


class ModuleList(Module):
    """A list whose modules are registered."""

    def __init__(self, modules: Iterable[Module] | None = None):
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def _reset(self, modules) -> None:
        self._modules.clear()
        self.extend(modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules.values())

    def __getitem__(self, index):
        items = list(self._modules.values())
        if isinstance(index, slice):
            return ModuleList(items[index])
        return items[_position(index, len(items))]

    def __setitem__(self, index, module) -> None:
        setattr(self, str(_position(index, len(self))), module)

    def __delitem__(self, index) -> None:
        items = list(self)
        del items[index]
        self._reset(items)

    def append(self, module: Module):
        """Adds a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules):
        """Adds modules at the end."""
        for m in modules:
            self.append(m)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Inserts a module before an index."""
        items = list(self)
        items.insert(index, module)
        self._reset(items)

    def forward(self, *args, **kwargs):
        raise NotImplementedError("ModuleList holds modules and has no forward; call its entries")


class ModuleDict(Module):
    """A dict whose modules are registered."""

    def __init__(self, modules: Mapping | None = None):
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key):
        return self._modules[key]

    def __setitem__(self, key, module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key) -> None:
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules)

    def __contains__(self, key) -> bool:
        return key in self._modules

    def keys(self):
        """Names."""
        return self._modules.keys()

    def items(self):
        """(name, module) pairs."""
        return self._modules.items()

    def values(self):
        """Modules."""
        return self._modules.values()

    def update(self, modules) -> None:
        """Adds the entries of a mapping or of pairs."""
        for key, module in modules.items() if isinstance(modules, Mapping) else modules:
            self.add_module(key, module)


class ParameterList(Module):
    """A list whose parameters are registered."""

    def __init__(self, values: Iterable | None = None):
        super().__init__()
        for v in values or ():
            self.append(v)

    def append(self, value):
        """Adds a parameter (a tensor becomes one) at the end."""
        self.register_parameter(str(len(self)), value if isinstance(value, Parameter) else Parameter(value))
        return self

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self):
        return iter(self._parameters.values())

    def __getitem__(self, index):
        items = list(self._parameters.values())
        return items[index] if isinstance(index, slice) else items[_position(index, len(items))]


class ParameterDict(Module):
    """A dict whose parameters are registered."""

    def __init__(self, parameters: Mapping | None = None):
        super().__init__()
        for key, v in (parameters or {}).items():
            self[key] = v

    def __setitem__(self, key, value) -> None:
        self.register_parameter(key, value if isinstance(value, Parameter) else Parameter(value))

    def __getitem__(self, key):
        return self._parameters[key]

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self):
        return iter(self._parameters)

    def __contains__(self, key) -> bool:
        return key in self._parameters

    def keys(self):
        """Names."""
        return self._parameters.keys()

    def items(self):
        """(name, parameter) pairs."""
        return self._parameters.items()

    def values(self):
        """Parameters."""
        return self._parameters.values()
