"""`torsh.export(format="c")`: a program as a C header and libraries.

The extension module makes the header, C source and an object file with the kernels; here the C compiler makes an
archive and a shared library of them.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from torsh import _C

ExportError = _C.ExportError

# Products and sums are not contracted, so that results have the bits of the compiled
# program; nothing below changes a result, but for the flags that floating point operations raise.
FLAGS = [
    "-std=gnu99", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing", "-fPIC",
    "-fvisibility=hidden", "-ffunction-sections", "-fno-asynchronous-unwind-tables",
]  # fmt: skip
# Loops are vectorised, and what is left over at their end takes few instructions, where the compiler can do that.
LEVELS = [
    ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "--param=vect-epilogues-nomask=0"],
    ["-O3"],
]
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def check(targets, weights, dynamic, sign, metadata, license) -> str:
    """Checks the options of an export to C; returns the target."""
    wanted = (targets,) if isinstance(targets, str) else tuple(targets)
    if len(wanted) != 1 or wanted[0] not in ("native", "x86_64", "aarch64"):
        raise ExportError(
            f'export(format="c"): targets={wanted!r}: a library is for one target, "native", "x86_64" or "aarch64"'
        )
    if weights not in ("inside", "file"):
        raise ValueError(f'export(format="c"): weights must be "inside" or "file", got {weights!r}')
    if dynamic is not None and dynamic is not False:
        raise ExportError(
            'export(format="c"): the sizes of a library are constants of its header, those of the example, so that '
            "dynamic has no place here. Export one library for each size, under names of their own (model_b1, "
            'model_b8); they may be linked into one program. With format="torsh" a package takes sizes that vary: '
            "torsh.load and torsh-run read it"
        )
    for what, value in (("sign", sign), ("metadata", metadata), ("license", license)):
        if value is not None:
            raise ExportError(f'export(format="c"): {what} has no place in a library')
    return wanted[0]


def write(path, manifest: dict, forward, state: list, target: str, weights: str, seeds: list, gradients) -> int:
    """Makes and writes the files of a library; returns their size in bytes. `seeds` are the states of random numbers
    among the state, `gradients` the manifest and the trace of a second program, if there is one."""
    path = Path(os.fsdecode(path))
    name, folder = path.name, path.parent
    # Everything that can be refused, before a compiler is looked for.
    # What the exporter has said of the program since its trace is said of both.
    second = (json.dumps({**manifest, **gradients[0]}), gradients[1]) if gradients else None
    made = _C.c_library(json.dumps(manifest), forward, state, name, target, weights == "file", seeds, second)
    if not folder.is_dir():
        raise FileNotFoundError(f"export(): there is no folder {str(folder)!r}")
    compiler, archiver = _tools(made["target"])
    # Beside their place, so that renaming is one step.
    with tempfile.TemporaryDirectory(prefix=".torsh-", dir=folder) as work:
        work = Path(work)
        (work / f"{name}.h").write_text(made["header"])
        (work / f"{name}.c").write_text(made["source"])
        (work / f"{name}_kernels.o").write_bytes(made["object"])
        _run([*compiler, *_level(compiler), *FLAGS, "-c", f"{name}.c", "-o", f"{name}.o"], work)
        objects = [f"{name}.o", f"{name}_kernels.o"]
        _run([*archiver, "rcsD", f"lib{name}.a", *objects], work)
        # Small: without names that nobody can call, and code beside constants and addresses instead of each on pages of
        # its own; nor does what is written begin at a page of the file. There is nothing that start files would do.
        small = ["-Wl,-z,noseparate-code", "-Wl,-z,norelro", "-Wl,-z,common-page-size=64", "-Wl,--gc-sections"]
        shared = ["-shared", "-s", "-nostartfiles", f"-Wl,-soname,lib{name}.so", "-o", f"lib{name}.so", *objects, "-lm"]
        try:
            _run([*compiler, *small, *shared], work)
        except ExportError:
            # A linker that does not know these makes a larger file.
            _run([*compiler, *shared], work)
        files = [f"{name}.h", f"lib{name}.a", f"lib{name}.so"]
        if made["weights"] is not None:
            (work / f"{name}.weights").write_bytes(made["weights"])
            files.append(f"{name}.weights")
        size = sum((work / file).stat().st_size for file in files)
        for file in files:
            os.replace(work / file, folder / file)
    return size


def _tools(target: str) -> tuple[list[str], list[str]]:
    """The C compiler and the archiver: CC and AR, else those of the system or of a cross compiler by its usual name."""
    here = _MACHINES.get(platform.machine().lower())
    prefix = "" if here == target else f"{target}-linux-gnu-"
    compilers = [os.environ["CC"]] if os.environ.get("CC") else [f"{prefix}gcc"] if prefix else ["cc", "gcc", "clang"]
    compiler = _first(compilers, "C compiler", "CC", target)
    if os.environ.get("AR"):
        archivers = [os.environ["AR"]]
    else:
        # An archiver that does not know the object's machine writes no index.
        base = os.path.basename(compiler[0])
        own = [base[: -len("gcc")] + "ar"] if base.endswith("-gcc") else []
        archivers = [*own, f"{prefix}ar", "llvm-ar"]
    archiver = _first(archivers, "archiver (ar)", "AR", target)
    machine = _run([*compiler, "-dumpmachine"], None).strip()
    if _MACHINES.get(machine.split("-")[0]) != target or "linux" not in machine:
        raise ExportError(
            f'export(format="c"): {shlex.join(compiler)} compiles for {machine}, and the library is for {target} '
            "Linux; set CC to a compiler for it"
        )
    return compiler, archiver


def _level(compiler: list[str]) -> list[str]:
    """The first level of optimisation that the compiler knows."""
    for level in LEVELS[:-1]:
        command = [*compiler, *level, "-fsyntax-only", "-x", "c", os.devnull]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return level
    return LEVELS[-1]


def _first(commands: list[str], what: str, variable: str, target: str) -> list[str]:
    for command in commands:
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    raise ExportError(
        f'export(format="c"): no {what} for {target}: tried {", ".join(commands)}; install one, or name it in the '
        f"environment variable {variable}"
    )


def _run(command: list[str], folder: Path | None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ExportError(f'export(format="c"): cannot run {command[0]}: {error}') from error
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).splitlines()[:30])
        raise ExportError(f'export(format="c"): {shlex.join(command)} failed with status {done.returncode}:\n{said}')
    return done.stdout
