"""What the machine can do (measured by `runtime/examples/limits.rs`) and the share of it that a time is."""

from __future__ import annotations

import json
import subprocess

from benchmarks.runner import ROOT, holding

_BUILD = ["cargo", "build", "--release", "--quiet", "-p", "torsh-runtime", "--example", "limits"]
_RUN = ["cargo", "run", "--release", "--quiet", "-p", "torsh-runtime", "--example", "limits", "--"]


class NoLimits(Exception):
    """The machine's limits cannot be measured here."""


def measure(threads, lock: str | None = None, timeout: float = 900) -> dict:
    """Bandwidth (GB/s) by cache level and kind of access, and float32 operations (GF/s) by instruction set, for each
    thread count. Raises `NoLimits` with the reason."""
    try:
        subprocess.run(_BUILD, cwd=ROOT, check=True, capture_output=True, text=True, timeout=timeout)
        with holding(lock):
            done = subprocess.run(
                [*_RUN, *map(str, threads)], cwd=ROOT, check=True, capture_output=True, text=True, timeout=timeout
            )
        return json.loads(done.stdout)
    except FileNotFoundError:
        raise NoLimits("cargo is not installed") from None
    except subprocess.TimeoutExpired as error:
        raise NoLimits(f"{' '.join(error.cmd[:3])} took more than {timeout:.0f} s") from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        raise NoLimits(lines[-1] if lines else f"exit status {error.returncode}") from None
    except ValueError as error:
        raise NoLimits(f"unreadable answer: {error}") from None


def larger(a: dict | None, b: dict) -> dict:
    """The larger of each rate of two measurements: whatever else ran on the machine only lowers them."""
    if a is None:
        return b
    out = json.loads(json.dumps(a))
    for threads, figures in b["threads"].items():
        mine = out["threads"].setdefault(threads, figures)
        for name, rates in figures["levels"].items():
            for kind, rate in rates.items():
                mine["levels"][name][kind] = max(mine["levels"][name][kind], rate)
        for isa, rate in figures["gflop_per_s"].items():
            mine["gflop_per_s"][isa] = max(mine["gflop_per_s"].get(isa, 0.0), rate)
    return out


def level(limits: dict, threads: int, size: float) -> str:
    """The first cache level that holds a working set: at most twice the one that was measured there."""
    levels = limits["threads"][str(threads)]["levels"]
    for name, figures in levels.items():
        if size <= 2 * figures["bytes"]:
            return name
    return "DRAM"


def least_us(limits: dict, workload, threads: int) -> tuple[float, str]:
    """The least microseconds that the machine allows a workload, and what sets them ("compute" or a level)."""
    figures = limits["threads"][str(threads)]
    where = level(limits, threads, workload.bytes)
    rates = figures["levels"][where]
    rate = max(rates[k] for k in (("read", "copy", "triad") if workload.reads else ("copy", "triad")))
    memory = workload.bytes / rate / 1e3
    compute = workload.flops / max(figures["gflop_per_s"].values()) / 1e3
    return (compute, "compute") if compute > memory else (memory, where)
