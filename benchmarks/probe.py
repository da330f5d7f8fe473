"""Small measurements that need a process of their own: `python -m benchmarks.probe WHAT [PEER]` prints JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time

# Programs of four ops, each with another structure, so that none is answered from a cache.
_FOUR_OPS = (
    lambda x, y, tanh: tanh(x * y + x) - y,
    lambda x, y, tanh: tanh(x - y) * y + x,
    lambda x, y, tanh: (tanh(x) + y) * x - y,
    lambda x, y, tanh: x * x + tanh(y - x),
    lambda x, y, tanh: (x + y) * (x - tanh(y)),
    lambda x, y, tanh: tanh(x * x - y) + x,
    lambda x, y, tanh: tanh(tanh(x) * y) + y,
)


def kernels(peer: str) -> dict:
    """Milliseconds of the first call of the first program in the process, and the median of further ones."""
    if peer == "jax":
        import jax

        jit, array, tanh, wait = jax.jit, jax.numpy.asarray, jax.numpy.tanh, jax.block_until_ready
    else:
        import importlib

        lib = importlib.import_module(peer.split("-")[0])
        jit, array, tanh, wait = lib.compile, lib.tensor, lib.tanh, lambda r: r
    x, y = array([0.25] * 1024), array([0.5] * 1024)
    times = []
    for fn in _FOUR_OPS:
        start = time.perf_counter()
        wait(jit(lambda x, y, fn=fn: fn(x, y, tanh))(x, y))
        times.append((time.perf_counter() - start) * 1e3)
    return {"first": times[0], "further": statistics.median(times[1:])}


def memory(module: str) -> dict:
    """Resident MB after an import (of nothing for an empty name)."""
    if module:
        __import__(module)
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return {"mb": int(line.split()[1]) / 1024}
    raise SystemExit("no /proc/self/status here")


def _grow(lib, x, y, nodes: int):
    """About `nodes` ops: cheap and transcendental ones, with a reduction in every tenth."""
    for i in range(nodes // 10):
        x = x * 0.9 + y
        x = x.tanh() - 0.1
        x = (x * x + y).sqrt() + 0.5
        x = x - x.mean() if i % 2 else x - x.amax()
        x = x.abs()
    return x


def growth(nodes: str) -> dict:
    """Seconds of the first call of a compiled function with so many ops."""
    import torsh

    count = int(nodes)
    x, y = torsh.linspace(0.1, 0.9, 64), torsh.linspace(0.2, 0.8, 64)
    torsh.compile(lambda x, y: x * y)(x, y)
    fn = torsh.compile(lambda x, y: _grow(torsh, x, y, count))
    start = time.perf_counter()
    fn(x, y)
    return {"s": time.perf_counter() - start}


def trace() -> dict:
    """Microseconds per op, from Python, to record ops without evaluating them."""
    import torsh

    x, y, best = torsh.ones(16), torsh.ones(16), float("inf")
    for _ in range(20):
        z, start = x, time.perf_counter()
        for _ in range(250):
            z = z * y
            z = z + x
        best = min(best, (time.perf_counter() - start) / 500 * 1e6)
        del z
    return {"us": best}


def main() -> None:
    """Runs one probe."""
    what, *args = sys.argv[1:]
    result = {"kernels": kernels, "memory": memory, "growth": growth, "trace": trace}[what](*args)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
