"""Machine code in packages: used where its maker is believed and it fits, else the graph is compiled; the same bits."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

import torsh
from torsh import _C, load

pytestmark = [
    pytest.mark.host_only("machine code in packages is the host's"),
    pytest.mark.compiled_only,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="packages have code for x86-64 alone"),
]
LEVELS = ("portable", "avx2", "avx512")
KEY = bytes(range(32))
REASON = "machine code of the package"


def step():
    """A training step whose state is updated in place."""
    torsh.manual_seed(3)
    model = torsh.nn.Sequential(
        torsh.nn.Linear(12, 20), torsh.nn.LayerNorm(20), torsh.nn.GELU(), torsh.nn.Dropout(0.1), torsh.nn.Linear(20, 5)
    )
    opt = torsh.optim.AdamW(model.parameters(), lr=1e-2)

    def train(x, y):
        opt.zero_grad()
        loss = torsh.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    rng = np.random.default_rng(0)
    x = torsh.from_numpy(rng.standard_normal((16, 12), dtype=np.float32))
    return train, (x, torsh.from_numpy(rng.integers(0, 5, 16)))


def bits(program, args, calls=3):
    """Results of some calls, and the state after them; what was compiled before is forgotten."""
    _C.clear_cache()
    out = [program(*args).numpy().tobytes() for _ in range(calls)]
    return out + [t.numpy().tobytes() for t in program.state_dict().values()]


def found(program):
    """How many kernels ran on code of the package, and how many there are."""
    steps = [s for p in program.explain()["programs"] for s in p["steps"] if s["kind"] == "kernel"]
    return sum(s["reason"] == REASON for s in steps), len(steps)


def test_a_training_step_runs_on_the_code_of_a_trusted_file(tmp_path):
    path = tmp_path / "step.torsh"
    train, args = step()
    torsh.export(train, args, path, targets=("native", *LEVELS), sign=KEY)
    untrusted = load(path)
    assert [c.level for c in untrusted.code] == list(LEVELS)
    assert all("nobody vouches" in c.unused for c in untrusted.code)
    compiled = bits(untrusted, args)
    assert found(untrusted)[0] == 0 and found(untrusted)[1] > 3
    program = load(path, trusted_keys=[_C.public_key(KEY)])
    assert bits(program, args) == compiled
    used, kernels = found(program)
    assert used == kernels > 3
    assert any(c.unused is None and c.kernels > 3 for c in program.code)
    # It goes with the program.
    del program
    gc.collect()
    again = load(path)
    assert bits(again, args) == compiled and found(again)[0] == 0


def test_gradients_are_the_same(tmp_path):
    path = tmp_path / "model.torsh"
    torsh.manual_seed(1)
    model = torsh.nn.Sequential(torsh.nn.Linear(6, 8), torsh.nn.Tanh(), torsh.nn.Linear(8, 2))
    x = torsh.ones(4, 6)
    torsh.export(model, (x,), path, targets=LEVELS, include_grad=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    results = []
    for sha256 in (None, digest, bytes.fromhex(digest)):
        _C.clear_cache()
        program = load(path, sha256=sha256)
        loss = program(x).square().sum()
        loss.backward()
        results.append([loss.item(), *(p.grad.numpy().tobytes() for p in program.parameters())])
        del program, loss
        gc.collect()
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("level", LEVELS)
def test_a_process_that_trusts_compiles_nothing(tmp_path, level):
    path = tmp_path / "step.torsh"
    train, args = step()
    torsh.export(train, args, path, targets=LEVELS, sign=KEY)
    np.save(tmp_path / "x.npy", args[0].numpy())
    np.save(tmp_path / "y.npy", args[1].numpy())
    script = (
        "import sys, numpy as np, torsh\n"
        "path, folder, key = sys.argv[1:4]\n"
        "x, y = (torsh.from_numpy(np.load(f'{folder}/{n}.npy')) for n in 'xy')\n"
        "p = torsh.load(path, trusted_keys=[bytes.fromhex(key)] if key else None)\n"
        "print([p(x, y).numpy().tobytes().hex() for _ in range(3)])\n"
    )

    def run(key):
        env = {**os.environ, "TORSH_LOG": "time,notes", "TORSH_ISA": level}
        command = [sys.executable, "-c", script, str(path), str(tmp_path), key]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if "does not have the instruction set level" in done.stderr:
            pytest.skip(f"this CPU lacks {level}")
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if "generated" in line]
        return done.stdout, lines, done.stderr

    out, lines, said = run("")
    assert lines and not any("from a package" in line for line in lines)
    assert f"code-x86_64-{level}.bin is not used: nobody vouches" in said
    trusted, lines, said = run(_C.public_key(KEY).hex())
    assert trusted == out and "is not used" not in said.replace("this machine lacks", "")
    for line in lines:
        made = line.split("generated ")[1].split(" kernels")[0]
        assert f"{made} of them from a package" in line


def test_what_is_refused(tmp_path):
    path, x = tmp_path / "f.torsh", torsh.ones(2)
    double = lambda x: x * 2  # noqa: E731
    with pytest.raises(torsh.ExportError, match="levels portable, avx2, avx512"):
        torsh.export(double, (x,), path, targets=("sse9",))
    with pytest.raises(torsh.ExportError, match="levels portable, avx2, avx512"):
        torsh.export(double, (x,), path, targets=())
    assert not path.exists()
    torsh.export(double, (x,), path, targets="portable")
    for bad in ("12", "0" * 63 + "g", b"short"):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            load(path, sha256=bad)
    with pytest.raises(TypeError, match="64 hexadecimal digits"):
        load(path, sha256=7)
    with pytest.raises(torsh.PackageError, match="not the one that is demanded"):
        load(path, sha256="0" * 64)
    with open(path, "rb") as file, pytest.raises(ValueError, match="path of a package"):
        load(file, sha256="0" * 64)


def test_the_same_function_gives_the_same_bytes_and_inspect_lists_them(tmp_path):
    a, b = tmp_path / "a.torsh", tmp_path / "b.torsh"
    for path in (a, b):
        train, args = step()
        torsh.export(train, args, path, targets=("avx2", "portable"), sign=KEY)
    assert a.read_bytes() == b.read_bytes()
    tool = [sys.executable, "-m", "torsh"]
    shown = subprocess.run([*tool, "inspect", str(a)], capture_output=True, text=True, check=True).stdout
    assert "format 3" in shown and "entry code-x86_64-avx2.bin: " in shown
    assert shown.count("not used: nobody vouches") == 3 and "code x86_64 avx2 (avx avx2 bmi1 " in shown
    digest = hashlib.sha256(a.read_bytes()).hexdigest()
    command = [*tool, "inspect", str(a), "--sha256", digest]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "code x86_64 portable (" in shown and "used, " in shown and "not used: nobody" not in shown


def test_a_program_with_code_within_another_function(tmp_path):
    path = tmp_path / "f.torsh"
    torsh.export(lambda x: torsh.exp(x) + 1, (torsh.ones(7, 300),), path, targets=LEVELS)
    x = torsh.linspace(-3, 3, 2100).reshape(7, 300)
    program = load(path, sha256=hashlib.sha256(path.read_bytes()).digest())
    outer = torsh.compile(lambda x: program(x).sum(1) * 2)
    assert outer(x).tolist() == ((torsh.exp(x) + 1).sum(1) * 2).tolist()
    assert program(x).tolist() == (torsh.exp(x) + 1).tolist()
