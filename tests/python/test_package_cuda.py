"""Kernels for CUDA devices in packages, as far as no device is needed: exports, what they say where something is
missing, and the command. What devices make of them: `tests/cuda_device/test_package_kernels.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import torsh
from torsh import _C

pytestmark = [pytest.mark.names_devices, pytest.mark.compiled_only]
ROOT = Path(__file__).resolve().parents[2]
KEY = bytes(range(32))


def model():
    torsh.manual_seed(2)
    return torsh.nn.Sequential(torsh.nn.Linear(6, 5), torsh.nn.Softmax(1))


def missing(tmp_path_factory) -> str | None:
    """Why no kernels can be compiled here; None where they can."""
    try:
        torsh.export(model(), (torsh.ones(2, 6),), tmp_path_factory.mktemp("probe") / "m.torsh", targets="sm_90")
    except torsh.ExportError as e:
        return str(e)
    return None


@pytest.fixture(scope="module", autouse=False)
def nvrtc(tmp_path_factory):
    why = missing(tmp_path_factory)
    if why is not None:
        assert "kernels for sm_90 need NVRTC" in why and not os.environ.get("REQUIRE_NVRTC")
        pytest.skip(why)


def test_kernels_for_architectures_that_are_not_here(nvrtc, tmp_path):
    a, b = tmp_path / "a.torsh", tmp_path / "b.torsh"
    x = torsh.linspace(-1, 1, 12).reshape(2, 6)
    targets = ("native", "sm_90", "sm_80", "compute_90", "portable")
    torsh.export(model(), (x,), a, targets=targets, sign=KEY)
    torsh.export(model(), (x,), b, targets=targets[::-1], sign=KEY)
    assert a.read_bytes() == b.read_bytes()
    with zipfile.ZipFile(a) as archive:
        names = archive.namelist()
        code = {n: archive.read(n) for n in names if n.startswith("cuda-")}
    assert names[-4:] == ["cuda-sm_80.bin", "cuda-sm_90.bin", "cuda-compute_90.bin", "weights.safetensors"]
    program = torsh.load(a, trusted_keys=[_C.public_key(KEY)])
    manifest = program.manifest
    assert manifest["version"] == 3
    assert [c["target"] for c in manifest["cuda"]] == ["sm_80", "sm_90", "compute_90"]
    cubins = [code["cuda-sm_80.bin"], code["cuda-sm_90.bin"]]
    assert all(c.startswith(b"torshCU\n") and b"\x7fELF" in c for c in cubins) and cubins[0] != cubins[1]
    assert b".target sm_90" in code["cuda-compute_90.bin"] and b"\x7fELF" not in code["cuda-compute_90.bin"]
    for cuda in manifest["cuda"]:
        # The test of a device is among them: whoever has no NVRTC must pass it, too.
        symbols = [k["symbol"] for k in cuda["kernels"]]
        assert "torsh_self_test" in symbols and len(symbols) > 2
        assert cuda["generator"].startswith(f"torsh {torsh.__version__} generator ")
        assert all(s.encode() in code[cuda["entry"]] for s in symbols)
    assert manifest["cuda"][0]["nvrtc"] == manifest["cuda"][1]["nvrtc"]
    # The CPU runs what is its own.
    assert [c.unused for c in program.code] == [None] * 4
    np.testing.assert_allclose(program(x).numpy(), model()(x).detach().numpy(), rtol=1e-6)
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "package.schema.json").read_text())
    jsonschema.validate(manifest, schema)
    for edit in ({"version": 1}, {"cuda": []}, {"cuda": [{**manifest["cuda"][0], "target": "gfx90a"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**manifest, **edit}, schema)


def test_the_command_shows_kernels(nvrtc, tmp_path):
    x, key = torsh.ones(2, 6), _C.public_key(KEY).hex()
    a, b = tmp_path / "a.torsh", tmp_path / "b.torsh"
    torsh.export(model(), (x,), a, targets=("sm_80", "sm_90"), sign=KEY)
    torsh.export(model(), (x,), b, targets=("sm_80",), sign=KEY)

    def command(*words, status=0):
        done = subprocess.run([sys.executable, "-m", "torsh", *map(str, words)], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout

    shown = command("inspect", a)
    assert shown.count("not used: nobody vouches") == 3 and "entry cuda-sm_90.bin: " in shown
    assert (
        "code cuda sm_80 (" in shown and f"kernels, torsh {torsh.__version__} generator" in shown and "NVRTC " in shown
    )
    shown = command("inspect", a, "--trusted-key", key)
    assert shown.count("): believed, ") == 2 and "not used" not in shown
    assert "code for sm_80 (not used), code for sm_90 (not used)" in command("verify", a)
    assert command("verify", a, "--trusted-key", key).endswith("code for sm_80, code for sm_90\n")
    different = command("diff", a, b, status=1)
    assert '-      "entry": "cuda-sm_90.bin",' in different and "cuda-sm_80" not in different
    script = tmp_path / "script.py"
    script.write_text("import torsh\nf = lambda x: x * 2\nexample_args = (torsh.ones(2),)\n")
    command("export", f"{script}:f", "-o", tmp_path / "c.torsh", "--target", "sm_90", "--target", "portable")
    assert [c.level for c in torsh.load(tmp_path / "c.torsh").code] == ["portable", "sm_90"]
    assert "cuda sm_90" in command("inspect", tmp_path / "c.torsh")


def test_targets_that_cannot_be(tmp_path):
    path, x = tmp_path / "f.torsh", torsh.ones(2)
    double = lambda x: x * 2  # noqa: E731
    for target in ("sm_90a", "sm90", "gfx90a", "cuda:x", "cuda:", 90, None):
        with pytest.raises(torsh.ExportError, match='CUDA architectures such as "sm_90"'):
            torsh.export(double, (x,), path, targets=("native", target))
    for target in ("sm_75", "sm_87", "sm_999", "compute_70"):
        with pytest.raises(torsh.ExportError, match=rf'"{target}".*known are sm_80 \(A100\).*sm_90'):
            torsh.export(double, (x,), path, targets=(target,))
    with pytest.raises(torsh.ExportError, match='"native", "x86_64" or "aarch64"'):
        torsh.export(double, (x,), tmp_path / "lib", format="c", targets=("sm_90",))
    assert not path.exists()


EXPORT = """
import sys, torsh
try:
    torsh.export(lambda x: x * 2, (torsh.ones(2),), sys.argv[1], targets=tuple(sys.argv[2:]))
    print("written")
except torsh.ExportError as e:
    print(e)
"""


def run(path, *targets, **env) -> str:
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("TORSH_")}, **env}
    done = subprocess.run([sys.executable, "-c", EXPORT, str(path), *targets], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_missing_is_said(tmp_path):
    path = tmp_path / "f.torsh"
    said = run(path, "sm_90", TORSH_NVRTC="/nowhere/libnvrtc.so.12")
    assert "kernels for sm_90 need NVRTC: no fitting NVRTC was found (/nowhere/libnvrtc.so.12" in said
    assert "pip install torsh-compiler[cuda]" in said and "TORSH_NVRTC names its path" in said
    said = run(path, "cuda", TORSH_CUDA_SIM="/nowhere/libcuda.so.1")
    assert 'the target "cuda:0" is a device that must be there: no CUDA driver was found' in said
    assert 'Name an architecture instead, such as "sm_90"' in said
    # A library that is none, in place of NVRTC.
    assert "too old or broken" in run(path, "sm_90", TORSH_NVRTC="libc.so.6")
    assert not path.exists()
    # Without CUDA among the targets nothing is looked for.
    assert run(path, "portable", "native", TORSH_NVRTC="/nowhere/libnvrtc.so.12").strip() == "written"
    assert path.exists()
