"""What reading a package asks of files, memory and time."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile_packages import CASES, F32
from package_builder import GRAPH, Zip, build, edited, graph, parts, weights

import torsh

pytestmark = pytest.mark.host_only("files are refused before a device is asked for")
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "packages" / "0.1.0"


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.torsh")
    os.mkdir(tmp_path / "folder.torsh")
    for name in ("pipe.torsh", "folder.torsh"):
        with pytest.raises(torsh.PackageError):
            torsh.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        torsh.load(tmp_path / "absent.torsh")


def test_memory_and_time_are_bounded(tmp_path):
    """Files of a few megabytes of the worst that each part can hold: linear time, and memory within a multiple."""
    n = 40_000
    nodes = "".join(f"  %{i}: f32[2, 3] = mul(%{i - 1}, %1)\n" for i in range(2, n))
    text = GRAPH.replace("  %2: f32[2, 3] = mul(%0, %1)\n", nodes).replace("return %2", f"return %{n - 1}")
    names = {f"w{i}": ("F32", [1], b"\0\0\0\0") for i in range(n)}

    def many(m):
        m["state"] += [{"name": k, "dtype": "float32", "shape": [1], "role": "buffer"} for k in names]

    data = f'constant(data=hex"{"00" * (8 << 20)}")'
    files = {
        "nodes": build(parts(graph=text)),
        "tensors": build(parts(many, data=weights({**names, "w": ("F32", [2, 3], F32)}))),
        "metadata": edited((["metadata"], {f"k{i}": "v" for i in range(n)})),
        "constant": graph(GRAPH.replace("  return", f"  %3: u8[{8 << 20}] = {data}\n  return")),
        "comment": graph(GRAPH + ";" * (8 << 20)),
    }  # fmt: skip
    script = (
        "import sys, time, resource, torsh\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start = time.perf_counter()\n"
        "try:\n    torsh.load(sys.argv[1])\nexcept torsh.PackageError:\n    pass\n"
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    for name, data in files.items():
        path = tmp_path / f"{name}.torsh"
        path.write_bytes(data)
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (name, done.stderr)
        seconds, kib = map(float, done.stdout.split())
        assert kib * 1024 < 40 * len(data) + (32 << 20), (name, kib, len(data))
        assert seconds < 20, (name, seconds)


def test_no_descriptor_is_left_open(tmp_path):
    path = tmp_path / "bad.torsh"
    path.write_bytes(CASES["a wrong hash of the graph"][0])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(50):
        with pytest.raises(torsh.PackageError):
            torsh.load(path)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_rewritten_file_does_not_reach_a_loaded_program(tmp_path):
    """An export over a file that is loaded renames a new one into its place: the old bytes stay."""
    path = tmp_path / "model.torsh"
    torsh.export(lambda x: x + torsh.tensor([1.0]), (torsh.ones(1),), path)
    program = torsh.load(path)
    torsh.export(lambda x: x + torsh.tensor([5.0]), (torsh.ones(1),), path)
    assert program(torsh.ones(1)).item() == 2.0
    assert torsh.load(path)(torsh.ones(1)).item() == 6.0


def test_a_file_that_others_may_write_is_read_not_mapped(tmp_path):
    path = tmp_path / "model.torsh"
    torsh.export(torsh.nn.Linear(3, 3), (torsh.ones(1, 3),), path)
    os.chmod(path, 0o644)
    assert torsh.load(path)._package.mapped
    os.chmod(path, 0o666)
    program = torsh.load(path)
    assert not program._package.mapped
    want = program(torsh.ones(1, 3)).tolist()
    with open(path, "r+b") as file:
        file.truncate(100)
    assert program(torsh.ones(1, 3)).tolist() == want


@pytest.mark.compiled_only
def test_weights_that_are_read_count_against_the_cap(tmp_path):
    path = tmp_path / "large.torsh"
    nbytes = 8 << 20
    held = torsh.zeros(nbytes // 4)
    torsh.export(lambda x: x + held, (torsh.ones(1),), path)
    os.chmod(path, 0o666)
    live = lambda: torsh.memory_stats()["live"]  # noqa: E731
    before, limit = live(), torsh.memory_stats()["limit"]
    program = torsh.load(path)
    assert not program._package.mapped and live() - before >= nbytes
    del program
    gc.collect()
    assert live() <= before
    try:
        torsh.limits.set_memory_limit(before + nbytes // 2)
        with pytest.raises(torsh.LimitError, match="weights.safetensors, which is read into memory, needs"):
            torsh.load(path)
        os.chmod(path, 0o644)
        assert torsh.load(path)._package.mapped, "pages of a file are the system's to take back"
    finally:
        torsh.limits.set_memory_limit(limit)
    assert live() <= before


def test_sizes_are_checked_before_anything_is_hashed(tmp_path):
    """Gigabytes that the types have no place for are refused without being read."""
    large = 3 << 30

    def edit(m):
        m["entries"][1]["bytes"] = large

    entries = parts(edit)
    z = Zip()
    z.add("manifest.json", entries["manifest.json"]).add("graph.txt", entries["graph.txt"])
    z.add("weights.safetensors", b"", size=large, local_size=large)
    path = tmp_path / "large.torsh"
    with open(path, "wb") as file:
        file.write(z.body + entries["weights.safetensors"])
        # The rest is a hole, which takes no room on disk.
        file.seek(len(z.body) + large)
        file.write(z.end(start=len(z.body) + large)[len(z.body) :])
    for mode in (0o644, 0o666):
        os.chmod(path, mode)
        start = time.process_time()
        with pytest.raises(torsh.PackageError, match="the tensors of the manifest take 24"):
            torsh.load(path)
        assert time.process_time() - start < 0.5
