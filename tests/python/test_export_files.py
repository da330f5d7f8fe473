"""The files that torsh.export writes: what is refused, bytes, keys, golden packages, the command."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from export_cases import bits, load, training_step

import torsh
from torsh import nn

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


# -- what cannot be exported -------------------------------------------------------------------------------


def test_refusals(tmp_path):
    path, x = tmp_path / "f.torsh", torsh.ones(2)
    kept = []
    cases = [
        (lambda: torsh.export(lambda x: x.add_(1), (x,), path), torsh.ExportError, "argument 0 in place"),
        (lambda: torsh.export(lambda x: kept.append(x + 1) or x * 2, (x,), path), torsh.ExportError, "keeps it beyond"),
        (lambda: torsh.export(lambda x: x if x.sum() > 0 else -x, (x,), path), torsh.TraceError, "needs a value"),
        (lambda: torsh.export(lambda x: x, (object(),), path), torsh.ExportError, "is a object"),
        (lambda: torsh.export(lambda x: {x}, (x,), path), torsh.ExportError, "result  is a set"),
        (lambda: torsh.export(lambda x: x, x, path), TypeError, "tuple or a dict"),
        (lambda: torsh.export(3, (x,), path), TypeError, "function or a module"),
        (lambda: torsh.export(lambda x: x, (x,), path, targets=("avx1024",)), torsh.ExportError, "may have machine"),
        (lambda: torsh.export(lambda x: x, (x,), path, dynamic=True), TypeError, "dynamic must be a dict"),
        (lambda: torsh.export(lambda x: x, (x,), path, metadata={"a": 1}), TypeError, "metadata"),
        (lambda: torsh.export(lambda x: x, (x,), path, sign=b"short"), ValueError, "32 bytes"),
        (lambda: torsh.export(lambda x: x, (x,), tmp_path / "no" / "f.torsh"), torsh.ExportError, "cannot create"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()
        kept.clear()
        assert not path.exists()
    assert not [n for n in os.listdir(tmp_path) if n.endswith(".part")]
    assert (x + 1).tolist() == [2.0, 2.0], "torsh works on after refusals"


# -- the file ----------------------------------------------------------------------------------------------


def test_the_same_function_gives_the_same_bytes(tmp_path):
    script = (
        "import sys, torsh\nfrom torsh import nn\ntorsh.manual_seed(1)\n"
        "m = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))\nopt = torsh.optim.Adam(m.parameters())\n"
        "def step(x, y):\n    l = nn.functional.cross_entropy(m(x), y)\n    l.backward()\n    opt.step()\n"
        "    opt.zero_grad()\n    return l\n"
        "torsh.export(step, (torsh.ones(3, 4), torsh.tensor([0, 1, 1])), sys.argv[1], metadata={'b': '1', 'a': '2'})\n"
    )
    files = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.torsh"
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, env=env)
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_the_file_is_a_plain_archive(tmp_path):
    model = nn.Linear(8, 8)
    path = tmp_path / "m.torsh"
    size = torsh.export(model, (torsh.ones(1, 8),), path, metadata={"who": "me"}, license="MIT", name="layer")
    assert size == path.stat().st_size
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
        assert z.namelist() == ["manifest.json", "graph.txt", "weights.safetensors"]
        assert all(i.compress_type == zipfile.ZIP_STORED for i in z.infolist())
        manifest = json.loads(z.read("manifest.json"))
        (tmp_path / "w.safetensors").write_bytes(z.read("weights.safetensors"))
    assert bits(load(tmp_path / "w.safetensors")["weight"]) == bits(model.weight)
    program = load(path)
    assert (program.name, program.license, program.metadata) == ("layer", "MIT", {"who": "me"})
    assert str(ROOT) not in json.dumps(manifest) and str(tmp_path) not in program.graph
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_the_manifest_fits_its_schema(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "package.schema.json").read_text())
    model = nn.Linear(3, 2)
    torsh.export(model, (torsh.ones(1, 3),), tmp_path / "m.torsh", include_grad=True, metadata={"a": "b"})
    jsonschema.validate(load(tmp_path / "m.torsh").manifest, schema)
    if platform.machine() == "x86_64":
        dynamic = {"input": {0: torsh.Dim("n", max=9)}}
        torsh.export(
            model, (torsh.ones(2, 3),), tmp_path / "n.torsh", targets="avx2", dynamic=dynamic, include_grad=True
        )
        manifest = load(tmp_path / "n.torsh").manifest
        assert [e["name"] for e in manifest["entries"] if e["name"].startswith("program")], "lowered programs"
        jsonschema.validate(manifest, schema)


def test_a_killed_export_leaves_the_old_file_or_the_new(tmp_path):
    """A writer that puts two packages into one place in turn is killed at many moments; one of them stands, whole."""
    path = tmp_path / "m.torsh"
    script = (
        "import sys, torsh\nx = torsh.ones(1 << 18)\nws = [torsh.full((1 << 18,), v) for v in (2.0, 3.0)]\n"
        "torsh.eval(x, *ws)\nfs = [lambda x, w=w: x * w for w in ws]\n"
        "for i, f in enumerate(fs):\n    torsh.export(f, (x,), f'{sys.argv[1]}.{i}', name='f')\n"
        "torsh.export(fs[0], (x,), sys.argv[1], name='f')\nprint('go', flush=True)\n"
        "while True:\n    for f in fs[::-1]:\n        torsh.export(f, (x,), sys.argv[1], name='f')\n"
    )
    for i in range(10):
        child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"go\n"
        time.sleep(0.003 * i)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        whole = [path.with_name(f"m.torsh.{k}").read_bytes() for k in (0, 1)]
        assert path.read_bytes() in whole
        assert load(path)(torsh.ones(1 << 18))[0].item() in (2.0, 3.0)
    # What the last of them left goes with the next export.
    (tmp_path / ".torsh-left.part").write_bytes(b"half")
    torsh.export(lambda x: x, (torsh.ones(1),), tmp_path / "other.torsh")
    assert not list(tmp_path.glob(".torsh-*"))


# -- keys --------------------------------------------------------------------------------------------------


def test_signatures(tmp_path):
    from torsh import _C

    key, other = bytes(range(32)), bytes(range(1, 33))
    public = _C.public_key(key)
    signed, plain = tmp_path / "signed.torsh", tmp_path / "plain.torsh"
    torsh.export(lambda x: x + 1, (torsh.ones(1),), signed, sign=key)
    torsh.export(lambda x: x + 1, (torsh.ones(1),), plain)
    assert load(signed, trusted_keys=[_C.public_key(other), public])(torsh.ones(1)).item() == 2.0
    assert load(signed).signer == public and load(plain).signer is None
    assert load(signed, trusted_keys=[public.hex()]).signer == public
    with pytest.raises(torsh.PackageError, match="none of the trusted keys"):
        load(signed, trusted_keys=[_C.public_key(other)])
    with pytest.raises(torsh.PackageError, match="not signed"):
        load(plain, trusted_keys=[public])
    with pytest.raises(torsh.PackageError):
        load(signed, trusted_keys=[])
    with pytest.raises(TypeError, match="list of keys"):
        load(signed, trusted_keys=public)
    # Another manifest under the same signature, and the signature of another file.
    data = signed.read_bytes()
    for old, new in ((b'"license":null', b'"license":"MI"'), (b"producer", b"produceR")):
        assert old in data
        forged = tmp_path / "forged.torsh"
        forged.write_bytes(_with_crc(data, old, new))
        with pytest.raises(torsh.PackageError, match="does not verify"):
            load(forged)


def _with_crc(data: bytes, old: bytes, new: bytes) -> bytes:
    """The file with a change in its manifest, whose checksum is corrected."""
    import zlib

    with zipfile.ZipFile(__import__("io").BytesIO(data)) as z:
        manifest = z.read("manifest.json")
    changed = manifest.replace(old, new)
    crc = [zlib.crc32(x).to_bytes(4, "little") for x in (manifest, changed)]
    return data.replace(manifest, changed).replace(*crc)


# -- golden packages ---------------------------------------------------------------------------------------

GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize("version", sorted(p.name for p in (GOLDEN / "packages").iterdir()))
def test_packages_of_every_release_load(version):
    spec = importlib.util.spec_from_file_location("make_packages", GOLDEN / "make_packages.py")
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    expected = json.loads((GOLDEN / "packages" / version / "expected.json").read_text())
    for name, results in expected.items():
        program = load(GOLDEN / "packages" / version / f"{name}.torsh")
        _, args, _ = golden.MAKERS[name]()
        for want in results:
            got = golden.plain(program(*args))
            got, want = (list(x.values()) if isinstance(x, dict) else [x] for x in (got, want))
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert load(GOLDEN / "packages" / version / "gradients.torsh").signer is not None


# -- the command -------------------------------------------------------------------------------------------


def command(*words, status: int = 0):
    """Runs `python -m torsh`."""
    done = subprocess.run(
        [sys.executable, "-m", "torsh", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout + done.stderr


@pytest.mark.host_only("the command is given a model of the host")
def test_the_command(tmp_path):
    (tmp_path / "model.py").write_text(
        "import torsh\ntorsh.manual_seed(0)\nclass Holder:\n    model = torsh.nn.Linear(3, 2)\n"
        "example_args = (torsh.ones(2, 3),)\ndef more():\n    return (torsh.ones(4, 3),)\n"
    )
    key, a, b = tmp_path / "key", tmp_path / "a.torsh", tmp_path / "b.torsh"
    command("keygen", key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    said = command("keygen", key, status=1)
    assert f"{key} exists" in said and "another name" in said and key.read_bytes() == before
    (tmp_path / "half.pub").write_text("")
    assert "half.pub exists" in command("keygen", tmp_path / "half", status=1)
    assert not (tmp_path / "half").exists()
    assert command("--version") == f"torsh {torsh.__version__}\n"
    source = f"{tmp_path / 'model.py'}:Holder.model"
    out = command("export", source, "-o", a, "--sign", key, "--license", "MIT", "--metadata", "who=me")
    assert f"{a.stat().st_size} bytes" in out
    command("export", source, "-o", b, "--args", "more")
    command("export", source, "-o", b, "--args", "nothing", status=1)
    command("export", f"{source}.nothing", "-o", b, status=1)
    assert "good, signed by" in command("verify", a, b)
    assert "good" in command("verify", a, "--trusted-key", f"{key}.pub")
    assert "not signed" in command("verify", a, b, "--trusted-key", f"{key}.pub", status=1)
    (tmp_path / "bad.torsh").write_bytes(a.read_bytes()[:-1])
    assert "refused" in command("verify", tmp_path / "bad.torsh", status=1)
    shown = command("inspect", a, "--graph", "--kernels")
    for text in (
        "MIT",
        "who: me",
        "input input: float32 [2, 3]",
        "weight: float32 [2, 3] (parameter)",
        "graph {",
        "kernels",
    ):
        assert text in shown, (text, shown)
    assert json.loads(command("inspect", a, "--manifest"))["name"] == "Linear"
    command("diff", a, a)
    assert "[2, 3]" not in command("diff", a, b, status=1).splitlines()[0]
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, np.arange(6, dtype=np.float32).reshape(2, 3))
    command("run", a, "--input", f"input={x}", "--output", f"output={y}")
    want = load(a)(torsh.from_numpy(np.load(x)))
    assert np.load(y).tobytes() == want.detach().numpy().tobytes()
    given = ("--input", f"input={x}")
    assert "missing inputs: input" in command("run", a, status=1)
    # A file alone is that of the only output, under its own name.
    command("run", a, *given, "--output", tmp_path / "zz")
    assert np.load(tmp_path / "zz").tobytes() == np.load(y).tobytes()
    assert "there is no 'zz'; the names are output" in command("run", a, *given, "--output", "zz=y.npy", status=1)
    assert "needs NAME=FILE.npy, got 'x.npy'; the names are input" in command("run", a, "--input", "x.npy", status=1)
    assert "'input' was given before" in command("run", a, *given, *given, status=1)
    # The other byte order is converted.
    np.save(x, np.arange(6, dtype=">f4").reshape(2, 3))
    command("run", a, *given, "--output", f"output={tmp_path / 'z.npy'}")
    assert np.load(tmp_path / "z.npy").tobytes() == np.load(y).tobytes()
    np.savez(tmp_path / "x.npz", np.zeros(2))
    assert "several arrays" in command("run", a, "--input", f"input={tmp_path / 'x.npz'}", status=1)
    assert "Unknown device" in command("run", a, *given, "--device", "tpu", status=1)
    np.save(x, np.arange(6, dtype=np.float64).reshape(2, 3))
    assert "must be float32" in command("run", a, "--input", f"input={x}", status=1)
    command("run", status=2)


def test_errors_of_an_exported_script_are_told_without_torsh(tmp_path):
    script = tmp_path / "model.py"
    cases = {
        "def f(:\n": ("SyntaxError", "def f(:"),
        "import torsh\n1 / 0\n": ("ZeroDivisionError", "line 2, in <module>"),
        "raise SystemExit('no')\n": ("SystemExit: no", "line 1"),
        "def f(x):\n    return x.nothing\nimport torsh\nexample_args = (torsh.ones(1),)\n": (
            "AttributeError",
            "line 2, in f",
        ),
        "def f(x):\n    return x\ndef example_args():\n    return {}['a']\n": ("KeyError: 'a'", "line 4"),
    }
    for text, (error, where) in cases.items():
        script.write_text(text)
        said = command("export", f"{script}:f", "-o", tmp_path / "never.torsh", status=1)
        assert error in said and where in said and str(script) in said, said
        assert "_cli.py" not in said and "importlib" not in said and "_export.py" not in said, said
    assert not (tmp_path / "never.torsh").exists()


@pytest.mark.compiled_only
@pytest.mark.host_only("torsh-run runs on the host")
def test_torsh_run(tmp_path):
    """The Rust program gives the bits that Python gives, if it has been built."""
    binary = Path(os.environ.get("TORSH_RUN_BINARY", ROOT / "target" / "release" / "torsh-run"))
    if not binary.exists():
        pytest.skip("torsh-run has not been built (cargo build --release -p torsh-run)")

    def run(*words, status: int = 0):
        done = subprocess.run([binary, *map(str, words)], capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 4))
    opt = torsh.optim.AdamW(model.parameters(), lr=1e-2)
    x, y = torsh.randn(8, 16), torsh.randint(4, (8,))
    path = tmp_path / "step.torsh"
    torsh.export(training_step(model, opt), (x, y), path)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())
    given = ("--input", f"x={tmp_path / 'x.npy'}", "--input", f"y={tmp_path / 'y.npy'}")
    run(path, *given, "--output", tmp_path / "loss.npy", "--repeat", 3, "--save-state", tmp_path / "state")
    program = load(path)
    for _ in range(3):
        loss = program(x, y)
    assert np.load(tmp_path / "loss.npy").tobytes() == loss.numpy().tobytes()
    for name, value in program.state_dict().items():
        assert np.load(tmp_path / "state" / f"{name}.npy").tobytes() == value.detach().numpy().tobytes(), name
    assert "input x: float32 [8, 16]" in run(path, "--info")
    assert "median" in run(path, *given, "--bench")
    assert "is missing" in run(path, status=1)
    swapped = ("--input", f"x={tmp_path / 'y.npy'}", "--input", f"y={tmp_path / 'y.npy'}")
    assert 'input "x" must be float32, got int64' in run(path, *swapped, status=1)
    np.save(tmp_path / "x.npy", x.numpy().astype(">f4"))
    run(path, *given, "--output", tmp_path / "big.npy")
    np.save(tmp_path / "x.npy", x.numpy())
    run(path, *given, "--output", tmp_path / "little.npy")
    assert np.load(tmp_path / "big.npy").tobytes() == np.load(tmp_path / "little.npy").tobytes()
    assert "was given before" in run(path, *given, *given, status=2)
    np.save(tmp_path / "x.npy", x.numpy()[:2])
    assert "must have shape [8, 16], got [2, 16]" in run(path, *given, status=1)
    (tmp_path / "x.npy").write_bytes(b"nonsense")
    run(path, *given, status=1)
    run(path, "--nothing", status=2)
    assert "not signed" in run(path, *given, "--trusted-key", "0" * 64, status=1)


class _Exchange(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("a", torsh.zeros(3))
        self.register_buffer("b", torsh.ones(3))

    def forward(self, x):
        y = x + self.a
        self.a, self.b = self.b, self.a
        return y


def test_tensors_put_in_the_place_of_others_are_refused(tmp_path):
    with pytest.raises(torsh.ExportError, match=r"another tensor in the place of '[ab]'.*copy_"):
        torsh.export(_Exchange(), (torsh.ones(3),), tmp_path / "a.torsh")
    assert not list(tmp_path.iterdir())


class _Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_numbers_that_a_function_changes_are_refused(tmp_path):
    with pytest.raises(torsh.ExportError, match="changes 'calls' from 0 to 1.*register_buffer"):
        torsh.export(_Counter(), (torsh.ones(3),), tmp_path / "a.torsh")
    assert not list(tmp_path.iterdir())


def test_texts_of_a_package_stay_on_their_line(tmp_path, capsys):
    path = tmp_path / "a.torsh"
    with pytest.raises(torsh.ExportError, match="cannot be printed"):
        torsh.export(lambda x: x, (torsh.ones(3),), path, name="a\nlicense: MIT")
    torsh.export(lambda x: x, (torsh.ones(3),), path, metadata={"k": "\x1b[8m\nsigned"})
    from torsh._cli import main

    assert main(["inspect", str(path)]) == 0
    assert "metadata k: \\x1b[8m\\nsigned\n" in capsys.readouterr().out
