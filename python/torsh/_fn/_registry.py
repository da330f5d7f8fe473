"""Functions that follow from the op registry without further code: unary and binary elementwise ops."""

from __future__ import annotations

from torsh import _C

from ._args import store, tensor_arg


def _make_unary(op: str, doc: str, name: str):
    unary = _C.unary

    def fn(input, *, out=None):
        result = unary(op, input)
        return result if out is None else store(tensor_arg(out, name, "out"), result)

    fn.__name__ = fn.__qualname__ = name
    fn.__module__ = "torsh"
    fn.__doc__ = doc
    return fn


def _make_binary(op: str, doc: str, name: str):
    binary = _C.binary

    def fn(input, other, *, out=None):
        result = binary(op, input, other)
        return result if out is None else store(tensor_arg(out, name, "out"), result)

    fn.__name__ = fn.__qualname__ = name
    fn.__module__ = "torsh"
    fn.__doc__ = doc
    return fn


def _make_inplace(op: str, name: str, is_unary: bool):
    unary_, binary_ = _C.unary_, _C.binary_
    if is_unary:

        def method(self):
            return unary_(op, self)
    else:

        def method(self, other):
            return binary_(op, self, other)

    method.__name__ = method.__qualname__ = name
    method.__module__ = "torsh"
    method.__doc__ = f"In-place form of `{name[:-1]}`."
    return method


def build():
    """Returns (functions, methods) as dicts by name."""
    functions, methods = {}, {}
    for op in _C.ops():
        surface = op["surface"]
        if surface not in ("unary", "binary"):
            continue
        make = _make_unary if surface == "unary" else _make_binary
        for name in (op["name"], *op["aliases"]):
            fn = make(op["name"], op["doc"], name)
            functions[name] = methods[name] = fn
            if op["inplace"]:
                methods[name + "_"] = _make_inplace(op["name"], name + "_", surface == "unary")
    return functions, methods
