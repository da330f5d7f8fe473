"""Gradients that an export has no place for: of tensors that were computed before it, or share memory."""

from __future__ import annotations

from torsh import _C

__all__ = ["refuse_outside", "refuse_sharing"]

_NAMELESS = "a tensor without a name"


def refuse_outside(outside: list, names: dict) -> None:
    """Raises where a gradient goes on from tensors that the function found: what was computed before the call has no
    place for one, nor has what it was computed from. `outside` lists their memory."""
    if outside:
        found = ", ".join(sorted({names.get(memory, _NAMELESS) for memory in outside}))
        raise _C.ExportError(
            "export(): include_grad=True, but a gradient leaves the function through what was computed outside of it: "
            f"{found}. Compute that in the function, for gradients of what it is made of; or let it be a tensor of its "
            "own, x.detach().clone(), with requires_grad_() if it is to have a gradient itself"
        )


def refuse_sharing(reached: list, exporter) -> None:
    """Raises where trained tensors share memory: they are one tensor of the state, which has one gradient. `reached`
    lists number and memory of the tensors that gradients are for."""
    pairs = zip(exporter.state, exporter.tensors, strict=True)
    own = {_C.tensor_id(t) for entry, t in pairs if entry["role"] == "parameter"}
    lost = [n for n, memory in reached if n not in own and ("tensor", memory) in exporter.known]
    if lost:
        handles = exporter.walk.handles
        names = {handles.get(n, _NAMELESS) for n in lost}
        found = ", ".join(sorted(names))
        hidden = (
            " A parameter of which the function reads views alone must be within its reach as well: a variable of the "
            "function, or an attribute of the module."
            if _NAMELESS in names
            else ""
        )
        raise _C.ExportError(
            "export(): include_grad=True, but there is no place for the gradient of a tensor that shares its memory "
            f"with a larger tensor or another one: {found}. Clone it before it becomes a parameter, "
            f"torsh.nn.Parameter(x.clone()).{hidden}"
        )
