"""Export and load of programs: the forward pass of the MLP (784-512-512-10, batch 64) for torsh, jax.export and
AOTInductor, and the whole GPT training step for torsh. A file is written in one process and read in a fresh one.

`python -m benchmarks.exporting write|read PEER PROGRAM PATH` prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

_SIZES = ((784, 512), (512, 512), (512, 10))
_BATCH = 64


def _arrays():
    import numpy as np

    rng = np.random.default_rng(0)
    weights = [(rng.standard_normal(s, dtype=np.float32) * 0.05, np.zeros(s[1], np.float32)) for s in _SIZES]
    return rng.standard_normal((_BATCH, 784), dtype=np.float32), weights


def _torsh(program: str):
    """(function, arguments)."""
    import numpy as np

    import torsh

    if program == "gpt":
        from benchmarks import workloads

        workload = workloads.get("gpt")
        arrays = [torsh.from_numpy(a) for a in workload.inputs(np, np.random.default_rng(0))]
        return workload.torch(torsh, arrays, "torsh")
    x, weights = _arrays()
    layers = [(torsh.from_numpy(w), torsh.from_numpy(b)) for w, b in weights]

    def forward(x):
        for w, b in layers[:-1]:
            x = torsh.relu(x @ w + b)
        return x @ layers[-1][0] + layers[-1][1]

    return forward, [torsh.from_numpy(x)]


def _jax():
    import jax

    x, weights = _arrays()

    def forward(weights, x):
        for w, b in weights[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ weights[-1][0] + weights[-1][1]

    put = lambda a: jax.device_put(a)  # noqa: E731
    return jax.jit(forward), ([(put(w), put(b)) for w, b in weights], put(x))


def _torch():
    import torch

    x, weights = _arrays()

    class Forward(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ParameterList([torch.from_numpy(a) for layer in weights for a in layer])

        def forward(self, x):
            for i in range(0, len(self.layers) - 2, 2):
                x = torch.relu(x @ self.layers[i] + self.layers[i + 1])
            return x @ self.layers[-2] + self.layers[-1]

    return Forward().eval(), torch.from_numpy(x)


def write(peer: str, program: str, path: str) -> dict:
    """Milliseconds of an export after the program has been compiled, and bytes of the file beyond the weights.

    AOTInductor compiles while it exports.
    """
    if peer == "jax":
        import jax
        import jax.export

        fn, args = _jax()
        jax.block_until_ready(fn(*args))
        start = time.perf_counter()
        data = jax.export.export(fn)(*args).serialize()
        with open(path, "wb") as file:
            file.write(data)
        return {"ms": (time.perf_counter() - start) * 1e3, "bytes": len(data)}
    if peer == "torch-compile":
        import torch

        model, x = _torch()
        with torch.no_grad():
            start = time.perf_counter()
            torch._inductor.aoti_compile_and_package(torch.export.export(model, (x,)), package_path=f"{path}.pt2")
            took = (time.perf_counter() - start) * 1e3
        held = sum(p.numel() * p.element_size() for p in model.parameters())
        return {"ms": took, "bytes": os.path.getsize(f"{path}.pt2") - held}
    import torsh

    fn, args = _torsh(program)
    torsh.eval(torsh.compile(fn)(*args))
    start = time.perf_counter()
    size = torsh.export(fn, tuple(args), path)
    took = (time.perf_counter() - start) * 1e3
    state = torsh.load(path).manifest["state"]
    width = {"float32": 4, "float64": 8, "int64": 8}
    held = 0
    for s in state:
        count = 1
        for d in s["shape"]:
            count *= d
        held += count * width[s["dtype"]]
    return {"ms": took, "bytes": size - held}


def read(peer: str, program: str, path: str) -> dict:
    """Milliseconds from the file to the first result, imports and arguments excluded."""
    if peer == "jax":
        import jax
        import jax.export

        _, args = _jax()
        jax.block_until_ready(args)
        start = time.perf_counter()
        with open(path, "rb") as file:
            exported = jax.export.deserialize(file.read())
        jax.block_until_ready(exported.call(*args))
        return {"ms": (time.perf_counter() - start) * 1e3}
    if peer == "torch-compile":
        import torch

        _, x = _torch()
        with torch.no_grad():
            start = time.perf_counter()
            torch._inductor.aoti_load_package(f"{path}.pt2")(x)
            return {"ms": (time.perf_counter() - start) * 1e3}
    import torsh

    _, args = _torsh(program)
    torsh.eval(*args)
    start = time.perf_counter()
    torsh.eval(torsh.load(path)(*args))
    return {"ms": (time.perf_counter() - start) * 1e3}


def main() -> None:
    """Runs one measurement."""
    what, peer, program, path = sys.argv[1:]
    print(json.dumps({"write": write, "read": read}[what](peer, program, path)))


if __name__ == "__main__":
    if sys.argv[2] == "jax":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
