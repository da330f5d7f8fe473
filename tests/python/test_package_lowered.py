"""Lowered programs in packages: used where their maker is believed, else the passes run; the same bits."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from package_builder import build
from test_package_code import KEY, LEVELS, bits, step

import torsh
from torsh import _C, load

pytestmark = [
    pytest.mark.names_devices,
    pytest.mark.compiled_only,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="packages have code for x86-64 alone"),
]
HEAD = 8 + 4 + 32


def entries(path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path, files: dict[str, bytes], edit=None) -> str:
    """Writes a package of these entries, under hashes that fit; returns the file's hash."""
    manifest = json.loads(files["manifest.json"])
    for entry in manifest["entries"]:
        data = files[entry["name"]]
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if edit is not None:
        edit(manifest)
    path.write_bytes(build({**files, "manifest.json": json.dumps(manifest).encode()}))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def exported(path, fn, *args, **options) -> dict[str, bytes]:
    torsh.export(fn, args, path, targets=("portable",), **options)
    return entries(path)


def test_a_process_that_trusts_runs_no_passes(tmp_path):
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
        "print(p.lowered[0].steps, [m for m in sys.modules if m in ('torsh._guards', 'torsh._collector')])\n"
    )

    def run(key, **more):
        env = {**os.environ, "TORSH_LOG": "time,notes", **more}
        command = [sys.executable, "-c", script, str(path), str(tmp_path), key]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        results, told = done.stdout.splitlines()
        return results, told, done.stderr

    results, told, said = run("")
    assert "compiled " in said and "program.bin is not used: nobody vouches" in said and told == "0 []"
    trusted, told, said = run(_C.public_key(KEY).hex())
    assert trusted == results and "compiled " not in said and not told.startswith("0 ") and told.endswith(" []")
    other, told, said = run(_C.public_key(KEY).hex(), TORSH_FUSION="0")
    assert "program.bin is not used: another version of torsh, one with other settings" in said
    assert other == results and "compiled " in said


def test_the_graph_is_there_when_somebody_asks(tmp_path):
    path = tmp_path / "step.torsh"
    train, args = step()
    torsh.export(train, args, path, targets=("portable",))
    digest = hashlib.sha256(path.read_bytes()).digest()
    program, plain = load(path, sha256=digest), load(path)
    assert program.lowered[0].unused is None and bits(program, args) == bits(plain, args)
    (told,), (wanted,) = program.explain()["programs"], plain.explain()["programs"]
    assert told["nodes"] == wanted["nodes"] > 10
    assert program.graph == plain.graph
    # A traced call takes the graph.
    fresh = load(path, sha256=digest)
    traced = torsh.compile(lambda *leaves: fresh(*leaves))
    direct = load(path)
    assert [traced(*args).tolist() for _ in range(2)] == [direct(*args).tolist() for _ in range(2)]


def test_a_graph_beyond_the_limits_of_now_is_read_under_others(tmp_path):
    path = tmp_path / "step.torsh"
    train, args = step()
    torsh.export(train, args, path, targets=("portable",))
    program = load(path, sha256=hashlib.sha256(path.read_bytes()).digest())
    wanted = load(path)
    for _ in range(2):
        with torsh.limits.override(max_nodes=3), pytest.raises(torsh.TorshError, match="more than 3 nodes"):
            _ = program.graph
    assert program.graph == wanted.graph and bits(program, args) == bits(wanted, args)


def test_gradients_have_a_program_too(tmp_path):
    path = tmp_path / "model.torsh"
    torsh.manual_seed(1)
    model = torsh.nn.Sequential(torsh.nn.Linear(6, 8), torsh.nn.Tanh(), torsh.nn.Linear(8, 2))
    files = exported(path, model, torsh.ones(4, 6), include_grad=True)
    names = ["manifest.json", "graph.txt", "vjp.txt", "program.bin", "program-vjp.bin", "code-x86_64-portable.bin"]
    assert list(files) == [*names, "weights.safetensors"]
    program = load(path, sha256=hashlib.sha256(path.read_bytes()).digest())
    assert [p.entry for p in program.lowered] == ["program.bin", "program-vjp.bin"]
    assert all(p.unused is None and p.steps > 1 for p in program.lowered)
    x = torsh.linspace(-1, 1, 24).reshape(4, 6)
    with torsh.no_grad():
        wanted = model(x).tolist()
        assert program(x).tolist() == wanted
    assert program(x).tolist() == wanted
    program(x).sum().backward()
    assert all(p.grad is not None for p in program.parameters())


def test_sizes_that_vary_have_code_at_those_of_the_example(tmp_path):
    path = tmp_path / "rows.torsh"
    torsh.manual_seed(1)
    model = torsh.nn.Sequential(torsh.nn.Linear(6, 300), torsh.nn.Tanh(), torsh.nn.LayerNorm(300))
    batch = torsh.Dim("batch", max=64)
    files = exported(path, model, torsh.ones(12, 6), dynamic={"input": {0: batch}})
    manifest = json.loads(files["manifest.json"])
    assert manifest["version"] == 3 and manifest["lowered"][0]["sizes"] == [12]
    digest = hashlib.sha256(path.read_bytes()).digest()
    script = (
        "import sys, torsh\n"
        "p = torsh.load(sys.argv[1], sha256=sys.argv[2] or None)\n"
        "for n in (12, 5, 12):\n"
        "    print(p(torsh.linspace(-1, 1, 6 * n).reshape(n, 6)).numpy().tobytes().hex())\n"
        "    print('after', n, file=sys.stderr)\n"
    )

    def run(sha256):
        env = {**os.environ, "TORSH_LOG": "time", "TORSH_ISA": "portable"}
        command = [sys.executable, "-c", script, str(path), sha256]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr.split("after")

    plain, said = run("")
    assert "compiled " in said[0] and "compiled " in said[1]
    trusted, said = run(digest.hex())
    assert trusted == plain
    # Before the first result passes run on the argument alone, which is pending.
    assert any("from a package" in line for line in said[0].splitlines() if "generated " in line)
    assert said[0].count("compiled ") == 1 and said[1].count("compiled ") == 2
    x = torsh.linspace(-1, 1, 72).reshape(12, 6)
    assert load(path, sha256=digest)(x).tolist() == model(x).tolist()


def test_a_program_that_is_not_whole_is_refused(tmp_path):
    path, other = tmp_path / "f.torsh", tmp_path / "g.torsh"
    x = torsh.linspace(-3, 3, 600).reshape(2, 300)
    files = exported(path, lambda x: torsh.softmax(x, 1) @ x.T + 1, x)
    data = files["program.bin"]
    wanted = load(path)(x).tolist()
    for n in [*range(HEAD, len(data), 7), len(data) - 1]:
        digest = packed(other, {**files, "program.bin": data[:n]})
        with pytest.raises(torsh.PackageError, match=r"program\.bin: "):
            load(other, sha256=digest)
        # Nobody is believed: nothing is looked at.
        assert n % 5 or load(other).lowered[0].unused is not None
    for body in (b"\xff" * 40, b"\x00\xff\xff\xff\xff\x7f", b"\x00" * 4096, data[HEAD:] + b"\x00"):
        digest = packed(other, {**files, "program.bin": data[:HEAD] + body})
        with pytest.raises(torsh.PackageError, match=r"program\.bin: "):
            load(other, sha256=digest)
    # A head that is another's is no error.
    for start in (b"", b"x", b"torshPR\n\2\0\0\0", data[: HEAD - 1] + bytes([data[HEAD - 1] ^ 1])):
        digest = packed(other, {**files, "program.bin": start + data[HEAD:]})
        program = load(other, sha256=digest)
        assert "another version of torsh" in program.lowered[0].unused and program(x).tolist() == wanted


def test_every_byte_of_a_program_that_is_believed_may_lie(tmp_path):
    """A lie is refused, or is another program that stays within its memory."""
    path, other = tmp_path / "f.torsh", tmp_path / "g.torsh"
    x = torsh.linspace(-3, 3, 12).reshape(2, 6)
    index = torsh.tensor([1, 0, 1])

    def fn(x, index):
        return torsh.softmax(x, 1)[index] @ x.T.contiguous()

    files = exported(path, fn, x, index)
    data = files["program.bin"]
    rng, refused, ran = np.random.default_rng(0), 0, 0
    for at in range(HEAD, len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        digest = packed(other, {**files, "program.bin": bytes(changed)})
        try:
            program = load(other, sha256=digest)
        except (torsh.PackageError, torsh.LimitError):
            refused += 1
            continue
        try:
            assert program(x, index).shape == (3, 2)
            ran += 1
        except (IndexError, torsh.LimitError):
            ran += 1
    assert refused > 50 and ran > 5


def test_the_word_of_its_maker_is_what_a_program_stands_on(tmp_path):
    path, other = tmp_path / "f.torsh", tmp_path / "g.torsh"
    x = torsh.tensor([1.0, 2.0, 3.0])
    double = exported(path, lambda x: x * 2, x)
    wrong = exported(other, lambda x: x + 1, x)["program.bin"]
    # As it is, it is known to be of another graph.
    digest = packed(other, {**double, "program.bin": wrong})
    program = load(other, sha256=digest)
    assert program(x).tolist() == [2.0, 4.0, 6.0] and "another graph" in program.lowered[0].unused
    # Under the head of the right one it is believed, by those who say so.
    forged = {**double, "program.bin": double["program.bin"][:HEAD] + wrong[HEAD:]}
    digest = packed(other, forged)
    # The word counts for this file alone: equal graphs of others, before it and after it, mean what they say.
    right = torsh.compile(lambda x: x * 2)
    assert load(other, sha256=digest)(x).tolist() == [2.0, 3.0, 4.0]
    assert right(x).tolist() == [2.0, 4.0, 6.0]
    assert load(other)(x).tolist() == [2.0, 4.0, 6.0]
    assert load(other, sha256=digest)(x).tolist() == [2.0, 3.0, 4.0]
    assert torsh.compile(lambda x: x * 2)(x).tolist() == [2.0, 4.0, 6.0] == (x * 2).tolist()
    # What takes or gives something else is refused even so.
    for shape in ((4,), (3, 1)):
        wrong = exported(path, lambda x: x + 1, torsh.ones(*shape))["program.bin"]
        digest = packed(other, {**double, "program.bin": double["program.bin"][:HEAD] + wrong[HEAD:]})
        with pytest.raises(torsh.PackageError, match=r"program\.bin: a program that takes or gives something else"):
            load(other, sha256=digest)


def test_what_the_manifest_may_say_of_programs(tmp_path):
    path, other = tmp_path / "f.torsh", tmp_path / "g.torsh"
    files = exported(path, lambda x: x * 2, torsh.ones(3))
    (about,) = json.loads(files["manifest.json"])["lowered"]
    cases = [
        ([about, about], "stands twice"),
        ([{**about, "graph": "vjp.txt"}], "of no graph"),
        ([{**about, "graph": "weights.safetensors"}], "of no graph"),
        ([{**about, "entry": "program-vjp.bin"}], "an entry of another name"),
        ([{**about, "entry": "graph.txt"}], "an entry of another name"),
        ([{**about, "sizes": [3]}], "sizes that are not those of the dims"),
        ([{**about, "run": 1}], "unknown field"),
        ({"entry": 1}, "not a manifest"),
        ([], "has no place here"),
    ]
    for lowered, why in cases:
        digest = packed(other, files, lambda m, lowered=lowered: m.update(lowered=lowered))
        for sha256 in (None, digest):
            with pytest.raises(torsh.PackageError, match=why):
                load(other, sha256=sha256)
    gone = {n: d for n, d in files.items() if n != "program.bin"}
    other.write_bytes(build(gone))
    with pytest.raises(torsh.PackageError, match=r"program\.bin: the entry is missing"):
        load(other)
    order = ["manifest.json", "program.bin", "graph.txt", "code-x86_64-portable.bin", "weights.safetensors"]
    other.write_bytes(build({n: files[n] for n in order}))
    with pytest.raises(torsh.PackageError, match="stands behind"):
        load(other)


def test_calls_without_a_trace_do_what_traced_ones_do(tmp_path):
    path = tmp_path / "step.torsh"
    train, args = step()
    torsh.export(train, args, path)
    direct, traced = load(path), load(path)
    traced._compiled = torsh.compile(lambda *leaves: traced._apply(*leaves))
    assert bits(direct, args) == bits(traced, args)
    (told,) = direct.explain()["programs"]
    assert told["reason"] == "first call" and told["hits"] == 2 and told["guards"] == 0
    assert all(os.path.basename(__file__) in (s["location"] or "") or "code" in s["location"] for s in told["steps"])
    # A tensor of the state is replaced, and one that somebody holds keeps its value.
    name, held = next(iter(direct.state_dict().items()))
    before = held.tolist()
    direct(*args)
    assert held.tolist() == before or direct.state_dict()[name].tolist() == held.tolist()
    # Pending arguments, and results that are arguments again.
    y = direct(args[0] * 1.0, args[1] + 0)
    assert y.shape == ()


def test_an_error_of_a_run_names_the_line_of_the_call(tmp_path):
    path = tmp_path / "take.torsh"
    torsh.export(lambda x, i: x[i], (torsh.ones(3), torsh.tensor([0, 1])), path)
    program = load(path)
    assert program(torsh.ones(3), torsh.tensor([2, 0])).tolist() == [1.0, 1.0]
    with pytest.raises(IndexError) as first:
        program(torsh.ones(3), torsh.tensor([0, 3])).tolist()
    with pytest.raises(IndexError) as second:
        program(torsh.ones(3), torsh.tensor([0, 4])).tolist()
    for caught in (first, second):
        assert str(caught.value.location) == f"{__file__}:{caught.traceback[0].lineno + 1}"


@pytest.mark.parametrize("targets", [("native",), ("portable",)])
def test_a_plan_is_that_of_the_program_that_a_call_runs(tmp_path, targets):
    """State that a run replaces is donated in both, so that there is nothing left to compile."""
    path = tmp_path / "sum.torsh"
    total = torsh.zeros(7)

    def add(x):
        total.add_(x)
        return total * 3

    torsh.export(add, (torsh.ones(7),), path, targets=targets)
    program = load(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert program(torsh.ones(7)).tolist() == [3.0] * 7
    before = _C.cache_info()
    plan = _C.package_plan(program._package)
    after = _C.cache_info()
    assert (after["misses"], after["hits"]) == (before["misses"], before["hits"] + 1)
    assert plan["kernels"] >= 1 and len(plan["steps"]) >= plan["kernels"]


def test_a_program_that_writes_an_argument_of_its_own_state(tmp_path):
    """An argument that shares memory with what a call writes is read before it is written."""
    path = tmp_path / "sum.torsh"
    total = torsh.zeros(3)

    def add(x):
        total.add_(x)
        return total * 2

    torsh.export(add, (torsh.ones(3),), path)
    program = load(path)
    assert program(torsh.ones(3)).tolist() == [2.0, 2.0, 2.0]
    (state,) = program._state
    assert program(state).tolist() == [4.0, 4.0, 4.0]
    assert state.tolist() == [2.0, 2.0, 2.0]
