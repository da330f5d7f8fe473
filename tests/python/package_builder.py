"""Packages by hand: `build` writes one from its parts, with hashes that fit unless a case says otherwise, so that each
case breaks one rule and is stopped by the check for that rule.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np

import torsh

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
