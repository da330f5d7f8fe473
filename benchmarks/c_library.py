"""Libraries in C (`torsh.export(format="c")`): what a call costs, and how large the files are.

    python -m benchmarks.c_library calls            nanoseconds and instructions of a call, beside torsh.compile's
    python -m benchmarks.c_library sizes [NAME ...]  bytes of the libraries of benchmark workloads

Both print a table in markdown. The call is that of `dispatch`, one kernel over 16 floats, so that nearly all of it is
checking pointers and getting there. It is timed in C, the best of many rounds; instructions are counted by valgrind
where it is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_TIMER = r"""
#define _POSIX_C_SOURCE 199309L
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    const long calls = argc > 1 ? atol(argv[1]) : 20000, rounds = argc > 2 ? atol(argv[2]) : 200;
    float x[16], y[16], z[16];
    model_context context;
    double best = 1e30;
    long i, r;
    for (i = 0; i < 16; i++) x[i] = y[i] = (float)i;
    if (model_init(&context, NULL, 0)) return 2;
    for (r = 0; r < rounds; r++) {
        const double start = now();
        for (i = 0; i < calls; i++) if (model_run(&context, x, y, z)) return 3;
        if ((now() - start) / (double)calls < best) best = (now() - start) / (double)calls;
    }
    printf("%.2f\n", best);
    return 0;
}
"""
# Functions of products in the library's source.
_PRODUCTS = re.compile(r"t_(product|tile|row|part|pack|small|at$|batch)")


def _sh(*command, cwd) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def calls() -> None:
    """Prints what a call costs."""
    import torsh

    f = lambda x, y: x * y + x  # noqa: E731
    x, y = torsh.ones(16), torsh.ones(16)
    compiled = torsh.compile(f)
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(500):
            compiled(x, y)
        best = min(best, (time.perf_counter() - start) / 500 * 1e9)
    print(
        "| C compiler | ns a call | of 500 ns | of torsh.compile's call | instructions a call |\n|---|---|---|---|---|"
    )
    for compiler in ("gcc", "clang"):
        if not shutil.which(compiler):
            continue
        os.environ["CC"] = compiler
        with tempfile.TemporaryDirectory() as folder:
            torsh.export(f, (x, y), Path(folder, "model"), format="c")
            Path(folder, "time.c").write_text(_TIMER)
            _sh(compiler, "-std=c99", "-O2", "time.c", "libmodel.a", "-lm", "-o", "time", cwd=folder)
            ns = float(_sh("./time", cwd=folder))
            count = "not counted"
            if shutil.which("valgrind"):
                counts = []
                for n in ("1000", "2000"):
                    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=out", "./time", n, "1"]
                    done = subprocess.run(tool, cwd=folder, check=True, capture_output=True, text=True)
                    counts.append(int(re.search(r"Collected : (\d+)", done.stderr).group(1)))
                count = f"{(counts[1] - counts[0]) / 1000:.0f}"
            print(f"| {compiler} | {ns:.1f} | {ns / 500:.3f} | {ns / best:.3f} | {count} |")


def _program(name: str):
    import torsh
    from benchmarks import workloads

    workload = workloads.get(name)
    arrays = [torsh.from_numpy(a) for a in workload.inputs(np, np.random.default_rng(0))]
    return workload.torch(torsh, arrays, "torsh")


def size(name: str, folder: Path) -> tuple[int, int, int]:
    """Exports a workload; bytes of the shared library, of the weights beside it, and of code of products."""
    import torsh

    fn, args = _program(name)
    torsh.export(fn, tuple(args), Path(folder, "model"), format="c", weights="file")
    products = 0
    # The shared library has no names of its own functions, and only those that are used.
    for line in _sh("nm", "-S", "libmodel.a", cwd=folder).splitlines():
        words = line.split()
        if len(words) == 4 and words[2] in "tT" and _PRODUCTS.match(words[3]):
            products += int(words[1], 16)
    return Path(folder, "libmodel.so").stat().st_size, Path(folder, "model.weights").stat().st_size, products


def sizes(names: list[str]) -> None:
    """Prints what files hold: the shared library, of it the state, code of products, and all the rest."""
    print("| program | library | weights | code of products | rest |\n|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            whole, weights, products = size(name, Path(folder))
        print(f"| {name} | {whole + weights} | {weights} | {products} | {whole - products} |", flush=True)


def main(words: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.c_library", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["calls", "sizes"])
    parser.add_argument("names", nargs="*", help="workloads")
    given = parser.parse_args(words)
    if given.what == "calls":
        calls()
        return
    from benchmarks.workloads import WORKLOADS

    unknown = [n for n in given.names if n not in WORKLOADS]
    if unknown:
        sys.exit(f"unknown workload {unknown[0]!r}; there are: {', '.join(WORKLOADS)}")
    sizes(given.names or list(WORKLOADS))


if __name__ == "__main__":
    main()
