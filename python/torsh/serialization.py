"""`torsh.save` and `torsh.load`: tensors in safetensors files, never pickle.

A file is eight bytes (header length, little endian), a JSON header and the raw elements. Nothing in a file is
trusted: header length, JSON, names, dtypes, shapes, offsets and the file's size are checked before a tensor is made,
and a file that fails a check raises `torsh.PackageError`. A dict of tensors is a plain safetensors file that other
programs read. Nested dicts, lists, tuples and numbers (an optimizer's state dict) keep their structure as JSON in
the header's metadata under the key "torsh".

`load` reads packages, too, and many a process reads one and nothing else: modules that only these files need are
imported where they are.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import errno
import os

from torsh import _C

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Tensor = _C.Tensor
PackageError = _C.PackageError

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16",
    "BF16": "bfloat16", "F32": "float32", "F64": "float64",
}  # fmt: skip
_NAMES = {v: k for k, v in _DTYPES.items()}
# memoryview formats; the 16-bit floats have none to cast to and travel as int16 bits.
_FORMATS = {
    "bool": "?", "uint8": "B", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "float16": "h", "bfloat16": "h",
    "float32": "f", "float64": "d",
}  # fmt: skip
_MAX_HEADER = 100_000_000
_MAX_DEPTH = 64


# -- writing -----------------------------------------------------------------------------------------------


def save(obj: Any, f) -> None:
    """Writes a state dict to a path (atomically: a crash leaves the old file) or to an open binary file.

    `obj` is a dict of tensors, or dicts, lists and tuples of tensors, numbers, strings and None.

    Raises: TypeError for anything else (a module: save its `state_dict()`).

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> torsh.save({"w": torsh.tensor([1.0, 2.0])}, path)
    >>> torsh.load(path)["w"].tolist()
    [1.0, 2.0]
    """
    import json

    tensors: dict[str, Tensor] = {}
    flat = isinstance(obj, dict) and obj and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in obj.items())
    if flat:
        if "__metadata__" in obj:
            raise ValueError("save(): '__metadata__' is not a name for a tensor in a safetensors file")
        tensors, metadata = dict(obj), {"format": "torsh"}
    else:
        if hasattr(obj, "state_dict"):
            raise TypeError(f"save(): save the state of a {type(obj).__name__}, not the object: obj.state_dict()")
        tree = _encode(obj, tensors, "", 0)
        metadata = {"format": "torsh", "torsh": json.dumps(tree, separators=(",", ":"))}
    if hasattr(f, "write"):
        _write(f, tensors, metadata)
        return
    path = os.fspath(f)
    temporary = f"{os.fsdecode(path)}.{os.urandom(8).hex()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(fd, "wb") as out:
            _write(out, tensors, metadata)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _write(out, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    import json

    header: dict[str, Any] = {"__metadata__": metadata}
    # Wide dtypes first, so that every tensor is aligned to its element size.
    order = sorted(tensors, key=lambda k: (-tensors[k].dtype.itemsize, k))
    at = 0
    for name in order:
        x = tensors[name]
        size = x.numel() * x.dtype.itemsize
        header[name] = {"dtype": _NAMES[x.dtype.name], "shape": list(x.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"save(): the header would be {len(text)} bytes; safetensors readers take {_MAX_HEADER}")
    out.write(len(text).to_bytes(8, "little"))
    out.write(text)
    for name in order:
        if tensors[name].numel():
            out.write(_C.tobytes(tensors[name]))


def _encode(x, tensors: dict[str, Tensor], path: str, depth: int):
    if depth > _MAX_DEPTH:
        raise ValueError(f"save(): the object nests deeper than {_MAX_DEPTH} levels; is it cyclic?")
    if isinstance(x, Tensor):
        name = path or "tensor"
        while name in tensors or name == "__metadata__":
            name += "_"
        tensors[name] = x
        return {"t": name}
    if x is None or isinstance(x, (bool, int, str)):
        return x
    if isinstance(x, float):
        return {"f": float(x).hex()}
    dot = path + "." if path else ""
    if isinstance(x, dict):
        for k in x:
            if isinstance(k, bool) or not isinstance(k, (str, int)):
                raise TypeError(f"save(): keys must be str or int, got {type(k).__name__} in {path or 'the dict'}")
        return {"d": [[k, _encode(v, tensors, f"{dot}{k}", depth + 1)] for k, v in x.items()]}
    if isinstance(x, (list, tuple)):
        items = [_encode(v, tensors, f"{dot}{i}", depth + 1) for i, v in enumerate(x)]
        return items if isinstance(x, list) else {"u": items}
    raise TypeError(
        f"save(): cannot store a {type(x).__name__}{f' at {path}' if path else ''}; state dicts hold tensors, numbers, "
        "strings, None, dicts, lists and tuples"
    )


# -- reading -----------------------------------------------------------------------------------------------


def load(f, map_location=None, *, weights_only: bool = True, trusted_keys=None, sha256=None) -> Any:
    """Reads what `save` wrote, or any safetensors file, from a path or an open binary file; and programs that
    `torsh.export` wrote, from a path.

    Tensors come on the CPU, or on the device that `map_location` names; a file does not say where they were.

    A package (`.torsh`) gives a program, which runs on that device: a callable with `inputs`, `outputs`, `metadata`,
    `state_dict()` and `to()`. With `trusted_keys`, a list of public ed25519 keys (32 bytes each, 64 hexadecimal
    digits, or files that `torsh keygen` made), a package must be signed by one of them; with `sha256` (32 bytes or 64
    hexadecimal digits), the whole file must have this hash. Its weights are mapped, not read, if only this user can
    change the file; what is read counts against the memory limit.

    Machine code and lowered programs in a package are used only if `trusted_keys` or `sha256` is given and they fit
    this machine and this version of torsh: whoever made the file is believed then as much as the author of any
    library. Else the graph is compiled, and nothing of the file is executed. The program's `code` and `lowered` say
    which. With kernels for a CUDA device in a package that is believed, `map_location="cuda"` needs no NVRTC.

    Raises: PackageError for a malformed, unsigned or wrongly signed file, or one of another hash. DeviceError for a
    `map_location` that is not there.
    """
    if map_location is not None:
        if not isinstance(map_location, (str, int, _C.PyDevice)):
            raise TypeError(
                f"load(): map_location must be a device, not {type(map_location).__name__}: a file does not say where "
                "its tensors were"
            )
        map_location = _C.resolve_device(map_location)
    if weights_only is not True:
        raise ValueError("load(): torsh never unpickles; weights_only can only be True")
    if hasattr(f, "read"):
        if trusted_keys is not None or sha256 is not None:
            raise ValueError("load(): trusted_keys and sha256 go with the path of a package")
        _open(map_location)
        return _read(f, map_location, getattr(f, "name", "the file"))
    from torsh import _package

    believed = trusted_keys is not None or sha256 is not None
    if believed or os.fsdecode(f).endswith(".torsh") or _package.is_package(f):
        if not os.path.exists(f):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(f))
        return _package.load(f, trusted_keys, map_location, sha256)
    _open(map_location)
    with open(f, "rb") as file:
        return _read(file, map_location, os.fspath(f))


def _open(device) -> None:
    """Opens a device before a file is read. A package is read first: it may have what the device needs."""
    if device is not None:
        _C.open_device(device)


def _read(file, device, where) -> Any:
    def bad(text: str) -> Exception:
        return PackageError(f"load(): {where} is not a valid safetensors file: {text}")

    raw = file.read(8)
    if raw[:4] == b"PK\x03\x04" or raw[:1] == b"\x80":
        raise bad(
            "it looks like a pickle of PyTorch, which torsh does not execute; convert it with "
            "safetensors.torch.save_file"
        )
    if len(raw) != 8:
        raise bad(f"it ends after {len(raw)} bytes, within the header's length")
    n = int.from_bytes(raw, "little")
    if n > _MAX_HEADER:
        raise bad(f"the header claims {n} bytes; the most is {_MAX_HEADER}")
    text = file.read(n)
    if len(text) != n:
        raise bad(f"the header claims {n} bytes, the file has {len(text)}")
    header = _header(text, bad)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise bad("__metadata__ must map strings to strings")
    spans = sorted((_entry(name, info, bad) for name, info in header.items()), key=lambda s: s[1:3])
    end = 0
    for name, start, stop, _, _ in spans:
        if start != end:
            raise bad(f"tensor {name!r} starts at byte {start} of the data, expected {end}: no holes, no overlaps")
        end = stop
    tensors = {}
    for name, start, stop, dtype, shape in spans:
        data = file.read(stop - start) if stop > start else b""
        if len(data) != stop - start:
            raise bad(f"it ends within tensor {name!r}")
        tensors[name] = _tensor(data, dtype, shape, bad, name)
    if file.read(1):
        raise bad(f"bytes follow after the last tensor (at byte {end} of the data)")
    # In the order of the header, which is the order that was saved.
    tensors = {name: tensors[name] if device is None else tensors[name].to(device) for name in header}
    if "torsh" not in metadata:
        return tensors
    import json

    try:
        return _decode(json.loads(metadata["torsh"]), tensors, bad, 0)
    except (ValueError, OverflowError, RecursionError) as e:
        if isinstance(e, PackageError):
            raise
        raise bad(f"its structure is malformed: {e}") from None


def _unique(pairs):
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name occurs twice")
    return out


def _constant(name):
    raise ValueError(f"{name} is not JSON")


def _header(text: bytes, bad) -> dict:
    import json

    if not text.startswith(b"{"):
        raise bad("the header does not start with '{'")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError) as e:
        raise bad(f"the header is not JSON: {e}") from None
    if not isinstance(header, dict):
        raise bad("the header is not an object")
    return header


def _is_size(v) -> bool:
    return type(v) is int and 0 <= v < 2**63


def _entry(name: str, info, bad):
    if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
        raise bad(f"the entry of {name!r} must have dtype, shape and data_offsets")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise bad(f"tensor {name!r} has dtype {dtype!r}; known: {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or not all(_is_size(s) for s in shape):
        raise bad(f"the shape of {name!r} must be a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(o) for o in offsets):
        raise bad(f"data_offsets of {name!r} must be two positions")
    size = _C.PyDType(_DTYPES[dtype]).itemsize
    for s in shape:
        size *= s
    if offsets[1] - offsets[0] != size:
        raise bad(
            f"tensor {name!r} of shape {shape} needs {size} bytes, its data_offsets hold {offsets[1] - offsets[0]}"
        )
    return name, offsets[0], offsets[1], _DTYPES[dtype], shape


def _tensor(data: bytes, dtype: str, shape: list[int], bad, name: str) -> Tensor:
    if not data:
        return _C.full(shape, 0, _C.PyDType(dtype), "cpu")
    if dtype == "bool" and data.translate(None, b"\0\1"):
        raise bad(f"tensor {name!r} of dtype BOOL holds bytes that are neither 0 nor 1")
    x = _C.tensor(memoryview(data).cast("B").cast(_FORMATS[dtype]), None, "cpu", False)
    if dtype in ("float16", "bfloat16"):
        x = _C.apply("bitcast", (x,), (_C.PyDType(dtype),))
    return x.reshape(shape)


def _decode(x, tensors: dict[str, Tensor], bad, depth: int):
    if depth > _MAX_DEPTH:
        raise bad(f"its structure nests deeper than {_MAX_DEPTH} levels")
    if x is None or isinstance(x, (bool, int, str)):
        return x
    if isinstance(x, list):
        return [_decode(v, tensors, bad, depth + 1) for v in x]
    if isinstance(x, dict) and len(x) == 1:
        kind, value = next(iter(x.items()))
        if kind == "t" and isinstance(value, str) and value in tensors:
            return tensors[value]
        if kind == "f" and isinstance(value, str):
            return float.fromhex(value)
        if kind == "u" and isinstance(value, list):
            return tuple(_decode(v, tensors, bad, depth + 1) for v in value)
        if kind == "d" and isinstance(value, list):
            pairs = [p for p in value if isinstance(p, list) and len(p) == 2 and type(p[0]) in (str, int)]
            if len(pairs) == len(value):
                return {k: _decode(v, tensors, bad, depth + 1) for k, v in pairs}
    raise bad("its structure is malformed")
