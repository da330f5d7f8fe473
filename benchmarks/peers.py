"""Who is measured: how each peer is set up, and how it runs a workload as its users would.

A peer is a class with the interface of `Peer`. Besides the ones listed, `module:Class` names one from elsewhere.
"""

from __future__ import annotations

import importlib
import importlib.util

from benchmarks.workloads.base import Unsupported, Workload

# Variables that choose other code paths in a peer's libraries, or slow them down.
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "TORSH_SCHEDULE", "TORSH_FUSION", "TORSH_ISA", "TORSH_INTERPRET")


def environment(base: dict, threads: int, cache: str) -> dict:
    """The variables that all peers share: equal threads, no spinning, caches of compiled code in `cache`."""
    env = {k: v for k, v in base.items() if k not in _UNSET and not k.startswith("TORSH_DUMP")}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC", "TORSH_THREADS"):
        env[name] = str(threads)
    env["OMP_WAIT_POLICY"] = "passive"
    env["JAX_PLATFORMS"] = "cpu"
    env["TORCHINDUCTOR_CACHE_DIR"] = f"{cache}/inductor"
    # Compile within the process: workers that import torch cost more than they save for a single program.
    env["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if threads == 1:
        env["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return env


class Peer:
    """One way of running a program."""

    name = ""
    package = ""
    env: dict = {}
    ours = False

    def missing(self) -> str | None:
        """Why the peer cannot run at all."""
        return None if importlib.util.find_spec(self.package) else f"{self.package} is not installed"

    def prepare(self, threads: int) -> None:
        """Imports the library and sets its threads."""

    def array(self, a):
        """The peer's tensor of a NumPy array."""
        return a

    def bind(self, workload: Workload, arrays):
        """A function without arguments that runs the workload to its end."""
        raise NotImplementedError

    def numpy(self, result):
        """A NumPy array of a result."""
        return result


class Numpy(Peer):
    """NumPy, op by op."""

    name = package = "numpy"

    def bind(self, workload, arrays):
        import numpy as np

        made = workload.numpy(np, arrays)
        if made is None:
            raise Unsupported("not written in NumPy")
        fn, args = made
        return lambda: fn(*args)


class Torch(Peer):
    """PyTorch, eager."""

    name = package = "torch"

    def prepare(self, threads):
        import torch

        self.lib = torch
        torch.set_num_threads(threads)

    def array(self, a):
        return self.lib.from_numpy(a)

    def bind(self, workload, arrays):
        self.lib.set_grad_enabled(workload.kind == "step" or workload.name == "cross-entropy")
        fn, args = workload.torch(self.lib, arrays, self.name)
        return self.call(workload, fn, args)

    def call(self, workload, fn, args):
        """A step's loss is read on every call, by all peers."""
        if workload.kind == "step":
            return lambda: fn(*args).item()
        return lambda: fn(*args)

    def numpy(self, result):
        return result.numpy()


class TorchCompile(Torch):
    """torch.compile with its defaults."""

    name = "torch-compile"

    def call(self, workload, fn, args):
        if not getattr(fn, "compiled", False):
            fn = self.lib.compile(fn)
        return super().call(workload, fn, args)


class Jax(Peer):
    """jax.jit."""

    name = package = "jax"

    def prepare(self, threads):
        import jax

        self.lib = jax

    def array(self, a):
        return self.lib.numpy.asarray(a)

    def bind(self, workload, arrays):
        fn, args = workload.jax(self.lib, arrays)
        if not getattr(fn, "compiled", False):
            fn = self.lib.jit(fn)
        if workload.kind == "step":
            return lambda: fn(*args).item()
        wait = self.lib.block_until_ready
        return lambda: wait(fn(*args))

    def numpy(self, result):
        import numpy as np

        return np.asarray(result)


class Torsh(Torch):
    """torsh.compile."""

    name, package, ours = "torsh", "torsh", True

    def prepare(self, threads):
        import torsh

        self.lib = torsh
        torsh.set_num_threads(threads)

    def bind(self, workload, arrays):
        fn, args = workload.torch(self.lib, arrays, self.name)
        return self.call(workload, fn, args)

    def call(self, workload, fn, args):
        fn = self.lib.compile(fn)
        return super().call(workload, fn, args)


class TorshLazy(Torsh):
    """torsh without compile: every call builds the graph and evaluates it."""

    name = "torsh-lazy"

    def call(self, workload, fn, args):
        if workload.kind == "step":
            return lambda: fn(*args).item()
        evaluate = self.lib.eval

        def call():
            result = fn(*args)
            if isinstance(result, tuple):
                evaluate(*result)
            else:
                evaluate(result)
            return result

        return call


class TorshUnfused(Torsh):
    """torsh.compile with one kernel for each op."""

    name = "torsh-unfused"
    env = {"TORSH_FUSION": "0"}


PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (Torsh(), TorshLazy(), TorshUnfused(), Numpy(), Torch(), TorchCompile(), Jax())
}
RIVALS = ("numpy", "torch", "torch-compile", "jax")


def get(name: str) -> Peer:
    """The peer of a name, or of `module:Class`."""
    if name in PEERS:
        return PEERS[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"unknown peer {name!r}; there are: {', '.join(PEERS)}, or module:Class")
    peer = getattr(importlib.import_module(module), attribute)()
    peer.name = name
    return peer
