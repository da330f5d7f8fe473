"""Files that lie: each is refused with a PackageError that names the entry and the reason, before anything is used."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hostile_packages import CASES
from package_builder import (
    ALIGN,
    CUDA,
    ELF,
    GRAPH,
    build,
    coded,
    images,
    kernels,
    parts,
    sized,
    weights,
)

import torsh

pytestmark = pytest.mark.host_only("files are refused before a device is asked for")
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "packages" / "0.1.0"


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
