"""What a workload is. One program written for each peer, with its inputs, its meaning in float64 and its cost."""

from __future__ import annotations


class Workload:
    """A function of arrays.

    `bytes` is the least traffic (inputs read once, outputs written once), `flops` counts each elementwise
    operation as one, a transcendental as ten and a multiply-add as two. `reads` says that reading dominates, so
    that the limit is the bandwidth of reads.
    """

    kind = "call"
    tolerance = 2e-4  # of the largest absolute value of each result
    reads = False

    def __init__(self, name: str, *, bytes: float, flops: float, array: float):
        self.name, self.bytes, self.flops = name, int(bytes), int(flops)
        self.array = int(array)  # bytes of the largest array

    def inputs(self, np, rng) -> list:
        """Arrays, float32 unless they are indices."""
        raise NotImplementedError

    def reference(self, np, *arrays):
        """The result in float64; `arrays` are converted already."""
        raise NotImplementedError

    def numpy(self, np, arrays):
        """(function, arguments), or None where NumPy makes no sense."""
        return None

    def torch(self, lib, arrays, peer: str):
        """(function, arguments) for a library with PyTorch's interface; `peer` tells which one.

        Raises `Unsupported` when the library lacks what is needed."""
        raise NotImplementedError

    def jax(self, jax, arrays):
        """(function, arguments) in plain jax; the function is compiled by the caller."""
        raise NotImplementedError


class Step(Workload):
    """A training step: the call runs one whole step, updates the parameters and returns the loss.

    All peers start from the same parameters and data, so their losses agree.
    """

    kind = "step"
    tolerance = 2e-3  # of the first losses
    checked_steps = 4

    def reference(self, np, *arrays):
        """A function that runs one step in float64 and returns the loss, or None: peers are then compared with
        each other."""
        return None


class Unsupported(Exception):
    """This version of the peer cannot run the workload."""


def need(module, *names: str) -> None:
    """Raises `Unsupported` with the first name that the module lacks."""
    for name in names:
        if not hasattr(module, name):
            raise Unsupported(f"{module.__name__} has no {name} yet")


def normal(np, rng, *shape, scale: float = 1.0):
    """Standard normal float32, made without a float64 copy."""
    out = rng.standard_normal(shape, dtype=np.float32)
    if scale != 1.0:
        out *= np.float32(scale)
    return out
