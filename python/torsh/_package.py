"""Programs that were loaded from packages (`torsh.load("model.torsh")`).

A process may import torsh for one package and one call: modules that few programs need are imported where they are.
"""

from __future__ import annotations

import os
from _weakref import ref  # of all that `weakref` imports, just this
from collections import OrderedDict, namedtuple

from torsh import _C
from torsh._compile import Compiled
from torsh._dims import Dim
from torsh.autograd import no_grad

TYPE_CHECKING = False
if TYPE_CHECKING:
    from torsh._package_info import Code, Lowered, Port

Tensor = _C.Tensor


class Program:
    """A program from a package: calls run it, and update the state that it keeps.

    Called like the function that was exported, with tensors of the same dtypes and shapes; where a size is a
    `torsh.Dim`, any in its range, for which the program is compiled when it is first met. It works inside
    `torsh.compile`, and with gradients if it was exported with `include_grad=True`.

    It runs on the device of its state, `device`, where its inputs must be, too (0-d tensors of the CPU may go
    anywhere, as in PyTorch); `to` moves it. A program without state runs where its inputs are. The thread's default
    device plays no part.
    """

    def __init__(self, package: _C.Package):
        self._package = package
        interface = self._interface = package.interface
        self._arguments, self._keywords = interface["arguments"]["tuple"]
        self._grad = package.has_gradients
        self._dims = {d["name"]: Dim(**d) for d in interface["dims"]}
        self._classes: dict[tuple, type] = {}
        _find_classes(interface["result"], self._classes)
        self._calls = _C.PackageCalls(package)
        if self._grad:
            for _, tensor in self.named_parameters():
                tensor.requires_grad_(True)
        # Where a program without state makes what it returns, if its inputs do not say.
        self._home = _C.PyDevice("cpu")
        self._compiled = self._fresh()

    @property
    def name(self) -> str:
        """Its name."""
        return self._interface["name"]

    @property
    def license(self) -> str | None:
        """SPDX expression of its licence, as the exporter stated it."""
        return self._interface["license"]

    @property
    def metadata(self) -> dict[str, str]:
        """Words of the exporter's."""
        return dict(self._interface["metadata"])

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Names, dtypes and shapes of the inputs, in order; Python floats are float64 scalars."""
        return self._ports("inputs")

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Names, dtypes and shapes of the outputs, in order."""
        return self._ports("outputs")

    def _ports(self, which: str) -> tuple[Port, ...]:
        from torsh._package_info import Port

        ports = self._interface[which]
        shapes = [tuple(self._dims.get(s, s) for s in p["shape"]) for p in ports]
        return tuple(Port(p["name"], _C.PyDType(p["dtype"]), s) for p, s in zip(ports, shapes, strict=True))

    @property
    def device(self) -> _C.PyDevice:
        """Where the program runs: the device of its state."""
        return self._state[0].device if self._state else self._home

    @property
    def signer(self) -> bytes | None:
        """The public key whose signature the file bears."""
        return self._package.signer

    @property
    def code(self) -> tuple[Code, ...]:
        """Machine code in the file, by level and CUDA architecture, and whether it is used."""
        from torsh._package_info import Code

        return tuple(Code(*c) for c in self._package.code)

    @property
    def lowered(self) -> tuple[Lowered, ...]:
        """Lowered programs in the file, and whether they are used."""
        from torsh._package_info import Lowered

        return tuple(Lowered(*p) for p in self._package.lowered)

    @property
    def manifest(self) -> dict:
        """The manifest, as plain data."""
        import json

        return json.loads(self._package.manifest)

    @property
    def graph(self) -> str:
        """The graph as text."""
        return self._package.graph

    def explain(self):
        """What was compiled and why, as `torsh.compile` tells it."""
        return self._compiled.explain()

    def __repr__(self) -> str:
        ports = ", ".join(f"{p['name']}: {p['dtype']}{sizes(p['shape'])}" for p in self._interface["inputs"])
        return f"<torsh program {self.name}({ports})>"

    # -- device --------------------------------------------------------------------------------------------

    def to(self, device):
        """Moves the state, constants included, and gradients with it; returns the program.

        Raises: DeviceError for a device that is not there; nothing has moved then.
        """
        device = _C.resolve_device(device)
        _C.open_device(device)
        moved = [(t.detach().to(device), None if t.grad is None else t.grad.detach().to(device)) for t in self._state]
        _C.eval([t for pair in moved for t in pair if t is not None])
        for tensor, (value, gradient) in zip(self._state, moved, strict=True):
            # The tensor itself stays: an optimizer may hold it.
            tensor.data = value
            if gradient is not None:
                tensor.grad = gradient
        self._home = _C.full([], 0.0, _C.float32, device).device
        if not self._state:
            # Nothing else tells a traced call without inputs that it belongs elsewhere now.
            self._compiled = self._fresh()
        _C.bump_module_epoch()
        return self

    def cpu(self):
        """The program on the CPU."""
        return self.to("cpu")

    def cuda(self, device=None):
        """The program on a CUDA device, the current one by default."""
        return self.to("cuda" if device is None else device)

    # -- state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> OrderedDict[str, Tensor]:
        """The state by name; the tensors are the program's own, so that later calls show in them."""
        return OrderedDict((name, t.detach()) for name, _, t in self._named())

    def named_parameters(self):
        """(name, tensor) of what is trained; they require grad in a program exported with `include_grad=True`."""
        return ((name, t) for name, role, t in self._named() if role == "parameter")

    def parameters(self):
        """The tensors of `named_parameters`."""
        return (t for _, t in self.named_parameters())

    def load_state_dict(self, state_dict, strict: bool = True) -> None:
        """Replaces the state by tensors of the same dtypes and shapes, copied from whatever device they are on; numbers
        do for learning rates and the like.

        Raises: KeyError for unknown names, and for missing ones when `strict`; ShapeError, DTypeError. Nothing is
        changed then.
        """
        own = {name: t for name, _, t in self._named()}
        unknown = [n for n in state_dict if n not in own]
        missing = [n for n in own if n not in state_dict] if strict else []
        if unknown or missing:
            raise KeyError(f"load_state_dict(): unexpected names {unknown}, missing names {missing}")
        pairs = []
        for name, value in state_dict.items():
            old = own[name]
            if isinstance(value, (int, float)) and old.ndim == 0:
                value = _C.full([], float(value), old.dtype, old.device)
            if not isinstance(value, Tensor):
                raise TypeError(f"load_state_dict(): {name!r} must be a Tensor, not {type(value).__name__}")
            _fits(f"load_state_dict(): {name!r}", value, old.dtype, tuple(old.shape))
            pairs.append((old, value))
        with no_grad():
            for old, value in pairs:
                _C.assign(old, value.detach())

    @property
    def _state(self) -> list[Tensor]:
        # Made when somebody asks, as calls need no objects; threads that ask at once get the same ones.
        made = self.__dict__.get("_tensors")
        return self.__dict__.setdefault("_tensors", self._calls.tensors()) if made is None else made

    def _names(self):
        return ((name, t) for (name, _), t in zip(self._package.roles, self._state, strict=True))

    def _named(self):
        roles = zip(self._package.roles, self._state, strict=True)
        return ((n, role, t) for (n, role), t in roles if role != "constant")

    # -- calls ---------------------------------------------------------------------------------------------

    def __call__(self, *args, **kwargs):
        leaves: list = []
        ports = self._interface["inputs"]
        _take(self._arguments, self._positional(args, kwargs), ports, leaves, "arguments")
        _take(self._keywords, kwargs, ports, leaves, "keyword arguments")
        self._sizes(leaves)
        outputs = self._compiled(*leaves)
        return _give(self._interface["result"], outputs, self._classes)

    def call_flat(self, values) -> list[Tensor]:
        """One call with the inputs in the order of `inputs`; the outputs in the order of `outputs`."""
        ports = self._interface["inputs"]
        if len(values) != len(ports):
            raise TypeError(f"{self.name}() takes {len(ports)} inputs, got {len(values)}")
        leaves: list = []
        for i, value in enumerate(values):
            _take({"leaf": i}, value, ports, leaves, "")
        self._sizes(leaves)
        return self._compiled(*leaves)

    def _sizes(self, leaves: list) -> list[int]:
        """The size of each dim in a call. Raises: ShapeError."""
        if not self._dims:
            return []
        return self._package.sizes([list(x.shape) if isinstance(x, Tensor) else [] for x in leaves])

    def _positional(self, args: tuple, kwargs: dict) -> tuple:
        names = self._interface["parameters"]
        if len(args) > len(names):
            raise TypeError(f"{self.name}() takes {len(names)} positional arguments but {len(args)} were given")
        out = list(args)
        for name in names[len(args) :]:
            if name not in kwargs:
                raise TypeError(f"{self.name}() is missing the argument {name!r}")
            out.append(kwargs.pop(name))
        return tuple(out)

    def _place(self, leaves: tuple) -> _C.PyDevice:
        """Where a call with these inputs runs. Raises: DeviceError for an input elsewhere."""
        tensors = [
            (p["name"], v) for p, v in zip(self._interface["inputs"], leaves, strict=True) if isinstance(v, Tensor)
        ]
        away = [(n, v.device) for n, v in tensors if v.ndim or v.device.type != "cpu"]
        place = self.device if self._state or not away else away[0][1]
        for name, device in away:
            if device != place:
                raise _C.DeviceError(
                    f"input {name!r} is on {device}, but {self.name}() runs on {place}: move the input there, or the "
                    f'program with program.to("{device}")'
                )
        return place

    def _fresh(self) -> Compiled:
        # No bound method: Python does not look for cycles through compiled functions, and the program would never go.
        this = ref(self)

        def apply(*leaves):
            return this()._apply(*leaves)

        return Compiled(apply, True, self.name, self._calls)

    def _apply(self, *leaves):
        place = self._place(leaves)
        slots = self._package.slots
        given, sizes = [], self._sizes(leaves)
        for slot in slots["inputs"]:
            ((kind, i),) = slot.items()
            value = leaves[i] if kind == "input" else self._state[i]
            given.append(value if isinstance(value, Tensor) else _C.convert_float(value))
        results: list = [None] * len(self._interface["outputs"])
        grad = self._grad and _C.is_grad_enabled()
        for slot, made in zip(slots["outputs"], self._package.apply(given, grad, place, sizes), strict=True):
            ((kind, i),) = slot.items()
            if kind == "output":
                results[i] = made
            else:
                with no_grad():
                    _C.assign(self._state[i], made.detach())
        return results


def sizes(shape: list) -> str:
    """Sizes as a reader sees them: `[batch, 3]`."""
    return f"[{', '.join(map(str, shape))}]"


def _fits(what: str, value: Tensor, dtype, shape: tuple) -> None:
    if value.dtype != dtype:
        raise _C.DTypeError(f"{what} must be {dtype.name}, got {value.dtype.name}")
    # Dims are looked at together, once every input is known.
    fits = len(value.shape) == len(shape) and all(
        s == w or type(w) is str for s, w in zip(value.shape, shape, strict=True)
    )
    if not fits:
        raise _C.ShapeError(f"{what} must have shape {sizes(shape)}, got {list(value.shape)}")


def _float(bits: str) -> float:
    import struct

    return struct.unpack("<d", int(bits, 16).to_bytes(8, "little"))[0]


def _bits(x: float) -> bytes:
    import struct

    return struct.pack("<d", x)


def _take(tree: dict, value, ports: list, out: list, path: str) -> None:
    """Checks arguments against the tree and lists its leaves."""
    ((kind, spec),) = tree.items()
    if kind == "leaf":
        port = ports[spec]
        what = f"input {port['name']!r}"
        if port["kind"] == "float":
            if isinstance(value, Tensor) and value.ndim == 0 and value.dtype == _C.float64:
                # What a float argument is to a function while it is traced.
                out.append(value)
                return
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{what} must be a float, got {type(value).__name__}")
            out.append(float(value))
            return
        if not isinstance(value, Tensor):
            raise TypeError(f"{what} must be a Tensor, got {type(value).__name__}")
        _fits(what, value, _C.PyDType(port["dtype"]), tuple(port["shape"]))
        out.append(value)
    elif kind in ("value", "float"):
        wanted = _float(spec) if kind == "float" else spec
        # Floats by their bits: 0.0 and -0.0 differ, NaN is itself.
        same = type(value) is type(wanted) and (_bits(value) == _bits(wanted) if kind == "float" else value == wanted)
        if not same:
            raise ValueError(f"{path} was {wanted!r} when the program was exported and cannot be {value!r}")
    elif kind == "dict":
        if not isinstance(value, dict) or list(value) != [k for k, _ in spec]:
            wanted = [k for k, _ in spec]
            if isinstance(value, dict) and len(value) == len(wanted) and set(value) == set(wanted):
                value = {k: value[k] for k in wanted}
            else:
                got = list(value) if isinstance(value, dict) else type(value).__name__
                raise TypeError(f"{path} must be a dict with the keys {wanted}, got {got}")
        for k, t in spec:
            _take(t, value[k], ports, out, f"{path}[{k!r}]")
    else:
        items = spec["items"] if kind == "named" else spec
        if not isinstance(value, list if kind == "list" else tuple) or len(value) != len(items):
            what = "list" if kind == "list" else "tuple"
            raise TypeError(f"{path} must be a {what} of {len(items)}, got {type(value).__name__}")
        for i, (t, v) in enumerate(zip(items, value, strict=True)):
            _take(t, v, ports, out, f"{path}[{i}]")


def _find_classes(tree: dict, out: dict[tuple, type]) -> None:
    """Makes the classes of the named tuples in a tree. Their names are data of a file: Python may not have them."""
    ((kind, spec),) = tree.items()
    if kind == "named":
        key = (spec["name"], *spec["fields"])
        if key not in out:
            try:
                out[key] = namedtuple(spec["name"], spec["fields"])
            except ValueError as error:
                raise _C.PackageError(
                    f"manifest.json: result has a named tuple that Python cannot have: {error}"
                ) from None
    inner = spec["items"] if kind == "named" else [t for _, t in spec] if kind == "dict" else spec
    for t in inner if kind in ("named", "dict", "list", "tuple") else ():
        _find_classes(t, out)


def _give(tree: dict, outputs: list, classes: dict[tuple, type]):
    """The result, built from the outputs."""
    ((kind, spec),) = tree.items()
    if kind == "leaf":
        return outputs[spec]
    if kind == "value":
        return spec
    if kind == "float":
        return _float(spec)
    if kind == "dict":
        return {k: _give(t, outputs, classes) for k, t in spec}
    if kind == "named":
        made = classes[(spec["name"], *spec["fields"])]
        return made(*(_give(t, outputs, classes) for t in spec["items"]))
    items = [_give(t, outputs, classes) for t in spec]
    return items if kind == "list" else tuple(items)


# -- keys --------------------------------------------------------------------------------------------------

SECRET, PUBLIC = "torsh ed25519 secret key ", "torsh ed25519 public key "


def read_key(key, kind: str) -> bytes:
    """32 bytes from themselves, from 64 hexadecimal digits, or from a file that `torsh keygen` made.

    Raises: TypeError, ValueError, OSError.
    """
    if isinstance(key, (bytes, bytearray)):
        if len(key) != 32:
            raise ValueError(f"a key has 32 bytes, got {len(key)}")
        return bytes(key)
    if not isinstance(key, (str, os.PathLike)):
        raise TypeError(f"a key must be 32 bytes or the path of a key file, got {type(key).__name__}")
    text = os.fspath(key)
    if not os.path.exists(text) and len(text) == 64 and all(c in "0123456789abcdefABCDEF" for c in text):
        return bytes.fromhex(text)
    with open(text, encoding="ascii", errors="replace") as file:
        line = file.read(256).strip()
    digits = line.removeprefix(kind)
    if not line.startswith(kind) or len(digits) != 64 or any(c not in "0123456789abcdef" for c in digits):
        raise ValueError(f"{text} is not a file with a {kind.strip()}")
    return bytes.fromhex(digits)


def is_package(path) -> bool:
    """Whether a file begins as a package does, or is named as one."""
    with open(path, "rb") as file:
        head = file.read(43)
    return head[:4] == b"PK\x03\x04" and (head[30:43] == b"manifest.json" or os.fsdecode(path).endswith(".torsh"))


def read_hash(sha256) -> bytes:
    """32 bytes from themselves or from 64 hexadecimal digits. Raises: TypeError, ValueError."""
    if isinstance(sha256, (bytes, bytearray)):
        digest = bytes(sha256)
    elif isinstance(sha256, str):
        digits = all(c in "0123456789abcdefABCDEF" for c in sha256) and len(sha256) == 64
        digest = bytes.fromhex(sha256) if digits else b""
    else:
        raise TypeError(f"load(): sha256 must be 32 bytes or 64 hexadecimal digits, got {type(sha256).__name__}")
    if len(digest) != 32:
        raise ValueError("load(): sha256 must be 32 bytes or 64 hexadecimal digits")
    return digest


def load(path, trusted_keys=None, device=None, sha256=None) -> Program:
    """Reads a package, for a device; see `torsh.load`."""
    keys = None
    if trusted_keys is not None:
        if isinstance(trusted_keys, (str, bytes, bytearray, os.PathLike)):
            raise TypeError("load(): trusted_keys must be a list of keys")
        keys = [read_key(k, PUBLIC) for k in trusted_keys]
    program = Program(_C.Package(os.fsdecode(path), keys, None if sha256 is None else read_hash(sha256)))
    return program if device is None else program.to(device)
