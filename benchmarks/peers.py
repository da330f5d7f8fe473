"""The measured programs, one function a workload and peer.

Each runs in a process of its own (`python -m benchmarks.peers PEER WORKLOAD THREADS`), checks its result
against float64 NumPy before it is timed, and then answers each line on standard input with one timed round,
so that the caller can interleave the peers. Times are in microseconds per call.
"""

from __future__ import annotations

import json
import os
import sys
import time

PEERS = ("torsh", "torsh-lazy", "numpy", "torch", "torch-compile", "jax")


def _numpy_inputs(workload: str):
    import numpy as np

    rng = np.random.default_rng(0)
    if workload == "dispatch":
        return [rng.normal(size=16).astype(np.float32) for _ in range(2)]
    if workload.startswith("gelu"):
        n = int(workload.split("-")[1])
        return [rng.normal(size=n).astype(np.float32) for _ in range(4)]
    if workload.startswith(("softmax", "layernorm")):
        rows = int(workload.split("-")[1])
        return [rng.normal(size=(rows, 1024)).astype(np.float32)]
    if workload.startswith("matmul"):
        n = int(workload.split("-")[1])
        return [rng.normal(size=(n, n)).astype(np.float32) for _ in range(2)]
    raise SystemExit(f"unknown workload {workload}")


def _reference(workload: str, args):
    import numpy as np

    a = [x.astype(np.float64) for x in args]
    if workload == "dispatch":
        return a[0] * a[1] + a[0]
    if workload.startswith("gelu"):
        v = a[0] * a[1] + a[2]
        return 0.5 * v * (1 + np.tanh(0.7978845608028654 * (v + 0.044715 * v**3))) + a[3]
    if workload.startswith("softmax"):
        e = np.exp(a[0] - a[0].max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)
    if workload.startswith("layernorm"):
        return (a[0] - a[0].mean(1, keepdims=True)) / np.sqrt(a[0].var(1, keepdims=True) + 1e-5)
    return a[0] @ a[1]


def _np_fn(workload: str):
    import numpy as np

    if workload == "dispatch":
        return lambda x, y: x * y + x
    if workload.startswith("gelu"):

        def gelu(x, w, b, r):
            v = x * w + b
            return (
                np.float32(0.5) * v * (1 + np.tanh(np.float32(0.7978845608) * (v + np.float32(0.044715) * v * v * v)))
                + r
            )

        return gelu
    if workload.startswith("softmax"):

        def softmax(x):
            e = np.exp(x - x.max(1, keepdims=True))
            return e / e.sum(1, keepdims=True)

        return softmax
    if workload.startswith("layernorm"):
        return lambda x: (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + np.float32(1e-5))
    return lambda x, y: x @ y


def _torch_like(workload: str, F, module):
    if workload == "dispatch":
        return lambda x, y: x * y + x
    if workload.startswith("gelu"):
        return lambda x, w, b, r: F.gelu(x * w + b, approximate="tanh") + r
    if workload.startswith("softmax"):
        return lambda x: F.softmax(x, dim=1)
    if workload.startswith("layernorm"):
        return lambda x: F.layer_norm(x, (1024,))
    return lambda x, y: module.matmul(x, y)


def _jax_fn(workload: str):
    import jax
    import jax.numpy as jnp

    if workload == "dispatch":
        return lambda x, y: x * y + x
    if workload.startswith("gelu"):
        return lambda x, w, b, r: jax.nn.gelu(x * w + b, approximate=True) + r
    if workload.startswith("softmax"):
        return lambda x: jax.nn.softmax(x, axis=1)
    if workload.startswith("layernorm"):
        return lambda x: (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-5)
    return jnp.matmul


def _digits_data():
    import numpy as np
    from sklearn.datasets import load_digits

    d = load_digits()
    return (d.data[:128] / 16).astype(np.float32), d.target[:128].astype(np.int64)


def _digits_step(peer: str):
    """The demo's training step (64-256-256-10, GELU, cross entropy, AdamW, batch 128) for one peer."""
    import numpy as np

    x, y = _digits_data()
    if peer in ("torsh", "torsh-lazy"):
        import torsh as lib
    else:
        import torch as lib
    nn, F = lib.nn, lib.nn.functional
    lib.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 256),
        nn.GELU(approximate="tanh"),
        nn.Linear(256, 256),
        nn.GELU(approximate="tanh"),
        nn.Linear(256, 10),
    )
    opt = lib.optim.AdamW(model.parameters(), lr=2e-3)

    def step(a, b):
        loss = F.cross_entropy(model(a), b)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    a, b = lib.from_numpy(x), lib.from_numpy(y)
    fn = lib.compile(step) if peer in ("torsh", "torch-compile") else step
    start = time.perf_counter()
    first = fn(a, b).item()
    cold = time.perf_counter() - start
    if not np.isfinite(first) or not 2.0 < first < 2.7:
        raise SystemExit(f"first loss {first} is not near log(10)")
    return (lambda: fn(a, b).item()), cold


def build(peer: str, workload: str):
    """(callable that runs one call to its end, seconds of the first call)."""
    if workload == "digits":
        if peer in ("numpy", "jax"):
            raise SystemExit(f"{peer} has no digits step here")
        return _digits_step(peer)
    import numpy as np

    args = _numpy_inputs(workload)
    if peer == "numpy":
        fn, sync, ins, out = _np_fn(workload), lambda r: r, args, np.asarray
    elif peer in ("torch", "torch-compile"):
        import torch

        torch.set_grad_enabled(False)
        f = _torch_like(workload, torch.nn.functional, torch)
        fn = torch.compile(f) if peer == "torch-compile" else f
        sync, ins, out = (lambda r: r), [torch.from_numpy(a) for a in args], (lambda r: r.numpy())
    elif peer == "jax":
        import jax

        fn, sync = jax.jit(_jax_fn(workload)), lambda r: r.block_until_ready()
        ins, out = [jax.numpy.asarray(a) for a in args], np.asarray
    else:
        import torsh

        f = _torch_like(workload, torsh.nn.functional, torsh)
        fn = torsh.compile(f) if peer == "torsh" else f
        sync = (lambda r: r) if peer == "torsh" else (lambda r: torsh.eval(r))
        ins, out = [torsh.from_numpy(a) for a in args], (lambda r: r.numpy())
    start = time.perf_counter()
    result = sync(fn(*ins))
    cold = time.perf_counter() - start
    want = _reference(workload, args)
    scale = max(1.0, float(np.abs(want).max()))
    worst = float(np.abs(out(result).astype(np.float64) - want).max()) / scale
    if not worst < 2e-4:
        raise SystemExit(f"{peer} {workload}: off by {worst} from float64")
    return (lambda: sync(fn(*ins))), cold


def main() -> None:
    """Serves timed rounds until standard input ends."""
    peer, workload, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if peer.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
    if peer.startswith("torsh"):
        import torsh

        torsh.set_num_threads(threads)
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    call, cold = build(peer, workload)
    for _ in range(10):
        call()
    calls, budget = 1, 0.02
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        took = time.perf_counter() - start
        if took > budget or calls >= 1 << 16:
            break
        calls *= 2
    print(json.dumps({"cold": cold}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        print((time.perf_counter() - start) / calls * 1e6, flush=True)


if __name__ == "__main__":
    main()
