"""From a package to its first result, by stage: the forward pass of an MLP and a GPT training step, with machine code
and lowered programs that are believed, and without.

`python -m benchmarks.packages [ROUNDS]` exports both, reads each file in ROUNDS fresh processes (9 by default), and
prints the smallest milliseconds of each stage, on the clock and of the processor: `load` (`torsh.load`), `first` (the
first call), `warm` (the least of later calls), `hash` (the SHA-256 of the file's bytes, timed by itself), `pages` (to
take as much memory from the system as the process grew by), and `over`, the least of load and first call together less
a warm call and a hash; new pages are part of it. Imports and arguments are excluded; modules that
the first call imports are not. The number of threads is TORSH_THREADS, as ever.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
import subprocess
import sys
import tempfile
import time

PROGRAMS = ("mlp", "gpt")
KINDS = ("graph", "code")
_WARM = 8


def level() -> str:
    """The instruction set level that code is made for."""
    if platform.machine() != "x86_64":
        raise SystemExit("packages have machine code for x86-64 alone")
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = set(next((line for line in file if line.startswith("flags")), "").split())
    wide = {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= flags
    return os.environ.get("TORSH_ISA") or ("avx512" if wide else "avx2" if "avx2" in flags else "portable")


def write(folder: str) -> None:
    """Exports each program in each kind."""
    import torsh
    from benchmarks.exporting import _torsh

    for program in PROGRAMS:
        fn, args = _torsh(program)
        for kind in KINDS:
            targets = ("native", level()) if kind == "code" else ("native",)
            torsh.export(fn, tuple(args), f"{folder}/{program}-{kind}.torsh", targets=targets)


def _resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def _touch(count: int) -> None:
    """Takes so many bytes from the system, in huge pages where it has them, as a program's memory is taken."""
    with mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[:: mmap.PAGESIZE] = bytes(-(-count // mmap.PAGESIZE))


def read(program: str, kind: str, path: str) -> dict[str, float]:
    """The stages of one process, in milliseconds: on the clock, and of the processor under `cpu_`."""
    import torsh
    from benchmarks.exporting import _torsh

    _, args = _torsh(program)
    torsh.eval(*args)
    with open(path, "rb") as file:
        data = file.read()
    digest = hashlib.sha256(data).hexdigest()
    # Threads of modules that the arguments needed (those of NumPy's BLAS) wait busily for a moment; this one is awake.
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        hashlib.sha256(data).digest()
    out: dict[str, float] = {}

    def timed(name: str, run):
        clock, cpu = time.perf_counter(), time.process_time()
        made = run()
        for key, value in ((name, time.perf_counter() - clock), (f"cpu_{name}", time.process_time() - cpu)):
            out[key] = min(out.get(key, float("inf")), value * 1e3)
        return made

    before = _resident()
    model = timed("load", lambda: torsh.load(path, sha256=digest if kind == "code" else None))
    timed("first", lambda: torsh.eval(model(*args)))
    grown = max(_resident() - before, mmap.PAGESIZE)
    for _ in range(_WARM):
        timed("warm", lambda: torsh.eval(model(*args)))
        timed("hash", lambda: hashlib.sha256(data).digest())
        timed("pages", lambda: _touch(grown))
    if kind == "code":
        unused = [entry for entry in (*model.code, *model.lowered) if entry.unused is not None]
        if unused:
            raise SystemExit(f"what the package has is not used: {unused}")
    for cpu in ("", "cpu_"):
        out[f"{cpu}over"] = out[f"{cpu}load"] + out[f"{cpu}first"] - out[f"{cpu}warm"] - out[f"{cpu}hash"]
    return out


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """The least of each stage, by program and kind."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        for _ in range(rounds):
            for program in PROGRAMS:
                for kind in KINDS:
                    command = [sys.executable, "-m", "benchmarks.packages", "read", program, kind]
                    done = subprocess.run(
                        [*command, f"{folder}/{program}-{kind}.torsh"], capture_output=True, text=True, check=True
                    )
                    found = json.loads(done.stdout)
                    best = out.setdefault(f"{program} {kind}", found)
                    best.update({stage: min(ms, best[stage]) for stage, ms in found.items()})
    return out


def main() -> None:
    """Measures, and prints a table."""
    if sys.argv[1:2] == ["read"]:
        print(json.dumps(read(*sys.argv[2:])))
        return
    rows = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
    stages = ("load", "first", "warm", "hash", "pages", "over")
    print("milliseconds: clock (processor)")
    print(f"{'':12}" + "".join(f"{stage:>18}" for stage in stages))
    for name, row in rows.items():
        print(f"{name:12}" + "".join(f"{row[s]:9.2f} ({row[f'cpu_{s}']:6.2f})" for s in stages))


if __name__ == "__main__":
    main()
