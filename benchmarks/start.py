"""The tables of compile time, start, memory and size, and of growth with the graph."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import peers as peer_table
from benchmarks.results import Figure, Results
from benchmarks.runner import Child, ChildFailed, environment, holding
from benchmarks.targets import GROWTH_NODES

_COMPILERS = ("torsh", "torch-compile", "jax")
_JAX_CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


class _Table:
    """Collects figures; a measurement that fails leaves its reason. Each holds the lock by itself."""

    def __init__(self, lock: str | None):
        self.figures: list[Figure] = []
        self.lock = lock

    def add(self, name: str, unit: str, measure: dict[str, Callable[[], float]], **notes: str) -> None:
        figure = Figure(name, unit, {}, dict(notes))
        for peer, action in measure.items():
            try:
                with holding(self.lock):
                    figure.values[peer] = action()
            except (ChildFailed, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
                figure.values[peer] = None
                figure.notes[peer] = str(error)
        self.figures.append(figure)


def _environment(peer: str, folder: str) -> dict:
    """All cores, a peer's own choice of compile workers, and caches that a second process finds."""
    env = environment(peer_table.PEERS[peer], os.cpu_count() or 1, folder)
    env.pop("TORCHINDUCTOR_COMPILE_THREADS", None)
    return env | _JAX_CACHE | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/jax"}


def _probe(peer: str, *args: str, folder: str, timeout: float = 300, module: str = "benchmarks.probe") -> dict:
    """The answer of a probe in a fresh process. `peer` sets the environment."""
    env = _environment(peer, folder)
    command = [sys.executable, "-m", module, *args]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise ChildFailed(f"no answer in {timeout:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ChildFailed((lines[-1] if lines else f"exit status {done.returncode}")[:300])
    return json.loads(done.stdout.strip().splitlines()[-1])


def _cold_ms(peer: str, workload: str, folder: str, timeout: float = 300) -> float:
    """Milliseconds of a workload's first call in a fresh process, caches in `folder`."""
    env = _environment(peer, folder)
    child = Child(peer, workload, os.cpu_count() or 1, folder, env)
    try:
        message = child.answer(timeout)
    finally:
        child.close()
    if "cold" not in message:
        raise ChildFailed(message.get("skipped", f"unexpected answer {message}"))
    return message["cold"] * 1e3


def _cold_pair(peer: str, workload: str, rounds: int) -> tuple[float, float]:
    """Best (first process, second process) with a fresh cache folder for each round."""
    first, second = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="torsh-bench-") as folder:
            first.append(_cold_ms(peer, workload, folder))
            second.append(_cold_ms(peer, workload, folder))
    return min(first), min(second)


def imports(modules, rounds: int) -> dict[str, float]:
    """Median milliseconds that an import adds to a bare interpreter; all alternate, so that a change of the
    machine's speed meets all."""
    times: dict[str, list[float]] = {m: [] for m in ("", *modules)}
    for _ in range(rounds):
        for module, taken in times.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}" if module else "pass"], check=True)
            taken.append(time.perf_counter() - start)
    bare = statistics.median(times.pop(""))
    return {m: (statistics.median(taken) - bare) * 1e3 for m, taken in times.items()}


def wheel_mb(package: str) -> float:
    """MB of an installed package as a wheel packs it."""
    root = _location(package)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(root.parent))
    return len(packed.getvalue()) / 1e6


def installed_mb(package: str) -> float:
    """MB of an installed package on disk."""
    return sum(p.stat().st_size for p in _location(package).rglob("*") if p.is_file()) / 1e6


def _location(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def measure(results: Results, rounds: int, lock: str | None = None, peers: Iterable[str] = _COMPILERS) -> None:
    """Fills the start and growth tables of the results; compile times of those of the peers that compile."""
    here = {m: importlib.util.find_spec(m) is not None for m in ("torsh", "numpy", "torch", "jax", "jaxlib")}
    chosen = set(peers)
    compilers = [p for p in _COMPILERS if p in chosen and here[p.split("-")[0]]]
    with tempfile.TemporaryDirectory(prefix="torsh-bench-") as folder:
        table = _Table(lock)
        _compile_times(table, compilers, rounds, folder)
        modules = [m for m in ("torsh", "numpy", "torch", "jax") if here[m]]
        taken: dict[str, float] = {}
        with contextlib.suppress(OSError, subprocess.SubprocessError), holding(lock):
            taken = imports(modules, rounds)
        table.add("import over a bare interpreter", "ms", {m: lambda m=m: taken[m] for m in modules})
        rss = {m or "bare": lambda m=m: _probe("numpy", "memory", m, folder=folder)["mb"] for m in ("", *modules)}
        table.add("memory after import", "MB", rss)
        row = results.row("mlp-784", 1)
        peaks = {p: c.peak_kib / 1024 for p, c in row.cells.items() if c.peak_kib} if row else {}
        if peaks:
            table.add("peak memory of the MLP loop", "MB", {p: lambda v=v: v for p, v in peaks.items()})
        sizes = {"torsh": lambda: wheel_mb("torsh")}
        sizes |= {m: lambda m=m: installed_mb(m) for m in ("torch", "jaxlib") if here[m]}
        table.add("wheel", "MB", sizes, torch="installed", jaxlib="installed")
        results.start = table.figures
        results.growth = _growth(folder, lock)


def _compile_times(table: _Table, compilers, rounds: int, folder: str) -> None:
    """First calls: of small functions and of training steps."""
    small, runs = {}, {}

    def kernels(peer: str, key: str) -> float:
        if peer not in small:
            tries = 1 if peer == "torch-compile" else rounds
            with tempfile.TemporaryDirectory(prefix="torsh-bench-") as own:
                small[peer] = [_probe(peer, "kernels", peer, folder=own) for _ in range(tries)]
        return min(answer[key] for answer in small[peer])

    def cold(peer: str, workload: str, index: int) -> float:
        if (peer, workload) not in runs:
            tries = 1 if peer == "torch-compile" else rounds
            runs[peer, workload] = _cold_pair(peer, workload, tries)
        return runs[peer, workload][index]

    table.add("cold compile of a 4-op function", "ms", {p: lambda p=p: kernels(p, "first") for p in compilers})
    table.add("one further kernel", "ms", {p: lambda p=p: kernels(p, "further") for p in compilers})
    for title, workload in (("MLP train step, cold", "mlp-784"), ("GPT step (4 layers), cold", "gpt")):
        table.add(title, "ms", {p: lambda p=p, w=workload: cold(p, w, 0) for p in compilers})
    table.add(
        "second process", "ms", {p: lambda p=p: cold(p, "mlp-784", 1) for p in compilers},
        torsh="no disk cache yet: the MLP step is compiled again",
    )  # fmt: skip
    _exports(table, compilers, rounds, folder)


def _exports(table: _Table, compilers, rounds: int, folder: str) -> None:
    """Export, size without weights, and load to the first result."""
    found: dict = {}

    def figure(peer: str, program: str, what: str, key: str) -> float:
        if (peer, program, what) not in found:
            path = f"{folder}/{peer}-{program}.bin"
            command = (what, peer, program, path)
            # AOTInductor compiles for half a minute each time.
            count = 1 if (peer, what) == ("torch-compile", "write") else rounds
            tries = [_probe(peer, *command, folder=folder, module="benchmarks.exporting") for _ in range(count)]
            found[peer, program, what] = {k: min(t[k] for t in tries) for k in tries[0]}
        return found[peer, program, what][key]

    both = [p for p in compilers if p in ("torsh", "jax", "torch-compile")]
    kilo = lambda p: figure(p, "mlp", "write", "bytes") / 1e3  # noqa: E731
    table.add("exported model (MLP forward), without weights", "kB", {p: lambda p=p: kilo(p) for p in both})
    for title, program, peers in (("MLP forward", "mlp", both), ("GPT step", "gpt", [p for p in both if p == "torsh"])):
        table.add(
            f"export of the {title}, beyond compile", "ms",
            {p: lambda p=p, w=program: figure(p, w, "write", "ms") for p in peers},
        )  # fmt: skip
        table.add(
            f"{title}, load to first result", "ms",
            {p: lambda p=p, w=program: figure(p, w, "read", "ms") for p in peers},
        )  # fmt: skip


def _growth(folder: str, lock: str | None) -> list[Figure]:
    """Compile time of larger graphs, and what recording an op costs."""
    table = _Table(lock)
    for nodes in (*GROWTH_NODES, 100_000):
        table.add(
            f"compile {nodes:,} nodes", "s",
            {"torsh": lambda n=nodes: _probe("torsh", "growth", str(n), folder=folder, timeout=120)["s"]},
        )  # fmt: skip
    table.add("trace, per op from Python", "us", {"torsh": lambda: _probe("torsh", "trace", folder=folder)["us"]})
    return table.figures
