"""Files that lie: each is refused with a PackageError that names the entry and the reason, before anything is used.

`build` writes a package from its parts, with hashes that fit unless a case says otherwise, so that each case breaks one
rule and is stopped by the check for that rule.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import torsh

pytestmark = pytest.mark.host_only("files are refused before a device is asked for")
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "packages" / "0.1.0"
ALIGN = 64
GRAPH = """graph {
  %0: f32[2, 3] = input(index=0)
  %1: f32[2, 3] = input(index=1)
  %2: f32[2, 3] = mul(%0, %1)
  return %2
}
"""


def weights(tensors=None, header=None) -> bytes:
    """A safetensors file of {name: (dtype, shape, bytes)}."""
    tensors = {"w": ("F32", [2, 3], np.arange(6, dtype=np.float32).tobytes())} if tensors is None else tensors
    at, head = 0, {}
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = (json.dumps(head) if header is None else header).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    return struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors.values())


def manifest() -> dict:
    """That of the program x * w."""
    port = {"dtype": "float32", "shape": [2, 3], "kind": "tensor"}
    return {
        "format": "torsh-package", "version": 1, "producer": "test", "name": "f", "license": None, "metadata": {},
        "inputs": [{"name": "x", **port}], "outputs": [{"name": "y", **port}],
        "state": [{"name": "w", "dtype": "float32", "shape": [2, 3], "role": "buffer"}],
        "parameters": ["x"], "arguments": {"tuple": [{"tuple": [{"leaf": 0}]}, {"dict": []}]}, "result": {"leaf": 0},
        "forward": {"graph": "graph.txt", "inputs": [{"input": 0}, {"state": 0}], "outputs": [{"output": 0}]},
        "vjp": None, "entries": [],
    }  # fmt: skip


class Zip:
    """A zip file as the writer lays it out; every field can be set to what it should not be."""

    def __init__(self):
        self.body, self.directory, self.count = b"", b"", 0

    def add(self, name, data, *, method=0, flags=0, size=None, stored=None, mode=0o100644, local=None, align=True,
            start=None, crc=None, extra=None, comment=b"", local_size=None, version=10, maker=0x030A, time=0, date=33,
            internal=0, attributes=None, more=b"", padding=0xA11E, fill=b"\0", longer=0, aligned=ALIGN):  # fmt: skip
        name = name.encode() if isinstance(name, str) else name
        at = len(self.body)
        pad = -(at + 30 + len(name)) % ALIGN if align else 11
        pad += (ALIGN if 0 < pad < 6 else 0) + longer
        own = struct.pack("<HHH", padding, pad - 4, aligned) + fill * (pad - 6) if pad else b""
        own = own if extra is None else extra
        attributes = mode << 16 if attributes is None else attributes
        crc = zlib.crc32(data) if crc is None else crc
        size = len(data) if size is None else size
        stored = size if stored is None else stored
        inner = name if local is None else local.encode()
        sizes = (stored, size) if local_size is None else (local_size, local_size)
        self.body += struct.pack(
            "<IHHHHHIIIHH", 0x04034B50, version, flags, method, time, date, crc, *sizes, len(inner), len(own)
        )
        self.body += inner + own + data
        self.directory += struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, maker, version, flags, method, time, date, crc, stored, size, len(name),
            len(more), len(comment), 0, internal, attributes, at if start is None else start,
        )  # fmt: skip
        self.directory += name + more + comment
        self.count += 1
        return self

    def end(self, *, count=None, start=None, length=None, comment=b"", gap=b"", disk=0) -> bytes:
        count = self.count if count is None else count
        start = len(self.body) + len(gap) if start is None else start
        length = len(self.directory) if length is None else length
        tail = struct.pack("<IHHHHIIH", 0x06054B50, disk, 0, count, count, length, start, len(comment)) + comment
        return self.body + gap + self.directory + tail


def parts(edit=None, graph=GRAPH, data=None, rehash=True) -> dict[str, bytes]:
    """Entries of a package; `edit` changes the manifest once its hashes stand."""
    m = manifest()
    out = {"graph.txt": graph if isinstance(graph, bytes) else graph.encode(), "weights.safetensors": data or weights()}
    m["entries"] = [
        {"name": n, "bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for n, b in out.items() if rehash
    ]
    text = m
    if edit is not None:
        m = copy.deepcopy(m)
        text = edit(m)
        text = m if text is None else text
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return {"manifest.json": text, **out}


def build(entries: dict[str, bytes] | None = None, **how) -> bytes:
    """A package of these entries; `how` maps an entry to the fields of its header."""
    z = Zip()
    for name, data in (entries or parts()).items():
        z.add(name, data, **how.get(name.split(".")[0], {}))
    return z.end()


def put(key, value):
    """An edit that sets a field, by path."""

    def edit(m):
        at = m
        for k in key[:-1]:
            at = at[k]
        at[key[-1]] = value

    return edit


def edited(*pairs) -> bytes:
    def edit(m):
        for key, value in pairs:
            put(key, value)(m)

    return build(parts(edit))


def graph(text) -> bytes:
    return build(parts(graph=text))


def tensors(*args, **kwargs) -> bytes:
    return build(parts(data=weights(*args, **kwargs)))


def second(name, data=b"x", **how) -> bytes:
    z = Zip()
    for n, d in parts().items():
        z.add(n, d)
    return z.add(name, data, **how).end()


CODE = {"entry": "code-x86_64-avx2.bin", "arch": "x86_64", "level": "avx2", "features": ["avx", "avx2"]}


def coded(
    code=None, data=b"x", version=3, listed=True, order=("graph.txt", CODE["entry"], "weights.safetensors"),
    entry=CODE["entry"], **fields,
) -> bytes:  # fmt: skip
    """A package with machine code: what the manifest says of it, and the entry."""
    m = {**manifest(), "version": version, **(fields or {"code": [CODE] if code is None else code})}
    files = {"graph.txt": GRAPH.encode(), entry: data, "weights.safetensors": weights()}
    m["entries"] = [
        {"name": n, "bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()}
        for n, b in files.items()
        if listed or n != entry
    ]
    return build({"manifest.json": json.dumps(m).encode(), **{n: files[n] for n in order}})


SOURCE = Path(__file__).resolve().parents[2] / "codegen" / "src" / "cuda" / "mod.rs"
GENERATOR = re.search(r"GENERATOR_VERSION: u32 = (\d+);", SOURCE.read_text())[1]
KERNEL = {"key": "ab" * 32, "image": 0, "symbol": "k0_exp"}
CUDA = {
    "entry": "cuda-sm_90.bin", "target": "sm_90", "generator": f"torsh {torsh.__version__} generator {GENERATOR}",
    "nvrtc": "12.9", "kernels": [KERNEL],
}  # fmt: skip
ELF = b"\x7fELF\2\1" + bytes(12) + struct.pack("<H", 190) + bytes(100)


def images(*data: bytes) -> bytes:
    """An entry of kernels for CUDA devices."""
    out = b"torshCU\n" + struct.pack("<II", 1, len(data)) + b"".join(struct.pack("<Q", len(d)) for d in data)
    for d in data:
        out += bytes(-len(out) % ALIGN) + d
    return out


def kernels(cuda=None, data=None, order=("graph.txt", CUDA["entry"], "weights.safetensors"), **how) -> bytes:
    """A package with kernels for CUDA devices: what the manifest says of them, and the entry."""
    data = images(ELF) if data is None else data
    return coded(data=data, order=order, entry=CUDA["entry"], cuda=[CUDA] if cuda is None else cuda, **how)


def kernel(**edit) -> bytes:
    return kernels([{**CUDA, "kernels": [{**KERNEL, **edit}]}])


def deep(depth: int) -> dict:
    tree: dict = {"leaf": 0}
    for _ in range(depth):
        tree = {"list": [tree]}
    return tree


def raw(text: bytes):
    return lambda m: text


F32 = np.arange(6, dtype=np.float32).tobytes()
HUGE = 2**62
CASES = {
    # the file
    "empty": (b"", "too short"),
    "text": (b"hello" * 100, "no end record"),
    "bytes after the end": (build() + b"\0", "no end record"),
    "bytes in front": (b"#!/bin/sh\n" + build(), "does not end where"),
    "a comment": (Zip().add("manifest.json", b"{}").end(comment=b"hi"), "no end record"),
    "an empty archive": (Zip().end(), "manifest.json: the entry is missing"),
    "several disks": (Zip().add("manifest.json", b"{}").end(disk=1), "several disks"),
    "a count too large": (Zip().add("manifest.json", b"{}").end(count=2), "ends too early"),
    "a count too small": (Zip().add("a", b"").add("b", b"").end(count=1), "belong to nothing"),
    "65535 entries": (Zip().add("manifest.json", b"{}").end(count=0xFFFF), "64-bit end record"),
    "a hole before the directory": (Zip().add("manifest.json", b"{}").end(gap=b"evil"), "belong to nothing"),
    "a directory elsewhere": (Zip().add("manifest.json", b"{}").end(start=0), "does not end where"),
    "a long directory": (Zip().add("manifest.json", b"{}").end(count=0), "longer than"),
    # entries
    "deflate": (build(graph={"method": 8}), "must be stored"),
    "a bomb": (build(weights={"size": 2**31, "stored": 100}), "two sizes"),
    "encrypted": (build(graph={"flags": 1}), "encrypted"),
    "sizes after the data": (build(graph={"flags": 8}), "encrypted, or its sizes follow"),
    "a link": (build(graph={"mode": 0o120777}), "a link"),
    "a device": (build(graph={"mode": 0o060644}), "a link, a folder or a device"),
    "a twin": (second("graph.txt", GRAPH.encode()), "stands twice"),
    "overlap": (build(weights={"start": 0}), "does not begin where"),
    "another size in the local header": (build(weights={"local_size": 7}), "differs"),
    "another name in the local header": (build(graph={"local": "hidden.txt"}), "differs"),
    "beyond the file": (build(weights={"size": 2**30}), "outside of the file"),
    "not aligned": (build(weights={"align": False}), "not at a multiple"),
    "a checksum": (build(manifest={"crc": 1}), "checksum"),
    "a checksum of the weights": (build(weights={"crc": 1}), "weights.safetensors: its checksum"),
    # bytes that nothing else looks at
    "padding that says something": (build(graph={"fill": b"x"}), "graph.txt: a field or padding"),
    "padding of another kind": (build(graph={"padding": 0xD935}), "graph.txt: a field or padding"),
    "padding of another alignment": (build(graph={"aligned": 32}), "graph.txt: a field or padding"),
    "more padding than is needed": (build(weights={"longer": 64}), "weights.safetensors: a field or padding"),
    "a date": (build(graph={"date": 34}), "graph.txt: a field or padding"),
    "a time": (build(graph={"time": 1}), "graph.txt: a field or padding"),
    "another version that is needed": (build(graph={"version": 20}), "graph.txt: a field or padding"),
    "a flag": (build(graph={"flags": 1 << 11}), "graph.txt: a field or padding"),
    "another maker": (build(graph={"maker": 0x0014}), "the directory of the file: a field"),
    "other rights": (build(graph={"mode": 0o100755}), "the directory of the file: a field"),
    "attributes of DOS": (build(graph={"attributes": (0o100644 << 16) | 1}), "the directory of the file: a field"),
    "attributes of its own": (build(graph={"internal": 1}), "the directory of the file: a field"),
    "extra data in the directory": (build(graph={"more": b"\xfe\xca\x01\0x"}), "the directory of the file: a field"),
    "64-bit sizes that are not needed": (
        build(graph={"more": struct.pack("<HHQ", 1, 8, 0)}), "the directory of the file: a field",
    ),
    "another order": (build(dict(reversed(parts().items()))), "stands behind"),
    "a parent folder": (second("../evil"), "no plain name"),
    "an absolute path": (second("/etc/passwd"), "no plain name"),
    "a drive": (second("C:evil"), "no plain name"),
    "a null byte": (second(b"graph.txt\0"), "no plain name"),
    "an empty name": (second(""), "no plain name"),
    "a folder": (second("folder/"), "no plain name"),
    "a long name": (second("a" * 65), "long name"),
    "an entry more": (second("evil.so"), "does not know this entry"),
    "an entry's comment": (second("evil.so", comment=b"hi"), "a comment"),
    "seventeen entries": (b"", None),
    "a missing entry": (build({k: v for k, v in parts().items() if k != "graph.txt"}), "txt: the entry is missing"),
    # the manifest
    "no json": (build(parts(raw(b"\xff\xfe"))), "manifest.json: not a manifest"),
    "nan": (build(parts(raw(b'{"format": "torsh-package", "version": NaN}'))), "not a manifest"),
    "nested arrays": (build(parts(raw(b"[" * 100_000))), "not a manifest"),
    "another format": (edited((["format"], "onnx")), "not \"torsh-package\""),
    "a later version": (edited((["version"], 4)), "has format version 4"),
    "version 0": (edited((["version"], 0)), "has format version 0"),
    "a huge version": (edited((["version"], 2**64)), "not a manifest"),
    "an unknown field": (edited((["run"], "rm -rf /")), "unknown field"),
    "a field twice": (build(parts(raw(b'{"format":"torsh-package","version":1,"version":1}'))), "duplicate field"),
    "a huge size": (edited((["inputs", 0, "shape"], [HUGE, 3])), "input 0"),
    "an overflowing size": (edited((["inputs", 0, "shape"], [2**32, 2**32])), "input 0"),
    "a size over the limits": (edited((["state", 0, "shape"], [2**38])), "the limit is"),
    "a negative size": (edited((["inputs", 0, "shape"], [-1, 3])), "not a manifest"),
    "a fraction": (edited((["inputs", 0, "shape"], [2.5, 3])), "not a manifest"),
    "rank 100": (edited((["inputs", 0, "shape"], [1] * 100)), "rank 100"),
    "an unknown dtype": (edited((["inputs", 0, "dtype"], "float128")), "unknown dtype"),
    "a name twice": (
        edited((["state"], [{"name": "w", "dtype": "float32", "shape": [2, 3], "role": "buffer"}] * 2)), "twice",
    ),
    "a name of control characters": (edited((["inputs", 0, "name"], "\x1b[2J")), "not printable"),
    "a slot out of range": (edited((["forward", "inputs", 1], {"state": 4_000_000_000})), "out of range"),
    "a slot twice": (edited((["forward", "inputs", 1], {"input": 0})), "stands twice"),
    # machine code
    "version 3 without code": (edited((["version"], 3)), "0 entries of machine code"),
    "code in version 1": (coded(version=1), "1 entries of machine code"),
    "code that is not listed": (coded(listed=False), "an entry is missing from the list"),
    "code that the manifest does not know": (second(CODE["entry"]), "does not know this entry"),
    "code that is missing": (coded(order=("graph.txt", "weights.safetensors")), "avx2.bin: the entry is missing"),
    "code in another place": (coded(order=(CODE["entry"], "graph.txt", "weights.safetensors")), "stands behind"),
    "code of an unknown architecture": (coded([{**CODE, "arch": "vax"}]), "unknown architecture"),
    "code of an unknown level": (coded([{**CODE, "level": "avx3"}]), "a level that is unknown"),
    "code of a level twice": (coded([CODE, CODE]), "stands twice"),
    "code under the name of the graph": (coded([{**CODE, "entry": "graph.txt"}]), "an entry of another name"),
    "features in disorder": (coded([{**CODE, "features": ["avx2", "avx"]}]), "not words in order"),
    "features that move the cursor": (coded([{**CODE, "features": ["\x1b[2J"]}]), "not words in order"),
    "many features": (coded([{**CODE, "features": [f"{i:03}" for i in range(33)]}]), "not words in order"),
    "code that is no list": (coded({"entry": 1}), "not a manifest"),
    "a field of code": (coded([{**CODE, "run": 1}]), "unknown field"),
    # kernels for CUDA devices
    "kernels in version 1": (kernels(version=1), "1 entries of machine code"),
    "kernels that are not listed": (kernels(listed=False), "an entry is missing from the list"),
    "kernels that the manifest does not know": (second(CUDA["entry"]), "does not know this entry"),
    "kernels that are missing": (kernels(order=("graph.txt", "weights.safetensors")), "bin: the entry is missing"),
    "kernels in another place": (kernels(order=(CUDA["entry"], "graph.txt", "weights.safetensors")), "stands behind"),
    "kernels behind the weights": (kernels(order=("graph.txt", "weights.safetensors", CUDA["entry"])), "stands behind"),
    "kernels of an old architecture": (kernels([{**CUDA, "target": "sm_75"}]), "a CUDA architecture that is unknown"),
    "kernels of no architecture": (kernels([{**CUDA, "target": "sm_9\x1b"}]), "a CUDA architecture that is unknown"),
    "kernels of an architecture twice": (kernels([CUDA, CUDA]), "stands twice"),
    "kernels of many architectures": (kernels([CUDA] * 7), "too many CUDA architectures"),
    "kernels under the name of the graph": (kernels([{**CUDA, "entry": "graph.txt"}]), "an entry of another name"),
    "kernels by nobody": (kernels([{**CUDA, "generator": ""}]), "is no version"),
    "kernels by what moves the cursor": (kernels([{**CUDA, "generator": "\x1b[2J"}]), "is no version"),
    "kernels of an NVRTC without a number": (kernels([{**CUDA, "nvrtc": "new"}]), "is no version"),
    "no kernels": (kernels([{**CUDA, "kernels": []}]), "an entry of no kernels"),
    "too many kernels": (
        kernels([{**CUDA, "kernels": [{**KERNEL, "key": f"{i:064x}"} for i in range(65537)]}]), "of too many",
    ),
    "kernels in disorder": (kernels([{**CUDA, "kernels": [KERNEL, KERNEL]}]), "not in order"),
    "a key in upper case": (kernel(key="AB" * 32), "is none"),
    "a key that is short": (kernel(key="ab"), "is none"),
    "an image beyond all": (kernel(image=4096), "is none"),
    "a negative image": (kernel(image=-1), "not a manifest"),
    "a symbol that is none": (kernel(symbol="k 0"), "is none"),
    "an empty symbol": (kernel(symbol=""), "is none"),
    "kernels that are no list": (kernels({"entry": 1}), "not a manifest"),
    "a field of kernels": (kernels([{**CUDA, "run": 1}]), "unknown field"),
    "a field of a kernel": (kernel(run=1), "unknown field"),
    "kernels and dims": (kernels(dims=[{"name": "n", "min": 2, "max": 9}]), "dim n is the size of no input"),
    "an input that is an output": (edited((["forward", "inputs", 1], {"output": 0})), "cannot be an output"),
    "a written constant": (
        edited((["state", 0, "role"], "constant"), (["forward", "outputs"], [{"output": 0}, {"state": 0}])),
        "cannot write",
    ),
    "no output": (edited((["forward", "outputs"], [])), "does not give every output"),
    "deep structure": (edited((["result"], deep(40))), "nests deeper"),
    "very deep structure": (edited((["result"], deep(200))), "not a manifest"),
    "a leaf twice": (edited((["result"], {"list": [{"leaf": 0}, {"leaf": 0}]})), "where 1 is expected"),
    "no leaf": (edited((["result"], {"value": None})), "0 leaves"),
    "a class name with code": (
        edited((["result"], {"named": {"name": "x():pass #", "fields": ["a"], "items": [{"leaf": 0}]}})), "bad fields",
    ),
    "a class name of Python's own": (
        edited((["result"], {"named": {"name": "f", "fields": ["class"], "items": [{"leaf": 0}]}})), "cannot have",
    ),
    "a wrong size of an entry": (edited((["entries", 0, "bytes"], 5)), "in the manifest 5"),
    "a wrong hash of the graph": (edited((["entries", 0, "sha256"], "0" * 64)), "graph.txt: its hash"),
    "a wrong hash of the weights": (edited((["entries", 1, "sha256"], "0" * 64)), "weights.safetensors: its hash"),
    "a short hash": (edited((["entries", 0, "sha256"], "0")), "64 hexadecimal digits"),
    "no hashes": (build(parts(rehash=False)), "an entry is missing"),
    "a vjp that is not there": (
        edited((["vjp"], {"graph": "vjp.txt", "inputs": [], "outputs": []})), "an entry is missing from the list",
    ),
    "a graph of another name": (edited((["forward", "graph"], "weights.safetensors")), "must be the entry"),
    # the graph
    "a cycle": (graph(GRAPH.replace("mul(%0, %1)", "mul(%2, %1)")), "not defined above"),
    "another type": (graph(GRAPH.replace("%2: f32[2, 3]", "%2: f32[3, 3]")), "gives f32[2, 3] here"),
    "an unknown op": (graph(GRAPH.replace("mul", "system")), "no op named system"),
    "fewer inputs": (graph("graph {\n  %0: f32[2, 3] = input(index=0)\n  return %0\n}\n"), "1 inputs, the manifest 2"),
    "another type of input": (graph(GRAPH.replace("f32", "f64")), "another type"),
    "a tensor beyond the limits": (
        graph(GRAPH.replace("  return %2", "  %3: f32[1099511627775] = full(value=1.0)\n  return %3")), "the limit is",
    ),
    "not utf-8": (graph(b"\xff\xff"), "not UTF-8"),
    "a graph without end": (graph("graph {" + "%" * 100_000), "graph.txt: line 1"),
    # the weights
    "a header without end": (build(parts(data=struct.pack("<Q", 2**63) + b"{}")), "a header of"),
    "no header": (build(parts(data=b"\x05")), "within the length"),
    "a header of nothing": (tensors({}), "the tensors of the manifest take 24"),
    "weights that are too small": (tensors({"w": ("F32", [2, 2], F32[:16])}), "the tensors of the manifest take 24"),
    "a header that takes all": (
        build(parts(data=struct.pack("<Q", len(weights()) - 8) + weights()[8:])), "the tensors of the manifest take 24",
    ),
    "weights of another dtype": (tensors({"w": ("I32", [2, 3], F32)}), "in the manifest"),
    "weights of another shape": (tensors({"w": ("F32", [3, 2], F32)}), "in the manifest"),
    "weights of another name": (tensors({"v": ("F32", [2, 3], F32)}), "is missing"),
    "overlapping tensors": (
        tensors(header=json.dumps({
            "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "v": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        })), "not a safetensors file",
    ),
    "offsets beyond the data": (
        tensors(header=json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [2**40, 2**40 + 24]}})),
        "not a safetensors file",
    ),
    "a tensor of 2^64 elements": (
        tensors(header=json.dumps({"w": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 24]}})),
        "not a safetensors file",
    ),
    "nan sizes": (
        tensors(header='{"w": {"dtype": "F32", "shape": [NaN, 3], "data_offsets": [0, 24]}}'), "not a safetensors file",
    ),
    "bytes after the weights": (build(parts(data=weights() + b"evil")), "the tensors of the manifest take 24"),
}  # fmt: skip


def sized(*, dims=None, shape=("n", 3), state=None, text=None, out=None, version=2) -> bytes:
    """The program x * w over a dim n; the case changes one thing."""

    def edit(m):
        m["version"] = version
        m["dims"] = [{"name": "n", "min": 2, "max": 9}] if dims is None else dims
        m["inputs"][0]["shape"] = list(shape)
        m["outputs"][0]["shape"] = list(shape if out is None else out)
        m["state"][0]["shape"] = [1, 3] if state is None else state

    body = """graph {
  %0: f32[<n>, 3] = input(index=0)
  %1: f32[1, 3] = input(index=1)
  %2: f32[<n>, 3] = expand(%1)
  %3: f32[<n>, 3] = mul(%0, %2)
  return %3
}
"""
    data = weights({"w": ("F32", [1, 3], np.arange(3, dtype=np.float32).tobytes())})
    return build(parts(edit, graph=body if text is None else text(body), data=data))


def dim(name="n", low=2, high=9) -> list:
    return [{"name": name, "min": low, "max": high}]


def size(text: str):
    """The program with this in place of its second size."""
    return sized(text=lambda body: body.replace("%2: f32[<n>", f"%2: f32[<{text}>"))


CASES |= {
    "dims in version 1": (sized(version=1), "version 1 with 1 dims"),
    "version 2 without dims": (sized(dims=[], shape=(2, 3)), "version 2 with 0 dims"),
    "a version to come": (sized(version=4), "format version 4; this torsh reads versions 1 to 3"),
    "dims in version 3": (sized(version=3), "version 3 with 1 dims and 0 entries"),
    "seventeen dims": (sized(dims=[d for i in range(17) for d in dim(f"n{i}")]), "17 dims; the most is 16"),
    "a million dims": (sized(dims=dim() * 1_000_000), "1000000 dims"),
    "two dims of one name": (sized(dims=dim() * 2), "stands twice"),
    "a dim with an empty name": (sized(dims=dim("")), "has a name that is no word"),
    "a dim named as an expression": (sized(dims=dim("n+1")), "has a name that is no word"),
    "a dim with a long name": (sized(dims=dim("n" * 65)), "has a name that is no word"),
    "a dim with a foreign name": (sized(dims=dim("\u043d")), "has a name that is no word"),
    "a range reversed": (sized(dims=dim("n", 9, 2)), "dim n goes from 9 to 2"),
    "a range from 0": (sized(dims=dim("n", 0, 2)), "dim n goes from 0 to 2"),
    "a range beyond the largest": (sized(dims=dim("n", 1, 2**31 + 1)), "within 1 to 2147483648"),
    "a range below zero": (sized(dims=dim("n", -1, 2)), "not a manifest"),
    "a range of fractions": (sized(dims=dim("n", 1.5, 2)), "not a manifest"),
    "a range of text": (sized(dims=dim("n", "1", 2)), "not a manifest"),
    "a range of NaN": (sized(dims=dim("n", float("nan"), 2)), "not a manifest"),
    "a range beyond 64 bits": (sized(dims=dim("n", 1, 2**64)), "not a manifest"),
    "a dim with more": (sized(dims=[{**dim()[0], "step": 2}]), "not a manifest"),
    "dims that are no list": (sized(dims={"n": 2}), "not a manifest"),
    "an unknown dim in an input": (sized(shape=("m", 3)), "input 0 has the size \"m\", which is no dim"),
    "an expression in an input": (sized(shape=("n+1", 3)), "which is no dim"),
    "an empty size": (sized(shape=("", 3)), "which is no dim"),
    "a long size": (sized(shape=("n" * 100_000, 3)), "which is no dim"),
    "a dim that no input has": (sized(dims=dim() + dim("m")), "dim m is the size of no input"),
    "state with a dim": (sized(state=["n", 3]), "not a manifest"),
    "an unknown dim in an output": (sized(out=("m", 3)), "no dim of the package"),
    "an output of another size": (sized(out=("n+1", 3)), "in the manifest"),
    "an output of a negative size": (sized(out=("n-5", 3)), "negative size -3"),
    "an output that divides by zero": (sized(out=("3/(n-2)", 3)), "divides by zero"),
    "an output that overflows": (sized(out=("n*9223372036854775807", 3)), "overflows"),
    "an output beyond the limits": (sized(out=("n*100000000000000", 3)), "output 0"),
    "a size that divides by zero": (size("3/(n-2)"), "line 4, column 11: a size divides by zero"),
    "a size that overflows": (size("n*9223372036854775807"), "overflows"),
    "a product that overflows": (size("9223372036854775807*9223372036854775807"), "overflows"),
    "a quotient that overflows": (size("(0-9223372036854775807-1)/(1-n)"), "overflows"),
    "a size of 65 bits": (size("18446744073709551616"), "no 64-bit integer"),
    "an unknown name": (size("m"), "no dim of the package"),
    "a size that nests": (size("(" * 100 + "n" + ")" * 100), "more than 16 parentheses"),
    "a size that nests deep": (size("(" * 1_000_000), "1000000 bytes; the most is 512"),
    "a long size in a graph": (size("n" + "+n" * 256), "513 bytes; the most is 512"),
    "an empty size in a graph": (size(""), "no 64-bit integer"),
    "a fraction": (size("1.5"), "an operator is expected"),
    "a NaN": (size("nan"), "no dim of the package"),
    "white space": (size("n + 1"), "an operator is expected"),
    "a call": (size("n(1)"), "an operator is expected"),
    "another size in the graph": (size("n+1"), "operands must have one shape"),
    "a negative size": (size("n-5"), "a size is negative"),
    "a size without an end": (sized(text=lambda b: b.replace("<n>, 3] = mul", "<n, 3] = mul")), "without an end"),
    "a size in a size": (sized(text=lambda b: b.replace("<n>, 3] = mul", "<<n>>, 3] = mul")), "without an end"),
    "a size in a name": (sized(text=lambda b: b.replace("%3:", "%<n>:")), "where an integer stands"),
    "a size within a word": (sized(text=lambda b: b.replace("3] = mul", "1<n>] = mul")), "where an integer stands"),
    "a size for an op": (sized(text=lambda b: b.replace("mul(", "<n>(")), "where an integer stands"),
    "many different sizes": (
        sized(text=lambda b: b + "".join(f" <{i}>," for i in range(70_000))),
        "65536 different sizes",
    ),
    "a size in a package without dims": (
        build(parts(graph=GRAPH.replace("%2: f32[2,", "%2: f32[<2>,"))), "line 4, column 11: expected",
    ),
}  # fmt: skip
_many = Zip()
for _i in range(17):
    _many.add(f"e{_i}", b"")
CASES["seventeen entries"] = (_many.end(), "17 entries")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_with_another_hash_is_refused_as_such(tmp_path, threads):
    # With two threads, weights of this size are hashed while the rest is parsed: what is wrong there comes second.
    path = tmp_path / "large.torsh"
    path.write_bytes(build(parts(data=weights() + bytes(1 << 20))))
    before = torsh.get_num_threads()
    torsh.set_num_threads(threads)
    try:
        for _ in range(5):
            with pytest.raises(torsh.PackageError, match="which is not the one that is demanded"):
                torsh.load(path, sha256="0" * 64)
            with pytest.raises(torsh.PackageError, match="the tensors of the manifest take 24"):
                torsh.load(path, sha256=hashlib.sha256(path.read_bytes()).digest())
    finally:
        torsh.set_num_threads(before)


def test_a_hash_of_the_file_stands_for_the_checksum_of_mapped_weights(tmp_path):
    path = tmp_path / "crc.torsh"
    path.write_bytes(build(weights={"crc": 1}))
    program = torsh.load(path, sha256=hashlib.sha256(path.read_bytes()).digest())
    assert program(torsh.ones(2, 3)).tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    with pytest.raises(torsh.PackageError, match="its checksum"):
        torsh.load(path)


@pytest.mark.parametrize("data", [b"", b"x", b"torshMC\n\1\0\0\0" + b"\xff" * 5000, b"\xcc" * 4096], ids=len)
def test_code_that_nobody_wrote_is_left_alone(tmp_path, data):
    path = tmp_path / "coded.torsh"
    path.write_bytes(coded(data=data))
    digest = hashlib.sha256(path.read_bytes()).digest()
    for sha256 in (None, digest):
        program = torsh.load(path, sha256=sha256)
        (code,) = program.code
        why = "nobody vouches" if sha256 is None else "another version of torsh|this machine"
        assert code.kernels == 0 and re.search(why, code.unused)
        assert program(torsh.ones(2, 3)).tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


@pytest.mark.parametrize("data", [b"", b"x", images(ELF)[:-1], images(b"\xcc" * 4096), images(ELF), images(ELF, ELF)])
def test_kernels_that_nobody_vouches_for_are_left_alone(tmp_path, data):
    path = tmp_path / "kernels.torsh"
    other = [{**CUDA, "generator": "torsh 0.0.0 generator 1"}]
    for cuda, believed, why in [(None, False, "nobody vouches"), (other, True, "another version of torsh")]:
        path.write_bytes(kernels(cuda, data))
        program = torsh.load(path, sha256=hashlib.sha256(path.read_bytes()).digest() if believed else None)
        (code,) = program.code
        assert (code.level, code.kernels) == ("sm_90", 0) and why in code.unused
        assert program(torsh.ones(2, 3)).tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "another form"), (b"torshMC\n" + images(ELF)[8:], "another form"), (images(ELF)[:-1], "ends too early"),
        (images(ELF) + b"\0", "bytes behind the last image"), (images(), "no images"), (images(b"text"), "neither"),
        (images(ELF[:60]), "neither"), (images(b"\x7fELF\2\1" + bytes(100)), "neither"),
        (images(ELF, ELF), "an image without a kernel"),
        (b"torshCU\n" + struct.pack("<IIQ", 1, 1, 2**64 - 1), "ends too early"),
        (b"torshCU\n" + struct.pack("<II", 1, 2**32 - 1), "no images, too many"),
        (images(ELF)[:30] + b"\1" + images(ELF)[31:], "padding that is not zero"),
    ],
    ids=range(12),
)  # fmt: skip
def test_kernels_that_are_believed_and_malformed_are_refused(tmp_path, data, why):
    path = tmp_path / "kernels.torsh"
    path.write_bytes(kernels(data=data))
    digest = hashlib.sha256(path.read_bytes()).digest()
    assert torsh.load(path).code[0].unused is not None
    with pytest.raises(torsh.PackageError, match=f"cuda-sm_90.bin: .*{why}"):
        torsh.load(path, sha256=digest)
    path.write_bytes(kernels())
    (code,) = torsh.load(path, sha256=hashlib.sha256(path.read_bytes()).digest()).code
    assert (code.kernels, code.unused) == (1, None)


def test_the_builder_makes_packages(tmp_path):
    """What the cases are made from is a package: each of them is refused for its own reason."""
    path = tmp_path / "good.torsh"
    path.write_bytes(build())
    program = torsh.load(path)
    x = torsh.ones(2, 3)
    assert program(x).tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_the_builder_makes_packages_with_dims(tmp_path):
    path = tmp_path / "good.torsh"
    path.write_bytes(sized())
    program = torsh.load(path)
    assert program(torsh.ones(2, 3)).tolist() == [[0.0, 1.0, 2.0]] * 2
    assert program(torsh.ones(9, 3)).tolist() == [[0.0, 1.0, 2.0]] * 9


def test_templates_that_fail_beyond_the_smallest_sizes(tmp_path):
    """What a file does only at some sizes is found when they are met."""
    path = tmp_path / "bad.torsh"
    for text, out, reason in [
        ("n/(7-n)*0+n", "n", "divides by zero"),
        ("n+n/7", "n", "operands must have one shape"),
        ("n", "n+n/7", "in the manifest"),
    ]:
        path.write_bytes(sized(text=lambda b, t=text: b.replace("%2: f32[<n>", f"%2: f32[<{t}>"), out=(out, 3)))
        program = torsh.load(path)
        assert program(torsh.ones(2, 3)).shape == (2, 3)
        with pytest.raises(torsh.PackageError, match=reason):
            program(torsh.ones(7, 3))
        assert program(torsh.ones(6, 3)).shape == (6, 3)
    # A size that the limits do not allow, of a tensor within.
    huge = """graph {
  %0: f32[<n>, 3] = input(index=0)
  %1: f32[1, 3] = input(index=1)
  %2: f32[<n>, 3] = full(value=1.0)
  %3: f32[<(n-2)*1000000000000+1>] = full(value=1.0)
  %4: f32[1] = amax(%3, dims=[0])
  %5: f32[1, 1] = reshape(%4)
  %6: f32[<n>, 3] = expand(%5)
  %7: f32[<n>, 3] = mul(%2, %6)
  return %7
}
"""
    path.write_bytes(sized(text=lambda _: huge))
    program = torsh.load(path)
    assert program(torsh.ones(2, 3)).shape == (2, 3)
    with pytest.raises(torsh.LimitError, match="n=3"):
        program(torsh.ones(3, 3))


@pytest.mark.parametrize("case", CASES)
def test_hostile_files_are_refused(case, tmp_path):
    data, reason = CASES[case]
    path = tmp_path / "bad.torsh"
    path.write_bytes(data)
    with pytest.raises(torsh.PackageError) as error:
        torsh.load(path)
    text = str(error.value)
    assert str(path) in text or "Python cannot have" in text
    assert reason in text, text
    assert len(text) < 1000 + len(str(path))


def test_bools_that_are_neither(tmp_path):
    def edit(m):
        m["state"][0].update(dtype="bool", shape=[3])

    text = GRAPH.replace("%1: f32[2, 3]", "%1: b1[3]")
    for name in ("b1", "bool", "i1"):
        text = GRAPH.replace("%1: f32[2, 3]", f"%1: {name}[3]").replace("mul(%0, %1)", "neg(%0)")
        data = build(parts(edit, graph=text, data=weights({"w": ("BOOL", [3], b"\0\1\2")})))
        path = tmp_path / "bad.torsh"
        path.write_bytes(data)
        with pytest.raises(torsh.PackageError) as error:
            torsh.load(path)
        if "no dtype named" not in str(error.value):
            break
    assert "neither 0 nor 1" in str(error.value)


def test_truncated_anywhere(tmp_path):
    """Cut at every kilobyte, and at every byte of the last one."""
    path = tmp_path / "model.torsh"
    model = torsh.nn.Linear(64, 64)
    torsh.export(model, (torsh.ones(2, 64),), path)
    whole = path.read_bytes()
    cut = tmp_path / "cut.torsh"
    for n in {*range(0, len(whole), 1024), *range(len(whole) - 1024, len(whole))}:
        cut.write_bytes(whole[:n])
        with pytest.raises(torsh.PackageError):
            torsh.load(cut)


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


def wide(entries: dict[str, bytes], lie: int = 0) -> bytes:
    """The same file with 64-bit sizes throughout, as files beyond 4 GiB have them."""
    body, directory, full = b"", b"", 0xFFFFFFFF
    for name, data in entries.items():
        at, name = len(body), name.encode()
        sizes = struct.pack("<HHQQ", 1, 16, len(data), len(data) + lie)
        pad = -(at + 30 + len(name) + len(sizes) + 4) % ALIGN
        extra = sizes + struct.pack("<HH", 0xD935, pad) + b"\0" * pad
        crc = zlib.crc32(data)
        body += struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 0, 0, 33, crc, full, full, len(name), len(extra))
        body += name + extra + data
        extra = struct.pack("<HHQQQ", 1, 24, len(data), len(data), at)
        directory += struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, 0x032D, 45, 0, 0, 0, 33, crc, full, full, len(name), len(extra), 0, 0, 0,
            0o100644 << 16, full,
        )  # fmt: skip
        directory += name + extra
    n, start = len(entries), len(body)
    end = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, n, n, len(directory), start)
    end += struct.pack("<IIQI", 0x07064B50, 0, start + len(directory), 1)
    return body + directory + end + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, full, full, 0)


def test_64_bit_sizes_that_are_not_needed_are_refused(tmp_path):
    """What small files would have beside their one form. Larger files: `package/archive.rs`."""
    path = tmp_path / "wide.torsh"
    path.write_bytes(wide(parts()))
    with pytest.raises(torsh.PackageError, match="a field or padding"):
        torsh.load(path)
    path.write_bytes(wide(parts(), lie=1))
    with pytest.raises(torsh.PackageError, match="differs from that in the directory"):
        torsh.load(path)


@pytest.mark.parametrize("name", ["linear", "gradients"])
def test_every_byte_counts(name, tmp_path):
    """One content has one file: whichever byte changes, signed or not, the file is refused."""
    good = (GOLDEN / f"{name}.torsh").read_bytes()
    path = tmp_path / "bad.torsh"
    for at in range(len(good)):
        for bit in (0x01, 0x20, 0x80):
            bad = bytearray(good)
            bad[at] ^= bit
            path.write_bytes(bad)
            with pytest.raises(torsh.PackageError):
                torsh.load(path)


def test_a_signature_has_one_form(tmp_path):
    """No hash covers the entry of the signature: it may be written in one way only."""
    path = tmp_path / "s.torsh"
    torsh.export(lambda x: x * 2, (torsh.ones(2),), path, sign=bytes(range(32)))
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    good = entries["signature.json"]
    fields = json.loads(good)
    upper = {**fields, "key": fields["key"].upper()}
    compact = {"separators": (",", ":")}
    forms = [
        good + b"\n",
        json.dumps(fields).encode(),
        json.dumps(upper, **compact).encode(),
        json.dumps(dict(reversed(fields.items())), **compact).encode(),
        good.replace(b"ed25519", b"ed2551\\u0039"),
    ]
    assert build(entries) == path.read_bytes()
    for form in forms:
        path.write_bytes(build({**entries, "signature.json": form}))
        with pytest.raises(torsh.PackageError, match="signature.json: it is not written as"):
            torsh.load(path)


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
