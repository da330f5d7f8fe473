"""Measures torsh against the peers that are installed and writes benchmarks/RESULTS.md.

    make bench                                  # all workloads
    python benchmarks/run.py --only dispatch    # some, printed only

Every peer runs in its own process; rounds are interleaved, so that a change of the machine's speed meets all
alike. A ratio is the peer's time over torsh's (above 1: torsh is faster), from the minima over the rounds and,
in brackets, from the medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKLOADS = [
    "dispatch", "gelu-1024", "gelu-16384", "gelu-262144", "gelu-4194304", "softmax-512", "softmax-4096",
    "layernorm-512", "layernorm-4096", "matmul-256", "matmul-1024", "digits",
]  # fmt: skip
COMMAND = "python " + " ".join(["benchmarks/run.py", *sys.argv[1:]])
PEERS = ["torsh", "torsh-lazy", "numpy", "torch", "torch-compile", "jax"]


def installed(peer: str) -> bool:
    """Whether the peer's package can be imported."""
    return importlib.util.find_spec(peer.split("-")[0]) is not None


def environment(threads: int) -> dict:
    """Equal thread counts for all, and no spinning."""
    env = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        env[name] = str(threads)
    env["OMP_WAIT_POLICY"] = "passive"
    env["JAX_PLATFORMS"] = "cpu"
    if threads == 1:
        env["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return env


def measure(workload: str, threads: int, peers, rounds: int) -> dict:
    """Per peer: cold seconds and the list of microseconds per call."""
    running, results = {}, {}
    for peer in peers:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers", peer, workload, str(threads)],
            cwd=ROOT, env=environment(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        line = process.stdout.readline()
        if not line:
            reason = process.stderr.read().strip().splitlines()
            results[peer] = {"error": reason[-1] if reason else "no output"}
            continue
        running[peer] = process
        results[peer] = {"cold": json.loads(line)["cold"], "us": []}
    for _ in range(rounds):
        for peer, process in running.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            results[peer]["us"].append(float(process.stdout.readline()))
    for process in running.values():
        process.stdin.close()
        process.wait()
    return results


def import_seconds(module: str, rounds: int = 8) -> float:
    """Median wall time of an interpreter that imports one module (nothing for an empty name)."""
    code = f"import {module}" if module else "pass"
    times = []
    for _ in range(rounds):
        probe = (
            "import subprocess,sys,time;t=time.perf_counter();"
            f"subprocess.run([sys.executable,'-c',{code!r}]);print(time.perf_counter()-t)"
        )
        times.append(
            float(subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout)
        )
    return statistics.median(times)


def table_row(workload: str, threads: int, results: dict) -> str:
    """One row of the table."""
    ours = results["torsh"]
    if "error" in ours:
        return f"| {workload} | {threads} | failed: {ours['error']} |" + " - |" * (len(PEERS) - 1)
    best, middle = min(ours["us"]), statistics.median(ours["us"])
    cells = [f"{best:.2f}"]
    for peer in PEERS[1:]:
        r = results.get(peer)
        if r is None or "error" in r:
            cells.append("-")
        else:
            cells.append(f"{min(r['us']) / best:.2f}x ({statistics.median(r['us']) / middle:.2f}x)")
    return f"| {workload} | {threads} | " + " | ".join(cells) + " |"


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=WORKLOADS, help="workloads to run")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="write RESULTS.md for a selection, too")
    options = parser.parse_args()
    peers = [p for p in PEERS if installed(p)]
    skipped = [p for p in PEERS if p not in peers]
    rows, cold = [], []
    for workload in options.only:
        for threads in options.threads:
            results = measure(workload, threads, peers, options.rounds)
            rows.append(table_row(workload, threads, results))
            print(rows[-1], flush=True)
            if threads == options.threads[0]:
                cells = [
                    f"{results[p]['cold'] * 1e3:.1f}" if p in results and "cold" in results[p] else "-" for p in PEERS
                ]
                cold.append(f"| {workload} | " + " | ".join(cells) + " |")
    print("\n".join(cold))
    if options.only != WORKLOADS and not options.write:
        return
    bare = import_seconds("")
    imports = {m: import_seconds(m) - bare for m in ("torsh", "numpy", "torch", "jax") if installed(m)}
    write(rows, cold, imports, skipped, options)


def write(rows, cold, imports, skipped, options) -> None:
    """Writes RESULTS.md through a temporary file."""
    heads = "| workload | threads | torsh us | " + " | ".join(f"{p} / torsh" for p in PEERS[1:]) + " |"
    lines = [
        "# Results",
        "",
        f"Written by `{COMMAND}`. " + __doc__.split("\n\n")[2].replace("\n", " "),
        f"Machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; "
        f"{options.rounds} rounds. Peers not installed: {', '.join(skipped) or 'none'}.",
        "",
        "## Speed of a call",
        heads,
        "|" + "---|" * (len(PEERS) + 2),
        *rows,
        "",
        "## First call: trace, compile and run, in ms",
        "| workload | " + " | ".join(PEERS) + " |",
        "|" + "---|" * (len(PEERS) + 1),
        *cold,
        "",
        "## Import, in ms beyond a bare interpreter",
        "| " + " | ".join(imports) + " |",
        "|" + "---|" * len(imports),
        "| " + " | ".join(f"{v * 1e3:.0f}" for v in imports.values()) + " |",
        "",
    ]
    path = ROOT / "benchmarks" / "RESULTS.md"
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines))
    part.replace(path)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
