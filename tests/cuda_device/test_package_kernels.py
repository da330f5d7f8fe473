"""Kernels for CUDA devices in packages, on the simulator: who believes a file needs no NVRTC, and has the same bits."""

from __future__ import annotations

import hashlib
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

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from package_builder import build

SIM = os.environ.get("TORSH_CUDA_SIM", "")
KEY = bytes(range(32))
PUBLIC = _C.public_key(KEY).hex()
REASON = "machine code of the package"
pytestmark = pytest.mark.skipif(
    not os.path.isfile(SIM), reason="TORSH_CUDA_SIM names no simulator (`make test-cuda` runs these tests)"
)


def step(loss):
    torsh.manual_seed(3)
    layers = torsh.nn.Linear(6, 16), torsh.nn.LayerNorm(16), torsh.nn.GELU(), torsh.nn.Dropout(0.1)
    model = torsh.nn.Sequential(*layers, torsh.nn.Linear(16, 3))
    opt = torsh.optim.AdamW(model.parameters(), lr=1e-2)

    def train(x, y):
        opt.zero_grad()
        value = loss(model(x), y)
        value.backward()
        opt.step()
        return value

    return train


def arguments(classes: bool):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 6), dtype=np.float32)
    y = rng.integers(0, 3, 8) if classes else rng.standard_normal((8, 3), dtype=np.float32)
    return x, y


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Training steps with kernels for both architectures as code and as text, and their arguments."""
    folder = tmp_path_factory.mktemp("kernels")
    targets = ("native", "avx2", "sm_80", "sm_90", "compute_80", "cuda")
    for name, loss in [("classes", torsh.nn.functional.cross_entropy), ("values", torsh.nn.functional.mse_loss)]:
        x, y = arguments(name == "classes")
        args = torsh.from_numpy(x), torsh.from_numpy(y)
        torsh.export(step(loss), args, folder / f"{name}.torsh", targets=targets, sign=KEY)
    return folder


USE = """
import ctypes, hashlib, json, os, sys
import numpy as np
import torsh

path, key, sha256, x, y = sys.argv[1:6]
torsh.set_float32_matmul_precision(sys.argv[6])
trusted = [bytes.fromhex(key)] if key else None
program = torsh.load(path, map_location="cuda", trusted_keys=trusted, sha256=sha256 or None)
x, y = (torsh.from_numpy(np.load(p)).cuda() for p in (x, y))
out = [program(x, y).cpu().numpy().tobytes().hex() for _ in range(5)]
out += [t.cpu().numpy().tobytes().hex() for t in program.state_dict().values()]
steps = [s for p in program.explain()["programs"] for s in p["steps"] if s["kind"] != "dot"]
library = ctypes.CDLL(os.environ["TORSH_CUDA_SIM"])
library.torsh_cuda_sim_counters.restype = ctypes.c_char_p
counters = json.loads(library.torsh_cuda_sim_counters())
loaded = [line.rsplit("/", 1)[1].strip() for line in open("/proc/self/maps") if "libnvrtc.so" in line]
print(json.dumps({
    "bits": out, "found": sum(s["reason"] == "machine code of the package" for s in steps), "steps": len(steps),
    "code": [list(c) for c in program.code], "nvrtc": bool(loaded), "graphs": counters["graph_launches"],
    "launches": counters["launches"],
}))
"""


def use(path, tmp_path, *, key="", sha256="", precision="highest", nvrtc=True, fails=False, **env):
    """What a new process without a cache finds, with or without NVRTC."""
    for name, value in zip("xy", arguments("classes" in path.name), strict=True):
        np.save(tmp_path / f"{name}.npy", value)
    env = {**os.environ, "TORSH_CACHE_DIR": "off", **env}
    if not nvrtc:
        env["TORSH_NVRTC"] = "/nowhere/libnvrtc.so"
    given = [str(path), key, sha256, str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), precision]
    done = subprocess.run([sys.executable, "-c", USE, *given], env=env, capture_output=True, text=True)
    if fails:
        assert done.returncode == 1, done.stdout
        return done.stderr
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "said": done.stderr}


@pytest.fixture(scope="module")
def compiled(packages, tmp_path_factory):
    """What the packages do where nobody believes them: compiled once."""
    done = {}

    def of(name: str, precision: str = "highest"):
        if (name, precision) not in done:
            folder = tmp_path_factory.mktemp("compiled")
            done[name, precision] = use(packages / f"{name}.torsh", folder, precision=precision)
        return done[name, precision]

    return of


@pytest.mark.parametrize("name", ["classes", "values"])
def test_a_training_step_runs_without_nvrtc_where_its_file_is_believed(packages, compiled, tmp_path, name):
    path, compiled = packages / f"{name}.torsh", compiled(name)
    assert compiled["found"] == 0 and compiled["nvrtc"] and compiled["steps"] > 5
    assert all("nobody vouches" in unused for _, _, unused in compiled["code"])
    believed = use(path, tmp_path, key=PUBLIC, nvrtc=False, TORSH_LOG="time")
    assert believed["bits"] == compiled["bits"]
    assert believed["found"] == believed["steps"] == compiled["steps"] and not believed["nvrtc"]
    assert [level for level, _, _ in believed["code"]] == ["avx2", "sm_80", "compute_80", "sm_90", "compute_90"]
    assert all(kernels > 5 and unused is None for _, kernels, unused in believed["code"][1:])
    (line,) = [line for line in believed["said"].splitlines() if "CUDA kernels" in line]
    made = line.split("generated ")[1].split(" CUDA")[0]
    assert f"{made} of them from a package" in line
    # Captured graphs launch what was believed; checks of indices stand in the way of one.
    assert (believed["graphs"] > 0) == (name == "values") and believed["launches"] == compiled["launches"]
    # The file's hash is as good as a key.
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pinned = use(path, tmp_path, sha256=digest, nvrtc=False)
    assert (pinned["bits"], pinned["found"]) == (compiled["bits"], compiled["steps"])


def test_products_may_be_asked_for_in_tf32(packages, compiled, tmp_path):
    believed = use(packages / "values.torsh", tmp_path, precision="high", key=PUBLIC, nvrtc=False)
    assert believed["bits"] == compiled("values", "high")["bits"] != compiled("values")["bits"]


def test_each_architecture_finds_its_own(packages, compiled, tmp_path):
    path, want = packages / "values.torsh", compiled("values")["bits"]
    old = use(path, tmp_path, key=PUBLIC, nvrtc=False, TORSH_CUDA_SIM_SM="80")
    assert old["found"] == old["steps"] and np.allclose(*(floats(b[:5]) for b in (old["bits"], want)), rtol=1e-5)
    # Without those of this device, which runs none of the others.
    alone = tmp_path / "values.torsh"
    alone.write_bytes(changed(path, "cuda-compute_90.bin", lambda b: None))
    digest = hashlib.sha256(alone.read_bytes()).hexdigest()
    other = use(alone, tmp_path, sha256=digest)
    assert (other["found"], other["bits"], other["nvrtc"]) == (0, want, True)
    assert [level for level, _, unused in other["code"] if unused is None][1:] == ["sm_80", "compute_80", "sm_90"]
    assert "no fitting NVRTC was found" in use(alone, tmp_path, sha256=digest, nvrtc=False, fails=True)


def floats(texts):
    return [np.frombuffer(bytes.fromhex(t), np.float32)[0] for t in texts]


def test_whoever_believes_nobody_needs_nvrtc(packages, tmp_path):
    said = use(packages / "values.torsh", tmp_path, nvrtc=False, fails=True)
    assert "DeviceError" in said and "no fitting NVRTC was found" in said and "/nowhere" in said
    key = _C.public_key(bytes(32)).hex()
    assert "none of the trusted keys" in use(packages / "values.torsh", tmp_path, key=key, fails=True)


def changed(path, entry, change):
    """The file with an entry changed, or without it, under hashes that fit."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist() if name != "signature.json"}
    entries = {name: change(data) if name == entry else data for name, data in entries.items()}
    entries = {name: data for name, data in entries.items() if data is not None}
    manifest = json.loads(entries["manifest.json"])
    for part, key in (("entries", "name"), ("cuda", "entry")):
        manifest[part] = [e for e in manifest[part] if e[key] in entries]
    for e in manifest["entries"]:
        e["bytes"], e["sha256"] = len(entries[e["name"]]), hashlib.sha256(entries[e["name"]]).hexdigest()
    entries["manifest.json"] = json.dumps(manifest).encode()
    return build(entries)


def test_code_that_the_driver_refuses_is_compiled_instead(packages, compiled, tmp_path):
    path, bad, want = packages / "values.torsh", tmp_path / "values.torsh", compiled("values")
    edits = {
        # Text that is no PTX, and kernels of other names.
        "the kernel compiled here": lambda b: b.replace(b".version", b".verzion"),
        "of a package for compute_90": lambda b: b.replace(b".entry k", b".entry q"),
    }
    for why, edit in edits.items():
        data = changed(path, "cuda-compute_90.bin", edit)
        bad.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        got = use(bad, tmp_path, sha256=digest)
        assert got["bits"] == want["bits"] and why in got["said"], got["said"]
        assert got["found"] == 0 and got["code"][-1][2] is None
        # Without NVRTC there is an error, and no crash.
        assert "no fitting NVRTC" in use(bad, tmp_path, sha256=digest, nvrtc=False, fails=True)
    # Nobody vouches for it: it is not looked at.
    left = use(bad, tmp_path)
    assert left["bits"] == want["bits"] and "of a package" not in left["said"]


def test_kernels_of_another_torsh_are_left_alone(packages, compiled, tmp_path):
    path, other, want = packages / "values.torsh", tmp_path / "values.torsh", compiled("values")["bits"]
    data = changed(path, "manifest.json", lambda b: b.replace(b'"generator":"torsh 0', b'"generator":"torsh 9'))
    other.write_bytes(data)
    got = use(other, tmp_path, sha256=hashlib.sha256(data).hexdigest())
    assert (got["bits"], got["found"]) == (want, 0)
    assert all("another version of torsh" in unused for _, _, unused in got["code"][1:])


def test_a_larger_function_takes_what_is_equal_and_compiles_the_rest(tmp_path):
    torsh.set_default_device(None)
    path = tmp_path / "f.torsh"
    torsh.export(lambda x: torsh.softmax(x, 1), (torsh.ones(5, 300),), path, targets="cuda", sign=KEY)
    x = torsh.linspace(-3, 3, 1500).reshape(5, 300)
    script = (
        "import sys, numpy as np, torsh\n"
        "p = torsh.load(sys.argv[1], map_location='cuda', trusted_keys=[bytes.fromhex(sys.argv[2])])\n"
        "x = torsh.from_numpy(np.load(sys.argv[3])).cuda()\n"
        "f = torsh.compile(lambda x: p(torsh.flip(x, (0,))).cumsum(1))\n"
        "print(f(x).cpu().numpy().tobytes().hex())\n"
        "print([s['reason'] for q in f.explain()['programs'] for s in q['steps']])\n"
    )
    np.save(tmp_path / "x.npy", x.numpy())
    env = {**os.environ, "TORSH_CACHE_DIR": "off", "TORSH_LOG": "time"}
    command = [sys.executable, "-c", script, str(path), PUBLIC, str(tmp_path / "x.npy")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = np.frombuffer(bytes.fromhex(done.stdout.split("\n")[0]), np.float32).reshape(5, 300)
    want = torsh.softmax(torsh.flip(x, (0,)), 1).cumsum(1).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_gradients_are_the_same(tmp_path):
    torsh.set_default_device(None)
    torsh.manual_seed(1)
    path, x = tmp_path / "m.torsh", torsh.ones(4, 6)
    model = torsh.nn.Sequential(torsh.nn.Linear(6, 8), torsh.nn.Tanh(), torsh.nn.Linear(8, 2))
    torsh.export(model, (x,), path, targets=("cuda", "sm_90"), include_grad=True)
    results = []
    for sha256 in (None, hashlib.sha256(path.read_bytes()).digest()):
        _C.clear_cache()
        program = torsh.load(path, map_location="cuda", sha256=sha256)
        loss = program(x.cuda()).square().sum()
        loss.backward()
        results.append([loss.item(), *(p.grad.cpu().numpy().tobytes() for p in program.parameters())])
        del program, loss
    assert results[0] == results[1]


def test_the_present_device_says_what_it_loads(packages):
    manifest = torsh.load(packages / "values.torsh").manifest
    sm = "".join(map(str, torsh.cuda.get_device_capability()))
    assert f"compute_{sm}" in [c["target"] for c in manifest["cuda"]]


def attend(x):
    half = x.to(torsh.bfloat16)
    return torsh.nn.functional.scaled_dot_product_attention(half, half, half, is_causal=True)


@pytest.mark.parametrize("varies", [False, True], ids=["fixed", "dims"])
def test_attention_of_16_bits_and_sizes_that_vary(tmp_path, varies):
    """Programs of the CPU convert 16-bit operands first, those of a device do not: each finds its own kernels."""
    x = np.random.default_rng(1).standard_normal((2, 128, 16), dtype=np.float32)
    dynamic = {"x": {0: torsh.Dim("n", min=1, max=8)}} if varies else None
    path = tmp_path / "a.torsh"
    torsh.export(attend, (torsh.from_numpy(x),), path, targets=("avx2", "cuda"), dynamic=dynamic, sign=KEY)
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, json, numpy as np, torsh\n"
        "key = [bytes.fromhex(sys.argv[2])] if sys.argv[2] else None\n"
        "program = torsh.load(sys.argv[1], map_location='cuda', trusted_keys=key)\n"
        "x = torsh.from_numpy(np.load(sys.argv[3])).cuda()\n"
        "out = program(x).cpu().view(torsh.int16).numpy().tobytes().hex()\n"
        "steps = [s for p in program.explain()['programs'] for s in p['steps']]\n"
        "print(json.dumps([out, len(steps), sum(s['reason'] == 'machine code of the package' for s in steps)]))\n"
    )

    def run(key, **env):
        words = [sys.executable, "-c", script, str(path), key, str(tmp_path / "x.npy")]
        done = subprocess.run(
            words, env={**os.environ, "TORSH_CACHE_DIR": "off", **env}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    compiled = run("")
    believed = run(PUBLIC, TORSH_NVRTC="/nowhere/libnvrtc.so")
    assert compiled[2] == 0 and believed[0] == compiled[0]
    assert believed[1] == believed[2] == compiled[1], "a conversion and one attention"
    # On the CPU the same file gives what the function gives there.
    own = torsh.load(path, trusted_keys=[bytes.fromhex(PUBLIC)])
    want = torsh.compile(attend)(torsh.from_numpy(x))
    assert own(torsh.from_numpy(x)).tolist() == want.tolist()
