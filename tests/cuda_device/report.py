"""Checks and measures a CUDA device, and writes a report to send: `python tests/cuda_device/report.py [FILE]`.

Every kind of kernel runs on the device and in the reference interpreter (a second process with TORSH_INTERPRET=1).
Operations that IEEE 754 defines must agree in every bit, others within the tolerance beside them. Then kernels are
timed, and their share of what a copy within the device reaches is the figure that counts.

Needs torsh with NVRTC (`pip install torsh-compiler[cuda]`) and NumPy. Exit status 1 when something is wrong.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import torsh
import torsh.nn.functional as F

N = 1003
ROWS, COLS = 37, 129


class Case(NamedTuple):
    """A function of tensors, what to call it with, and by how much results may differ: 0 for not at all, else a share
    of each value, or, for what sums up, of the largest one."""

    name: str
    run: Callable
    inputs: tuple
    tolerance: float = 0.0
    sums: bool = True


def numbers(*shape: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def extremes() -> np.ndarray:
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 1.2e-38, 3.4e38, 1.0, -1.0, 100.0, -100.0, 0.5]
    return np.resize(np.array(special, np.float32), N)


def cases() -> list[Case]:
    x, y, e = numbers(N), numbers(N, seed=1), extremes()
    m, d = numbers(ROWS, COLS), numbers(N, dtype=np.float64)
    i = np.arange(-N // 2, N - N // 2, dtype=np.int64)
    big, at = numbers(50, 6, seed=2), np.array([0, 49, 7, 7, -1], np.int64)
    a, b = numbers(65, 33, seed=3), numbers(33, 47, seed=4)
    q, k, v = (numbers(2, 3, 20, 16, seed=s) for s in (5, 6, 7))
    image, weight = numbers(2, 3, 9, 10, seed=8), numbers(4, 3, 3, 3, seed=9)
    half = lambda t: t.to(torsh.float16)  # noqa: E731
    brain = lambda t: t.to(torsh.bfloat16)  # noqa: E731
    exact = [
        Case("add", lambda p, q: p + q, (x, y)),
        Case("subtract", lambda p, q: p - q, (e, y)),
        Case("multiply", lambda p, q: p * q, (e, y)),
        Case("divide", lambda p, q: p / q, (x, e)),
        Case("multiply, then add", lambda p, q: p * q + p, (x, y)),
        Case("sqrt", lambda p: p.abs().sqrt(), (e,)),
        Case("f64 arithmetic", lambda p: (p * p + 1.0).sqrt() / (p - 0.5), (d,)),
        Case("floor, ceil, round, trunc", lambda p: p.floor() + p.ceil() - p.round() + p.trunc(), (x,)),
        Case("compare and select", lambda p, q: torsh.where(p > q, p, -q), (e, y)),
        Case("minimum, maximum", lambda p, q: torsh.minimum(p, q) + torsh.maximum(p, q), (e, y)),
        Case("integers", lambda p: (p * 7919 + 13) // 7 - p % 5, (i,)),
        Case("float16 arithmetic", lambda p, q: (half(p) * half(q) + half(p)).to(torsh.float32), (x, y)),
        Case("bfloat16 arithmetic", lambda p, q: (brain(p) * brain(q) + brain(p)).to(torsh.float32), (x, y)),
        Case("transpose", lambda p: p.t() + 1.0, (m,)),
        Case("broadcast", lambda p: p + p[0] - p[:, :1], (m,)),
        Case("maximum of rows", lambda p: p.amax(dim=1), (m,)),
        Case("maximum of columns", lambda p: p.amax(dim=0), (m,)),
        Case("take rows", lambda p, j: p[j], (big, at)),
        Case("sort", lambda p: p.sort()[0], (x,)),
        Case("random bits", lambda p: torsh.rand(N, generator=None) + 0.0 * p, (x,)),
    ]
    functions = ["exp", "log", "sin", "cos", "tanh", "erf", "sigmoid", "log1p", "expm1", "rsqrt"]
    loose = [Case(f, lambda p, f=f: getattr(p, f)(), (np.abs(x) + 0.1,), 4e-7, sums=False) for f in functions]
    loose += [Case(f"{f} of extremes", lambda p, f=f: getattr(p, f)(), (e,), 4e-7, sums=False) for f in ("exp", "tanh")]
    loose += [
        Case("sum of everything", lambda p: p.sum(), (x,), 1e-6),
        Case("sum of rows", lambda p: p.sum(dim=1), (m,), 1e-6),
        Case("sum of columns", lambda p: p.sum(dim=0), (m,), 1e-6),
        Case("softmax", lambda p: torsh.softmax(p * 30.0, dim=-1), (m,), 1e-5),
        Case("layer norm", lambda p: F.layer_norm(p, (COLS,)), (m,), 1e-5),
        Case("cumulative sum", lambda p: p.cumsum(dim=1), (m,), 1e-5),
        Case("matrix product", lambda p, q: p @ q, (a, b), 1e-5),
        Case("transposed product", lambda p, q: (q.t() @ p.t()).t(), (a, b), 1e-5),
        Case("float16 product", lambda p, q: (half(p) @ half(q)).to(torsh.float32), (a, b), 2e-3),
        Case("attention", lambda p, q, r: F.scaled_dot_product_attention(p, q, r, is_causal=True), (q, k, v), 1e-5),
        Case("convolution", lambda p, q: F.conv2d(p, q, padding=1), (image, weight), 1e-5),
    ]
    return exact + loose


def values(case: Case, device: str) -> np.ndarray:
    """A case's result, on a device."""
    with torsh.device(device):
        torsh.manual_seed(7)
        return case.run(*[torsh.tensor(x, device=device) for x in case.inputs]).cpu().numpy()


def interpreted() -> dict[str, np.ndarray]:
    """Every case's result in the reference interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.npz"
        env = {**os.environ, "TORSH_INTERPRET": "1"}
        subprocess.run([sys.executable, __file__, "--interpret", str(path)], env=env, check=True)
        with np.load(path) as found:
            return dict(found)


def difference(case: Case, got: np.ndarray, want: np.ndarray) -> str | None:
    """What is wrong with a result; None where nothing is."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
    nan = np.isnan(want) if want.dtype.kind == "f" else np.zeros(want.shape, bool)
    if want.dtype.kind == "f" and not np.array_equal(np.isnan(got), nan):
        return "NaN in other places"
    if case.tolerance == 0.0:
        bits = {4: np.uint32, 8: np.uint64, 2: np.uint16, 1: np.uint8}[want.dtype.itemsize]
        wrong = (np.ascontiguousarray(got).view(bits) != np.ascontiguousarray(want).view(bits)) & ~nan
    else:
        finite = np.abs(want[np.isfinite(want)])
        scale = finite.max(initial=0.0) if case.sums else np.abs(want)
        with np.errstate(invalid="ignore"):
            close = (got == want) | (np.isfinite(want) & (np.abs(got - want) <= case.tolerance * scale + 1e-37))
        wrong = ~close & ~nan
    if not wrong.any():
        return None
    first = tuple(int(n[0]) for n in np.nonzero(np.atleast_1d(wrong)))
    is_, should = np.atleast_1d(got)[first], np.atleast_1d(want)[first]
    return f"{int(wrong.sum())} of {wrong.size} values, first {first}: {is_!r} for {should!r}"


def check(device: str = "cuda") -> list[tuple[str, str]]:
    """Each case with what is wrong with it, empty where nothing is."""
    want, found = interpreted(), []
    for case in cases():
        try:
            wrong = difference(case, values(case, device), want[case.name])
        except torsh.TorshError as e:
            wrong = f"{type(e).__name__}: {e}"
        found.append((case.name, wrong or ""))
    return found


def seconds(run: Callable[[], object], repeat: int = 20) -> float:
    """Time of one run on the device, by events; the least of several."""
    torsh.eval(run())
    torsh.eval(run())
    best = float("inf")
    for _ in range(repeat):
        start, end = (torsh.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torsh.eval(run())
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3)
    return best


def measure(device: str = "cuda", n: int = 1 << 26) -> list[tuple[str, float, str]]:
    """Kernel, figure and unit: memory-bound kernels as a share of a copy within the device, products in TFLOP/s."""
    side = int(n**0.5)
    x, y = torsh.rand(n, device=device), torsh.rand(n, device=device)
    m = torsh.rand(side, side, device=device)
    torsh.eval(x, y, m)
    copy = 8 * n / seconds(lambda: x.clone())
    rows = [("copy", copy / 1e9, "GB/s")]
    for name, run, moved in [
        ("add", lambda: x + y, 12 * n),
        ("exp(x) * y", lambda: x.exp() * y, 12 * n),
        ("sum", lambda: x.sum(), 4 * n),
        ("sum of rows", lambda: m.sum(dim=1), 4 * side * side),
        ("sum of columns", lambda: m.sum(dim=0), 4 * side * side),
        ("softmax", lambda: torsh.softmax(m, dim=-1), 8 * side * side),
        ("layer norm", lambda: F.layer_norm(m, (side,)), 8 * side * side),
        ("transpose", lambda: m.t() + 1.0, 8 * side * side),
    ]:
        rows.append((name, moved / seconds(run) / copy, "of a copy"))
    edge = min(side, 4096)
    a = torsh.rand(edge, edge, device=device)
    for name, t in [("product, float32", a), ("product, float16", a.to(torsh.float16))]:
        torsh.eval(t)
        rows.append((name, 2 * edge**3 / seconds(lambda t=t: t @ t) / 1e12, "TFLOP/s"))
    return rows


def report(device: str = "cuda") -> tuple[str, bool]:
    """The report, and whether all is well."""
    about = torsh.cuda.get_device_properties(device)
    found = check(device)
    wrong = [name for name, text in found if text]
    lines = ["# torsh on a CUDA device", "", f"torsh {torsh.__version__}, {platform.platform()}, {about}", ""]
    lines += [f"{len(found) - len(wrong)} of {len(found)} kinds of kernels are right.", ""]
    lines += ["| kernel | result |", "|---|---|"] + [f"| {name} | {text or 'right'} |" for name, text in found]
    lines += ["", "| kernel | figure |", "|---|---|"]
    # The simulator is no machine to measure, and slow.
    n = 1 << 12 if "simulator" in about.name else 1 << 26
    try:
        lines += [f"| {name} | {figure:.3g} {unit} |" for name, figure, unit in measure(device, n)]
    except torsh.TorshError as e:
        wrong.append("measurements")
        lines.append(f"| measurements | {type(e).__name__}: {e} |")
    return "\n".join(lines) + "\n", not wrong


def main() -> int:
    if sys.argv[1:2] == ["--interpret"]:
        np.savez(sys.argv[2], **{case.name: values(case, "cpu") for case in cases()})
        return 0
    if not torsh.cuda.is_available():
        try:
            torsh.zeros(1, device="cuda")
        except torsh.DeviceError as e:
            print(f"There is no CUDA device to check: {e}")
        return 1
    text, good = report()
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "cuda-report.md")
    path.write_text(text)
    print(text)
    print(f"Please send {path} to https://github.com/torsh-compiler/torsh/issues")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
