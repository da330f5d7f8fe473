"""DLPack under the names of `torch.utils.dlpack`."""

from __future__ import annotations

from torsh._fn._args import tensor_arg
from torsh._fn.creation import from_dlpack

__all__ = ["from_dlpack", "to_dlpack"]


def to_dlpack(tensor):
    """A capsule with a copy of a tensor of the CPU, for one consumer.

    >>> torsh.from_dlpack(torsh.utils.dlpack.to_dlpack(torsh.ones(2))).tolist()
    [1.0, 1.0]
    """
    return tensor_arg(tensor, "to_dlpack", "tensor").__dlpack__()
