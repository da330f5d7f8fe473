"""The command `torsh` (`python -m torsh`): export, run, inspect, verify and compare packages, and make keys.

Exit status: 0 done, 1 a package or an input was refused or two packages differ, 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import sys
import time
import traceback
from pathlib import Path

_OWN = os.path.dirname(os.path.abspath(__file__))


class _ScriptError(Exception):
    """What a user's script raised, told as Python tells it, without the frames of torsh."""

    def __init__(self, error: BaseException):
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_ours(f.filename)]
        lines = traceback.format_exception_only(error)
        if frames and not isinstance(error, SyntaxError):
            lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames), *lines]
        super().__init__("".join(lines).rstrip())


def _is_ours(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or os.path.dirname(os.path.abspath(filename)).startswith(_OWN)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    args = _parser().parse_args(argv)
    from torsh import TorshError

    try:
        return args.run(args) or 0
    except _ScriptError as error:
        print(f"torsh {args.command}: {args.source} failed\n{error}", file=sys.stderr)
        return 1
    except (
        TorshError, OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, EOFError, MemoryError
    ) as error:  # fmt: skip
        print(f"torsh {args.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torsh", description="Packages of torsh programs.")
    parser.add_argument("--version", action="version", version=f"torsh {_version()}")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    sub = command("export", _export, "Export a function or module of a Python file. The file is run.")
    sub.add_argument("source", help="script.py:name; the name may have dots")
    sub.add_argument("-o", "--output", required=True, help="the package to write")
    sub.add_argument(
        "--args", default="example_args", metavar="NAME",
        help="name in the script of the example arguments, a tuple or a function that returns one (example_args)",
    )  # fmt: skip
    sub.add_argument(
        "--dynamic",
        metavar="NAME",
        help="name in the script of what torsh.export takes as dynamic: sizes that may vary",
    )
    sub.add_argument("--include-grad", action="store_true", help="also export gradients")
    sub.add_argument("--name", help="name of the program")
    sub.add_argument("--license", help="SPDX expression")
    sub.add_argument("--metadata", action="append", default=[], metavar="KEY=VALUE")
    sub.add_argument("--sign", metavar="KEYFILE", help="secret key that signs the package")
    sub.add_argument("--format", choices=["torsh", "c"], default="torsh", help="a package, or a C header and libraries")
    sub.add_argument(
        "--target", action="append",
        help="of a package: what to add machine code for, a level (portable, avx2, avx512) or a CUDA architecture "
        "(sm_90; cuda for the present device); may be given several times. Of a C library: native, x86_64 or aarch64",
    )  # fmt: skip
    sub.add_argument("--weights", choices=["inside", "file"], default="inside", help="where a C library has its state")

    sub = command("run", _run, "Run a package on .npy files.")
    sub.add_argument("package")
    sub.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy")
    sub.add_argument(
        "--output", action="append", default=[], metavar="NAME=FILE.npy",
        help="where an output goes; FILE.npy alone if there is one output; others are printed",
    )  # fmt: skip
    sub.add_argument("--device", help="where to run: cpu, cuda or cuda:N (cpu)")
    sub.add_argument("--bench", action="store_true", help="measure the call")
    _keys(sub)

    sub = command("inspect", _inspect, "Say what a package takes, gives and keeps.")
    sub.add_argument("package")
    sub.add_argument("--manifest", action="store_true", help="print the manifest as JSON and nothing else")
    sub.add_argument("--graph", action="store_true", help="print the graph")
    sub.add_argument("--kernels", action="store_true", help="compile, and print kernels and peak memory")
    _keys(sub)

    sub = command("verify", _verify, "Check packages; the exit status is 1 if one is refused.")
    sub.add_argument("packages", nargs="+")
    _keys(sub)

    sub = command("diff", _diff, "Compare two packages; the exit status is 1 if they differ.")
    sub.add_argument("a")
    sub.add_argument("b")

    sub = command("keygen", _keygen, "Make an ed25519 key: FILE (secret, mode 0600) and FILE.pub.")
    sub.add_argument("file")
    return parser


def _version() -> str:
    from torsh import __version__

    return __version__


def _keys(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--trusted-key",
        action="append",
        metavar="KEY",
        help="public key (file or hexadecimal) that must have signed it",
    )
    sub.add_argument("--sha256", metavar="HEX", help="hash that the whole file must have")


def _load(path: str, keys, device: str | None = None, sha256: str | None = None):
    from torsh import _package

    # The path of a command is a package, whatever its name.
    return _package.load(path, keys, device, sha256)


def _export(args) -> None:
    import torsh

    file, _, name = args.source.rpartition(":")
    if not file:
        raise ValueError(f"{args.source!r} is not script.py:name")
    path = Path(file)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise ValueError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _ScriptError(error) from None

    def find(dotted: str):
        at = module
        for part in dotted.split("."):
            if not hasattr(at, part):
                raise ValueError(f"{file} has no {dotted}")
            at = getattr(at, part)
        return at

    fn, example = find(name), find(args.args)
    if callable(example):
        try:
            example = example()
        except Exception as error:
            raise _ScriptError(error) from None
    dynamic = find(args.dynamic) if args.dynamic else None
    pairs = [m.partition("=") for m in args.metadata]
    if any(not sep for _, sep, _ in pairs):
        raise ValueError("--metadata needs KEY=VALUE")
    try:
        size = torsh.export(
            fn, example, args.output, include_grad=args.include_grad, name=args.name, license=args.license,
            sign=args.sign, metadata={k: v for k, _, v in pairs} or None, dynamic=dynamic, format=args.format,
            targets=tuple(args.target or ("native",)), weights=args.weights,
        )  # fmt: skip
    except (torsh.TorshError, OSError, ValueError, TypeError):
        raise
    except Exception as error:
        # Of other kinds, only what the function itself raises while it is traced.
        raise _ScriptError(error) from None
    print(f"{args.output}: {size} bytes")


def _pairs(given: list[str], what: str, ports) -> dict[str, str]:
    """Files by name. A file alone is that of the only port, where there is one and `what` is --output."""
    names = [p.name for p in ports]
    out = {}
    for text in given:
        name, sep, path = text.partition("=")
        if not sep and what == "--output" and len(names) == 1:
            name, path = names[0], text
        elif not sep:
            raise ValueError(f"{what} needs NAME=FILE.npy, got {text!r}; the names are {', '.join(names) or 'none'}")
        if name not in names:
            raise ValueError(f"{what} {text}: there is no {name!r}; the names are {', '.join(names) or 'none'}")
        if name in out:
            raise ValueError(f"{what} {text}: {name!r} was given before, as {out[name]}")
        out[name] = path
    return out


def _array(path: str):
    """The array of a file in this machine's byte order."""
    import numpy as np

    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} holds several arrays (.npz); an input is one array (.npy)")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _run(args) -> None:
    import numpy as np

    import torsh

    program = _load(args.package, args.trusted_key, args.device, args.sha256)
    given = _pairs(args.input, "--input", program.inputs)
    wanted = _pairs(args.output, "--output", program.outputs)
    names = [p.name for p in program.inputs]
    missing = [n for n in names if n not in given]
    if missing:
        raise ValueError(f"missing inputs: {', '.join(missing)}; give each with --input NAME=FILE.npy")
    kinds = [p["kind"] for p in program.manifest["inputs"]]
    values: list = []
    for name, kind in zip(names, kinds, strict=True):
        array = _array(given[name])
        values.append(float(array) if kind == "float" else torsh.from_numpy(array).to(program.device))
    outputs = program.call_flat(values)
    for port, value in zip(program.outputs, outputs, strict=True):
        if port.name in wanted:
            if value.dtype == torsh.bfloat16:
                value = value.float()
            # NumPy would put a suffix of its own behind a name.
            with open(wanted[port.name], "wb") as file:
                np.save(file, value.detach().cpu().numpy())
        else:
            print(f"{port.name}: {value}")
    if args.bench:
        times = []
        begin = time.perf_counter()
        while len(times) < 10 or (time.perf_counter() - begin < 1.0 and len(times) < 100_000):
            start = time.perf_counter()
            torsh.eval(*program.call_flat(values))
            times.append((time.perf_counter() - start) * 1e6)
        times.sort()
        print(f"{len(times)} calls: best {times[0]:.2f} us, median {times[len(times) // 2]:.2f} us")


def _shown(text: str) -> str:
    """Text of a package on one line: nothing in it moves the cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _inspect(args) -> None:
    import json

    from torsh import _C
    from torsh._package import sizes

    program = _load(args.package, args.trusted_key, None, args.sha256)
    if args.manifest:
        print(json.dumps(program.manifest, indent=2))
        return
    m, package = program.manifest, program._package
    print(f"{m['name']}: {package.bytes} bytes, format {m['version']}, by {m['producer']}")
    print(f"license: {m['license'] or 'not stated'}; signed by {program.signer.hex() if program.signer else 'nobody'}")
    for key, value in m["metadata"].items():
        print(f"metadata {_shown(key)}: {_shown(value)}")
    for d in m.get("dims", ()):
        print(f"dim {d['name']}: from {d['min']} to {d['max']}")
    for what in ("inputs", "outputs", "state"):
        for p in m[what]:
            kind = p.get("kind", p.get("role"))
            print(f"{what.rstrip('s')} {p['name']}: {p['dtype']} {sizes(p['shape'])} ({kind})")
    for lowered in program.lowered:
        used = f"used, {lowered.steps} steps" if lowered.unused is None else f"not used: {lowered.unused}"
        print(f"lowered {lowered.entry}: {used}")
    for code, about in zip(program.code, (*m.get("code", ()), *m.get("cuda", ())), strict=True):
        used = f"used, {code.kernels} kernels" if code.unused is None else f"not used: {code.unused}"
        if "features" in about:
            what = f"{about['arch']} {code.level} ({' '.join(about['features']) or 'no features'})"
        else:
            # Whether it is that of a device shows where there is one.
            used = used.replace("used, ", "believed, ") if code.unused is None else used
            made = f"{len(about['kernels'])} kernels, {about['generator']}, NVRTC {about['nvrtc']}"
            what = f"cuda {code.level} ({made})"
        print(f"code {what}: {used}")
    for e in m["entries"]:
        print(f"entry {e['name']}: {e['bytes']} bytes, sha256 {e['sha256']}")
    print(f"gradients: {'yes' if m['vjp'] else 'no'}; nodes: {program.graph.count(' = ')}")
    if args.graph:
        print(program.graph, end="")
    if args.kernels:
        plan = _C.package_plan(package)
        at = " at the smallest sizes" if m.get("dims") else ""
        took = f"compiled in {plan['seconds'] * 1e3:.1f} ms"
        print(f"{plan['kernels']} kernels, {plan['peak_bytes']} bytes at the peak{at}, {took}")
        for step in plan["steps"]:
            print(f"  {step}")


def _verify(args) -> int:
    from torsh import TorshError

    bad = 0
    for path in args.packages:
        try:
            program = _load(path, args.trusted_key, None, args.sha256)
            # Where a lowered program stands for it, the graph has not been read yet.
            _ = program.graph
        except (TorshError, OSError, ValueError) as error:
            bad += 1
            print(f"{path}: refused: {error}")
            continue
        signer = f", signed by {program.signer.hex()}" if program.signer else ""
        code = "".join(f", code for {c.level}{'' if c.unused is None else ' (not used)'}" for c in program.code)
        lowered = "".join(f", {x.entry}{'' if x.unused is None else ' (not used)'}" for x in program.lowered)
        print(f"{path}: good{signer}{code}{lowered}")
    return 1 if bad else 0


def _diff(args) -> int:
    import difflib
    import json

    a, b = _load(args.a, None), _load(args.b, None)
    same = True
    sides = []
    for p in (a, b):
        m = p.manifest
        hashes = {e["name"]: e["sha256"] for e in m.pop("entries")}
        texts = (json.dumps(m, indent=2), p.graph, p._package.vjp or "")
        sides.append((hashes, *(t.splitlines() for t in texts)))
    for what, i in (("manifest", 1), ("graph", 2), ("gradients", 3)):
        for line in difflib.unified_diff(
            sides[0][i], sides[1][i], f"{args.a} {what}", f"{args.b} {what}", lineterm="", n=1
        ):
            same = False
            print(line)
    x, y = a.state_dict(), b.state_dict()
    for name in sorted(set(x) & set(y)):
        if x[name].shape == y[name].shape and x[name].dtype == y[name].dtype:
            u, v = x[name].double(), y[name].double()
            if not bool((u == v).all() if u.numel() else True):
                same = False
                print(f"state {name}: differs by up to {float((u - v).abs().max()):.6g}")
    if same and sides[0][0] != sides[1][0]:
        same = False
        print("constants of the programs differ")
    return 0 if same else 1


def _keygen(args) -> None:
    from torsh import _C
    from torsh._package import PUBLIC, SECRET

    secret = secrets.token_bytes(32)
    public = f"{args.file}.pub"
    for path in (args.file, public):
        if os.path.lexists(path):
            raise FileExistsError(
                f"{path} exists, and a key is never overwritten: what it signed could not be signed again. Choose "
                f"another name, or move {args.file} and {public} away first"
            )
    handle = os.open(args.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(f"{SECRET}{secret.hex()}\n")
    with open(public, "x") as file:
        file.write(f"{PUBLIC}{_C.public_key(secret).hex()}\n")
    print(f"{args.file}: secret key; {args.file}.pub: public key")
