"""Instruction counts of the call path and of ten kernels, as valgrind's callgrind counts them.

Counts do not depend on what else the machine does, so a change of a few per cent shows. The figures that are
committed in `instructions.json` are compared with the present ones; each instruction set level has its own
(callgrind knows no AVX-512, so `avx2` and `portable` can be counted).

    python benchmarks/callgrind.py                 compare, fail beyond the tolerance
    python benchmarks/callgrind.py --write         update the figures of this level

The workloads call `os.getppid` before and after their loops; callgrind writes a part of its profile at each of
these calls, so that only the loops are counted, in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
FIGURES = os.path.join(HERE, "instructions.json")
TOLERANCE = 0.05


def workloads():
    """name -> (function, arguments, calls that are counted)."""
    import torsh

    def filled(*shape):
        n = 1
        for d in shape:
            n *= d
        return (torsh.arange(n).float() * 0.37 % 3.0 - 1.5).reshape(shape)

    v16, v4k = (filled(16), filled(16)), (filled(4096), filled(4096))
    rows, square = filled(64, 256), filled(64, 64)
    state = [filled(16) for _ in range(20)]

    def step(x):
        with torsh.no_grad():
            for s in state:
                s.mul_(0.5)
        return x + 1.0

    functional = torsh.nn.functional
    return {
        "call, x*y+x of 16 floats": (lambda x, y: x * y + x, v16, 400),
        "call, 20 captured tensors": (step, v16[:1], 200),
        "add": (lambda x, y: x + y, v4k, 40),
        "chain of five": (lambda x, y: ((x * y + x) * 0.9 - y).clamp(-3.0, 3.0), v4k, 40),
        "exp": (lambda x: x.exp(), v4k[:1], 20),
        "gelu(x*w+b)+r": (lambda x, y: functional.gelu(x * y + 0.5) + x, v4k, 20),
        "sum of rows": (lambda x: x.sum(dim=1), (rows,), 20),
        "sum of columns": (lambda x: x.sum(dim=0), (rows,), 20),
        "softmax": (lambda x: torsh.softmax(x, dim=-1), (rows,), 10),
        "layer norm": (lambda x: functional.layer_norm(x, (256,)), (rows,), 10),
        "transpose and add": (lambda x: x.t() + x, (square,), 20),
        "matmul 64": (lambda x: x @ x, (square,), 10),
    }


def child() -> None:
    import gc

    import torsh

    torsh.set_num_threads(1)
    for function, args, count in workloads().values():
        compiled = torsh.compile(function)
        for _ in range(10):
            compiled(*args)
        gc.collect()
        gc.disable()
        os.getppid()
        for _ in range(count):
            compiled(*args)
        os.getppid()
        gc.enable()


def measure(isa: str) -> dict[str, int]:
    env = {**os.environ, "TORSH_ISA": isa, "TORSH_THREADS": "1", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--dump-before=getppid"]
        command += [sys.executable, os.path.abspath(__file__), "--child"]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"callgrind failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        for i, (name, (_, _, calls)) in enumerate(workloads().items()):
            # Parts are numbered from 1; a loop ends at every second call.
            with open(f"{folder}/out.{2 * i + 2}", encoding="utf-8") as file:
                found = re.search(r"^(?:totals|summary): (\d+)", file.read(), re.MULTILINE)
            if found is None:
                raise SystemExit(f"callgrind wrote no total for {name}")
            out[name] = round(int(found[1]) / calls)
            print(f"{name:32} {out[name]:>12,}", flush=True)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="update the committed figures of this level")
    parser.add_argument("--isa", default="avx2", choices=["avx2", "portable"])
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child()
        return 0
    if shutil.which("valgrind") is None:
        print("skipped: valgrind is not installed")
        return 0
    if platform.machine().lower() not in ("x86_64", "amd64"):
        print(f"skipped: the figures are of x86-64, this is {platform.machine()}")
        return 0
    figures = {}
    if os.path.exists(FIGURES):
        with open(FIGURES, encoding="utf-8") as file:
            figures = json.load(file)
    found = measure(options.isa)
    if options.write:
        figures[options.isa] = {"python": platform.python_version(), "instructions": found}
        with open(FIGURES, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2, sort_keys=True)
            file.write("\n")
        return 0
    level = figures.get(options.isa)
    if level is None:
        print(f"no figures for {options.isa} yet; --write records them")
        return 1
    if level["python"].split(".")[:2] != platform.python_version().split(".")[:2]:
        print(f"skipped: the figures are of Python {level['python']}, this is {platform.python_version()}")
        return 0
    worse = 0
    for name, now in found.items():
        was = level["instructions"].get(name)
        change = now / was - 1 if was else 0.0
        if was is None or abs(change) > options.tolerance:
            worse += change > 0 or was is None
            text = "has no figure" if was is None else f"{change:+.1%} against {was:,}"
            print(f"{name}: {now:,}, {text}{'' if change > 0 or was is None else '; record it with --write'}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
