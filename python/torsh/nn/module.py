"""`Module` and `Parameter`.

Every change of a module that a compiled function could depend on (a scalar attribute, `training`, a
submodule, a parameter put in the place of another) moves the process-wide `_C.module_epoch` on, so that
`torsh.compile` checks all modules with one comparison.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator

from torsh import _C

Tensor = _C.Tensor


class Parameter(Tensor):
    """A tensor that a Module lists among its parameters; requires gradients by default.

    >>> torsh.nn.Parameter(torsh.zeros(2)).requires_grad
    True
    """

    def __new__(cls, data=None, requires_grad: bool = True):
        if data is None:
            data = _C.full([0], 0.0, _C.float32, None)
        if not isinstance(data, Tensor):
            raise TypeError(f"Parameter(): data must be Tensor, not {type(data).__name__}")
        if requires_grad and not data.dtype.is_floating_point:
            raise RuntimeError("Only Tensors of floating point dtype can require gradients")
        return super().__new__(cls, data.detach(), requires_grad=requires_grad)

    def __init__(self, data=None, requires_grad: bool = True):
        pass

    def __repr__(self) -> str:
        return "Parameter containing:\n" + Tensor.__repr__(self)


class Buffer:
    """Marks a tensor assigned to a module as a buffer: `self.mean = Buffer(torsh.zeros(3))`."""

    def __init__(self, data: Tensor, persistent: bool = True):
        self.data, self.persistent = data, persistent


_IncompatibleKeys = namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])


def _telling(plain):
    @functools.wraps(plain)
    def change(self, *args, **kwargs):
        try:
            return plain(self, *args, **kwargs)
        finally:
            _C.bump_module_epoch()

    return change


def _tells(cls):
    """Lets programs know of each change to a dict of this class: they look at modules only after one."""
    for name in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
        setattr(cls, name, _telling(getattr(cls, name)))
    return cls


@_tells
class _Table(dict):
    """Parameters, buffers or children of a module by name."""

    __slots__ = ()


@_tells
class _Hooks(OrderedDict):
    """Hooks of a module."""


class _Handle:
    def __init__(self, hooks: dict, key: int):
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        """Takes the hook out."""
        self._hooks.pop(self._key, None)
        _C.bump_module_epoch()


class Module:
    """Base of all layers: assign Parameters, Modules and buffers as attributes, define `forward`.

    >>> class Twice(torsh.nn.Module):
    ...     def forward(self, x):
    ...         return x * 2
    >>> Twice()(torsh.tensor([1.0])).tolist()
    [2.0]
    """

    training: bool
    _parameters: dict
    _buffers: dict
    _modules: dict

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        # Set before __init__, so that a subclass that forgets super().__init__() still works.
        d = self.__dict__
        d["training"] = True
        d["_parameters"], d["_buffers"], d["_modules"] = _Table(), _Table(), _Table()
        d["_non_persistent"] = set()
        d["_forward_hooks"], d["_forward_pre_hooks"] = _Hooks(), _Hooks()
        return self

    def __init__(self) -> None:
        pass

    def forward(self, *args, **kwargs):
        """What the module computes; every subclass defines it."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args, **kwargs):
        for hook in tuple(self._forward_pre_hooks.values()):
            result = hook(self, args)
            if result is not None:
                args = result if isinstance(result, tuple) else (result,)
        out = self.forward(*args, **kwargs)
        for hook in tuple(self._forward_hooks.values()):
            result = hook(self, args, out)
            if result is not None:
                out = result
        return out

    # -- attributes ----------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value) -> None:
        d = self.__dict__
        if isinstance(value, Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            d.pop(name, None)
            d["_parameters"].pop(name, None)
            d["_buffers"].pop(name, None)
            d["_modules"][name] = value
        elif isinstance(value, Buffer):
            self.register_buffer(name, value.data, value.persistent)
        elif name in d["_parameters"]:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as parameter '{name}' (torsh.nn.Parameter or None "
                    "expected)"
                )
            d["_parameters"][name] = None
        elif name in d["_modules"]:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as child module '{name}' (torsh.nn.Module or None "
                    "expected)"
                )
            d["_modules"][name] = None
        elif name in d["_buffers"]:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' object to buffer '{name}' (torsh Tensor or None required)"
                )
            d["_buffers"][name] = value
        else:
            object.__setattr__(self, name, value)
        _C.bump_module_epoch()

    def __getattr__(self, name: str):
        d = self.__dict__
        for table in ("_parameters", "_buffers", "_modules"):
            t = d.get(table)
            if t is not None and name in t:
                return t[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._non_persistent.discard(name)
                break
        else:
            object.__delattr__(self, name)
        _C.bump_module_epoch()

    def __dir__(self):
        return sorted({*object.__dir__(self), *self._parameters, *self._buffers, *self._modules})

    def _check_name(self, name: str, what: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {type(name).__name__}")
        if "." in name or name == "":
            raise KeyError(f'{what} name can\'t be empty or contain ".", got {name!r}')
        if (
            hasattr(self, name)
            and name not in self._parameters
            and name not in self._buffers
            and name not in self._modules
        ):
            if name in self.__dict__:
                del self.__dict__[name]
            else:
                raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param) -> None:
        """Adds a Parameter (or None) under a name."""
        self._check_name(name, "parameter")
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' (torsh.nn.Parameter or None "
                "required)"
            )
        self._buffers.pop(name, None)
        self._modules.pop(name, None)
        self._parameters[name] = param
        _C.bump_module_epoch()

    def register_buffer(self, name: str, tensor, persistent: bool = True) -> None:
        """Adds a tensor that is state but not trained; a persistent one is part of the state dict."""
        self._check_name(name, "buffer")
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (torsh Tensor or None required)"
            )
        self._parameters.pop(name, None)
        self._modules.pop(name, None)
        self._buffers[name] = tensor
        (self._non_persistent.discard if persistent else self._non_persistent.add)(name)
        _C.bump_module_epoch()

    def add_module(self, name: str, module) -> None:
        """Adds a child module under a name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name(name, "module")
        self._modules[name] = module
        _C.bump_module_epoch()

    register_module = add_module

    def register_forward_hook(self, hook: Callable) -> _Handle:
        """Calls `hook(module, args, output)` after forward; a result that is not None replaces the output."""
        handle = _Handle(self._forward_hooks, id(hook) ^ len(self._forward_hooks) << 48)
        self._forward_hooks[handle._key] = hook
        _C.bump_module_epoch()
        return handle

    def register_forward_pre_hook(self, hook: Callable) -> _Handle:
        """Calls `hook(module, args)` before forward; a result that is not None replaces the arguments."""
        handle = _Handle(self._forward_pre_hooks, id(hook) ^ len(self._forward_pre_hooks) << 48)
        self._forward_pre_hooks[handle._key] = hook
        _C.bump_module_epoch()
        return handle

    # -- traversal -----------------------------------------------------------------------------------------

    def named_modules(self, memo=None, prefix: str = "", remove_duplicate: bool = True) -> Iterator:
        """(name, module) of this module and all below, each once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child.named_modules(memo, prefix + ("." if prefix else "") + name, remove_duplicate)

    def modules(self) -> Iterator:
        """This module and all below."""
        return (m for _, m in self.named_modules())

    def named_children(self) -> Iterator:
        """(name, module) of the direct children, each once."""
        seen = set()
        for name, child in self._modules.items():
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator:
        """The direct children."""
        return (m for _, m in self.named_children())

    def _named(self, table: str, prefix: str, recurse: bool, remove_duplicate: bool = True) -> Iterator:
        seen = set()
        for path, m in self.named_modules(prefix=prefix) if recurse else [(prefix, self)]:
            for name, value in getattr(m, table).items():
                if value is None or (remove_duplicate and id(value) in seen):
                    continue
                seen.add(id(value))
                yield path + ("." if path else "") + name, value

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator:
        """(name, parameter), each parameter once."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator:
        """All parameters, each once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator:
        """(name, buffer), each buffer once."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator:
        """All buffers, each once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path."""
        m = self
        for part in target.split(".") if target else []:
            child = m._modules.get(part)
            if child is None:
                raise AttributeError(f"{type(m).__name__} has no submodule '{part}' (in '{target}')")
            m = child
        return m

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path."""
        path, _, name = target.rpartition(".")
        p = self.get_submodule(path)._parameters.get(name)
        if p is None:
            raise AttributeError(f"{type(self).__name__} has no parameter '{target}'")
        return p

    # -- modes and conversions -----------------------------------------------------------------------------

    def train(self, mode: bool = True):
        """Sets `training` here and below; returns the module."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for m in self.modules():
            m.training = mode
        return self

    def eval(self):
        """`train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True):
        """Switches gradients of all parameters."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops (or zeroes) the gradients of all parameters."""
        for p in self.parameters():
            if p.grad is not None:
                if set_to_none:
                    p.grad = None
                else:
                    p.grad = p.grad.detach() * 0

    def apply(self, fn: Callable):
        """Calls `fn` on every module below and on this one; returns the module."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def _convert(self, fn: Callable):
        for m in self.modules():
            for p in m._parameters.values():
                if p is not None:
                    p.data = fn(p.detach())
                    if p.grad is not None:
                        p.grad = fn(p.grad.detach())
            for name, b in m._buffers.items():
                if b is not None:
                    m._buffers[name] = fn(b)
        _C.bump_module_epoch()
        return self

    def to(self, *args, **kwargs):
        """Moves and converts parameters and buffers; a dtype applies to float tensors only. Gradients go with them.

        Raises: DeviceError for a device that is not there; nothing has moved then.
        """
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        kwargs.pop("non_blocking", None)
        if kwargs:
            raise TypeError(f"to() got an unexpected keyword argument '{next(iter(kwargs))}'")
        for a in args:
            if isinstance(a, Tensor):
                device, dtype = a.device, a.dtype
            elif isinstance(a, _C.PyDType):
                dtype = a
            elif isinstance(a, _C.PyDevice):
                device = a
            elif isinstance(a, str):
                try:
                    dtype = _C.PyDType(a)
                except ValueError:
                    device = a
            elif isinstance(a, int) and not isinstance(a, bool):
                device = a
        if device is not None:
            device = _C.resolve_device(device)
            _C.open_device(device)
        if dtype is not None:
            dtype = _C.PyDType(dtype)
            if not dtype.is_floating_point:
                raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got desired dtype={dtype.name}")
        return self._convert(lambda t: t.to(device=device, dtype=dtype if t.dtype.is_floating_point else None))

    def float(self):
        """Float tensors to float32."""
        return self.to(_C.float32)

    def double(self):
        """Float tensors to float64."""
        return self.to(_C.float64)

    def half(self):
        """Float tensors to float16."""
        return self.to(_C.float16)

    def bfloat16(self):
        """Float tensors to bfloat16."""
        return self.to(_C.bfloat16)

    def cpu(self):
        """All tensors to the CPU."""
        return self.to(device="cpu")

    def cuda(self, device=None):
        """All tensors to a CUDA device; DeviceError where there is none."""
        device = _C.PyDevice("cuda" if device is None else device)
        if device.type != "cuda":
            raise RuntimeError(f"Invalid device, must be cuda device, got {device}")
        return self.to(device=device)

    # -- state ---------------------------------------------------------------------------------------------

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> dict:
        """Parameters and persistent buffers by dotted name; detached unless `keep_vars`.

        >>> sorted(torsh.nn.Linear(2, 2).state_dict())
        ['bias', 'weight']
        """
        out = OrderedDict()
        for path, m in self.named_modules(prefix=prefix.rstrip("."), remove_duplicate=False):
            dot = path + "." if path else ""
            for name, p in m._parameters.items():
                if p is not None:
                    out[dot + name] = p if keep_vars else p.detach()
            for name, b in m._buffers.items():
                if b is not None and name not in m._non_persistent:
                    out[dot + name] = b if keep_vars else b.detach()
        return out

    def load_state_dict(self, state_dict: dict, strict: bool = True, assign: bool = False):
        """Copies tensors by name; nothing is changed when anything does not fit.

        Raises: RuntimeError listing missing and unexpected names (when strict) and shapes that differ.
        """
        if not hasattr(state_dict, "keys"):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict).__name__}.")
        own = self.state_dict(keep_vars=True)
        missing = [k for k in own if k not in state_dict]
        unexpected = [k for k in state_dict if k not in own]
        errors = []
        if strict and missing:
            errors.append("Missing key(s) in state_dict: " + ", ".join(f'"{k}"' for k in missing) + ".")
        if strict and unexpected:
            errors.append("Unexpected key(s) in state_dict: " + ", ".join(f'"{k}"' for k in unexpected) + ".")
        pairs = []
        for key, mine in own.items():
            if key not in state_dict:
                continue
            new = state_dict[key]
            if not isinstance(new, Tensor):
                errors.append(f'"{key}" is a {type(new).__name__}, expected a Tensor.')
            elif new.shape != mine.shape:
                errors.append(
                    f"size mismatch for {key}: copying a param with shape {list(new.shape)}, the shape in current "
                    f"model is {list(mine.shape)}."
                )
            else:
                pairs.append((mine, new))
        if errors:
            raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors))
        for mine, new in pairs:
            new = new.detach()
            mine.data = new if assign else _C.to_device(_C.clone(_C.cast(new, mine.dtype)), mine.device)
        return _IncompatibleKeys(missing, unexpected)

    # -- text ----------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Arguments to show in the repr."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        lines = []
        for name, child in self._modules.items():
            text = repr(child).split("\n")
            lines.append(f"({name}): " + "\n  ".join(text))
        extra = self.extra_repr()
        if not lines:
            return f"{self._get_name()}({extra})"
        head = f"{self._get_name()}(" + (extra + "\n" if extra else "\n")
        return head + "".join(f"  {line}\n" for line in lines) + ")"

    def __deepcopy__(self, memo):
        from copy import deepcopy

        new = type(self).__new__(type(self))
        memo[id(self)] = new
        for key, value in self.__dict__.items():
            new.__dict__[key] = deepcopy(value, memo)
        return new
