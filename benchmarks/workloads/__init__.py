"""The registry of workloads, one module a family."""

from __future__ import annotations

from benchmarks.workloads import attention, conv, elementwise, gpt, matmul, mlp, rows
from benchmarks.workloads.base import Step, Unsupported, Workload

__all__ = ["WORKLOADS", "Step", "Unsupported", "Workload", "get", "register"]

WORKLOADS: dict[str, Workload] = {}


def register(workload: Workload) -> None:
    """Adds a workload; a name is taken once."""
    if workload.name in WORKLOADS:
        raise ValueError(f"workload {workload.name!r} is registered twice")
    WORKLOADS[workload.name] = workload


for _family in (elementwise, rows, matmul, attention, mlp, gpt, conv):
    for _workload in _family.workloads():
        register(_workload)


def get(name: str) -> Workload:
    """The workload of a name; ValueError lists the names there are."""
    try:
        return WORKLOADS[name]
    except KeyError:
        raise ValueError(f"unknown workload {name!r}; there are: {', '.join(WORKLOADS)}") from None
