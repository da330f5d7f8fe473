"""Gradients of functions: `torsh.func.grad`, `value_and_grad`, `vjp`, `functional_call`.

>>> torsh.func.grad(lambda x: (x * x * x).sum())(torsh.tensor([2.0])).tolist()
[12.0]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from torsh import _C
from torsh import autograd as _autograd

__all__ = ["functional_call", "grad", "grad_and_value", "value_and_grad", "vjp"]

Tensor = _C.Tensor


def _leaves(tree, out: list, fn: str) -> list:
    if isinstance(tree, Tensor):
        out.append(tree)
    elif isinstance(tree, dict):
        for v in tree.values():
            _leaves(v, out, fn)
    elif isinstance(tree, (list, tuple)):
        for v in tree:
            _leaves(v, out, fn)
    else:
        raise TypeError(f"{fn}(): expected Tensors (or dicts, lists, tuples of them), got {type(tree).__name__}")
    return out


def _rebuild(tree, leaves):
    if isinstance(tree, Tensor):
        return next(leaves)
    if isinstance(tree, dict):
        return {k: _rebuild(v, leaves) for k, v in tree.items()}
    items = [_rebuild(v, leaves) for v in tree]
    return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)


def _variable(x: Tensor, fn: str) -> Tensor:
    if not x.dtype.is_floating_point:
        raise _C.DTypeError(
            f"{fn}(): can only differentiate with respect to floating point tensors, got {x.dtype.name}"
        )
    return _C.clone(x) if x.requires_grad else _C.clone(x).requires_grad_()


def value_and_grad(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """A function that returns (value, gradient) of a scalar function with respect to one or several arguments, which
    are tensors or dicts, lists, tuples of tensors. With `has_aux`, `func` returns (value, aux), and the result is
    ((value, aux), gradient).

    Gradients carry a graph of their own only where a differentiated argument requires grad itself, so `grad(grad(f))`
    works.

    Raises: RuntimeError when the value is not a 0-d tensor, IndexError for an argument number that is not there.

    >>> v, g = torsh.func.value_and_grad(lambda x: (x * x).sum())(torsh.tensor([3.0]))
    >>> v.item(), g.tolist()
    (9.0, [6.0])
    """
    single = not isinstance(argnums, tuple)
    nums = (argnums,) if single else argnums
    if not nums or any(isinstance(n, bool) or not isinstance(n, int) for n in nums):
        raise TypeError(f"value_and_grad(): argnums must be an int or a tuple of ints, got {argnums!r}")

    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        for n in nums:
            if not -len(args) <= n < len(args):
                raise IndexError(f"value_and_grad(): argument {n} of {len(args)} positional arguments does not exist")
        chosen = [n % len(args) for n in nums]
        trees = [args[n] for n in chosen]
        given = _leaves(trees, [], "value_and_grad")
        outer = any(x.requires_grad for x in given)
        with _autograd.enable_grad():
            variables = [_variable(x, "value_and_grad") for x in given]
            new = list(args)
            for n, tree in zip(chosen, _rebuild(trees, iter(variables)), strict=True):
                new[n] = tree
            out = func(*new, **kwargs)
            value, aux = out if has_aux else (out, None)
            if not isinstance(value, Tensor) or value.ndim != 0:
                what = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise RuntimeError(f"value_and_grad(): expected the function to return a scalar tensor, got {what}")
            found: tuple[Any, ...]
            if value.requires_grad:
                found = _autograd.grad(value, variables, create_graph=outer, allow_unused=True)
            else:
                found = (None,) * len(variables)
        zero = [_C.full(list(x.shape), 0, x.dtype, x.device) for x in given]
        grads = [z if g is None else g if outer else g.detach() for g, z in zip(found, zero, strict=True)]
        if not outer:
            value, aux = value.detach(), _detached(aux)
        tree = _rebuild(trees, iter(grads))
        return ((value, aux) if has_aux else value), (tree[0] if single else tuple(tree))

    return wrapper


def _detached(aux):
    if isinstance(aux, Tensor):
        return aux.detach()
    if isinstance(aux, dict):
        return {k: _detached(v) for k, v in aux.items()}
    if type(aux) in (list, tuple):
        return type(aux)(_detached(v) for v in aux)
    return aux


def grad_and_value(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """`value_and_grad` with the results in PyTorch's order: (gradient, value)."""
    both = value_and_grad(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        value, g = both(*args, **kwargs)
        return g, value

    return wrapper


def grad(func: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """A function that returns the gradient of a scalar function, see `value_and_grad`; with `has_aux`,
    (gradient, aux).

    >>> second = torsh.func.grad(torsh.func.grad(lambda x: x**3))
    >>> second(torsh.tensor(2.0)).item()
    12.0
    """
    both = value_and_grad(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        value, g = both(*args, **kwargs)
        return (g, value[1]) if has_aux else g

    return wrapper


def vjp(func: Callable, *primals, has_aux: bool = False):
    """(output, vjp_fn) or (output, vjp_fn, aux): `vjp_fn(cotangent)` gives the vector-Jacobian products with respect to
    the primals, one alone or a tuple of them.

    >>> out, pull = torsh.func.vjp(lambda x: x * x, torsh.tensor([1.0, 2.0]))
    >>> pull(torsh.tensor([1.0, 10.0]))[0].tolist()
    [2.0, 40.0]
    """
    given = _leaves(primals, [], "vjp")
    with _autograd.enable_grad():
        variables = [_variable(x, "vjp") for x in given]
        out = func(*_rebuild(primals, iter(variables)))
    out, aux = out if has_aux else (out, None)
    outs = _leaves(out, [], "vjp")

    def pull(*cotangents):
        tree = cotangents[0] if len(cotangents) == 1 else cotangents
        cts = _leaves(tree, [], "vjp")
        if len(cts) != len(outs):
            raise RuntimeError(f"vjp(): expected {len(outs)} cotangents, one for each output, got {len(cts)}")
        pairs = [(o, c) for o, c in zip(outs, cts, strict=True) if o.requires_grad]
        found: tuple[Any, ...] = (None,) * len(variables)
        if pairs:
            ys, gs = zip(*pairs, strict=True)
            found = _autograd.grad(
                ys, variables, gs, retain_graph=True, create_graph=_C.is_grad_enabled(), allow_unused=True
            )
        zero = [_C.full(list(x.shape), 0, x.dtype, x.device) for x in given]
        return _rebuild(primals, iter([z if g is None else g for g, z in zip(found, zero, strict=True)]))

    return (out, pull, aux) if has_aux else (out, pull)


@contextmanager
def _swapped(module, tensors: dict[str, Tensor]):
    slots = []
    for m in module.modules():
        for table in (m._parameters, m._buffers):
            slots.extend((table, name, old) for name, old in table.items() if old is not None)
    own = {}
    for path, m in module.named_modules(remove_duplicate=False):
        for table in (m._parameters, m._buffers):
            own.update({f"{path}.{name}" if path else name: old for name, old in table.items() if old is not None})
    # A tensor that the module holds in several places is replaced in all of them.
    new = {id(own[name]): value for name, value in tensors.items()}
    changed = [(table, name, old) for table, name, old in slots if id(old) in new]
    try:
        for table, name, old in changed:
            table[name] = new[id(old)]
        _C.bump_module_epoch()
        yield
    finally:
        for table, name, old in changed:
            table[name] = old
        _C.bump_module_epoch()


def functional_call(module, parameter_and_buffer_dicts, args=None, kwargs=None, *, strict: bool = False):
    """Calls a module with tensors in place of its parameters and buffers, by dotted name; the module is unchanged
    afterwards. `strict` demands a tensor for every name.

    Raises: RuntimeError for a name that the module does not have.

    >>> m = torsh.nn.Linear(2, 1)
    >>> p = {"weight": torsh.ones(1, 2), "bias": torsh.zeros(1)}
    >>> torsh.func.functional_call(m, p, (torsh.tensor([3.0, 4.0]),)).tolist()
    [7.0]
    """
    dicts = parameter_and_buffer_dicts
    tensors: dict[str, Tensor] = {}
    for d in (dicts,) if isinstance(dicts, dict) else tuple(dicts):
        for name, value in d.items():
            if name in tensors:
                raise ValueError(f"functional_call(): {name!r} appears in more than one dict")
            if not isinstance(value, Tensor):
                raise TypeError(f"functional_call(): {name!r} must be a Tensor, not {type(value).__name__}")
            tensors[name] = value
    known = {n for n, _ in module.named_parameters(remove_duplicate=False)} | {n for n, _ in module.named_buffers()}
    unexpected = [n for n in tensors if n not in known]
    missing = [n for n in known if n not in tensors] if strict else []
    if unexpected or missing:
        raise RuntimeError(f"functional_call(): unexpected names {unexpected}, missing names {missing}")
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    with _swapped(module, tensors):
        return module(*args, **(kwargs or {}))
