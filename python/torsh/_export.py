"""`torsh.export`: a function, a module or a training step as a file that runs without its Python source.

The function is traced as `torsh.compile` traces it; what it reads besides its arguments (parameters, buffers, optimizer
state, the random state, learning rates) becomes state of the package, with names found by walking what the function can
reach.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import re
import struct

from torsh import _C, _dynamic, _export_c, _export_joint
from torsh._compile import Compiled, CompiledModule
from torsh._export_gradients import refuse_outside, refuse_sharing
from torsh._export_names import Names, is_whole, unchanged
from torsh._fn.random import _generators, generator_of
from torsh._package import SECRET, read_key
from torsh.autograd import enable_grad, grad

Tensor = _C.Tensor
ExportError = _C.ExportError

_MAX_DEPTH = 30


def export(
    fn,
    example_args: tuple | dict,
    path,
    *,
    targets=("native",),
    dynamic=None,
    include_grad: bool = False,
    name: str | None = None,
    metadata: dict[str, str] | None = None,
    license: str | None = None,
    sign=None,
    format: str = "torsh",
    weights: str = "inside",
) -> int:
    """Writes a function, a module or a whole training step to a `.torsh` file, which `torsh.load` and the Rust program
    `torsh-run` read, or to a C header and libraries; returns the size in bytes of what was written.

    The function is traced once and not run: nothing outside changes. What it captures becomes state of the package: a
    loaded training step has its own parameters, optimizer state and random state, and updates them at each call.
    The file holds the graph, which is compiled where it is loaded, and gives the same bits there as
    `torsh.compile` does. The same function gives the same bytes. Machine code beside the graph saves its reader that
    time where it says whom it believes: see `targets`, and `trusted_keys` and `sha256` of `torsh.load`.

    With `format="c"` the path `folder/model` stands for `model.h`, `libmodel.a` and `libmodel.so`: a library that needs
    no Python and no torsh and allocates nothing once a context is made (docs/c.md). It is made with the C compiler
    that the environment variable CC names, else `cc`. It takes one target and neither `dynamic`, `metadata`, `license`
    nor `sign`.

    Args:
        fn: a function or a `torsh.nn.Module`, compiled or not.
        example_args: a tuple of positional arguments or a dict of keyword arguments. Tensors and Python floats become
            inputs of these dtypes and shapes; other values (int, bool, str, None) are fixed. Tuples, lists, dicts and
            named tuples of them keep their structure, in results too.
        path: where to write; an old file there stands until the new one is whole.
        targets: of a package, "native" stands for the machine that loads the file, which compiles for itself. Levels
            of x86-64 beside it, "portable", "avx2" and "avx512", say for which of them the file has machine code, too.
            CUDA architectures, "sm_80" and its like, do so for CUDA devices, "cuda" for the present one; NVRTC must be
            installed, a device only for "cuda". "compute_90" stands for PTX, which the simulator runs. With any of
            them the file has what the passes make of the graph, too; with `dynamic`, all of it is for the sizes in the
            example. Of a C library one of "native", "x86_64" and "aarch64"; for another machine than
            this one a cross compiler is needed.
        dynamic: sizes that a call may choose: a dict from names of arguments to `{dim: torsh.Dim("batch", max=512)}`
            (or a tuple with a Dim or None for each dim), or a tuple of these, one for each positional argument;
            containers have entries like their own. One name is one size. The function is traced at some dozen sizes
            and must do the same at each, but for sizes. Without it, sizes are those of the example.
        include_grad: also export the gradients, so that the loaded program takes part in autograd. A C library has a
            second function then, `model_run_grad`, for the parameters and the arguments whose example requires grad;
            the function must leave its parameters and their gradients alone.
        name: of the program; the function's own by default.
        metadata: words to keep in the file, text to text.
        license: SPDX expression.
        sign: a secret ed25519 key, as 32 bytes or as the path of a file that `torsh keygen` made.
        format: "torsh" (a package) or "c" (a library).
        weights: where a C library has the state: "inside" itself, or in a "file" `model.weights` that its caller maps.

    Raises: ExportError for what a package or library cannot hold, for want of NVRTC and of a C compiler, TraceError
    where the function needs a tensor's value, OSError for a key file that cannot be read.

    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "double.torsh")
    >>> size = torsh.export(lambda x: x * 2, (torsh.ones(3),), path, name="double")
    >>> torsh.load(path)(torsh.tensor([1.0, 2.0, 3.0])).tolist()
    [2.0, 4.0, 6.0]
    >>> batch = torsh.Dim("batch", max=512)
    >>> size = torsh.export(lambda x: x.mean(0), (torsh.ones(3, 2),), path, name="mean", dynamic=({0: batch},))
    >>> torsh.load(path)(torsh.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [2.0, 3.0]
    """
    if format not in ("torsh", "c"):
        raise ValueError(f'export(): format must be "torsh" or "c", got {format!r}')
    if format == "c":
        target = _export_c.check(targets, weights, dynamic, sign, metadata, license)
        targets = ("native",)
    elif weights != "inside":
        raise ValueError(f'export(): weights={weights!r} is for format="c"')
    levels, cuda = _check_options(targets, metadata, name, license)
    key = None if sign is None else read_key(sign, SECRET)
    if isinstance(example_args, dict):
        args, kwargs = (), dict(example_args)
    elif isinstance(example_args, (tuple, list)) and not hasattr(example_args, "_fields"):
        args, kwargs = tuple(example_args), {}
    else:
        raise TypeError(f"export(): example_args must be a tuple or a dict, got {type(example_args).__name__}")
    if not callable(fn):
        raise TypeError(f"export(): expected a function or a module, got {type(fn).__name__}")
    plain = fn._orig_mod if isinstance(fn, CompiledModule) else fn.__wrapped__ if isinstance(fn, Compiled) else fn
    exporter, templates, example = _Exporter(plain, args, kwargs, include_grad, joint=format == "c"), None, ()
    with unchanged(plain):
        if dynamic is None or dynamic is False:
            manifest, forward, vjp, state = exporter.run()
            manifest["version"] = 1
        else:
            manifest, forward, vjp, state, templates, example = _dynamic.export(
                lambda *made: _Exporter(plain, *made, include_grad, made=True).run(),
                args, kwargs, exporter._argument_names(), dynamic,
                lambda x, of: _stand_in(x, of, include_grad),
            )  # fmt: skip
    manifest.update(
        format="torsh-package", producer=f"torsh {_C.__version__}", name=name or _own_name(plain),
        license=license, metadata=dict(metadata or {}), entries=[],
    )  # fmt: skip
    if format == "c":
        return _export_c.write(
            path, manifest, forward, state, target, weights, exporter.seeds(), exporter.with_gradients
        )
    return _C.write_package(
        os.fsdecode(path), json.dumps(manifest), forward, vjp, state, key, templates, levels, cuda, list(example)
    )


_LEVELS = ("portable", "avx2", "avx512")
_CUDA = re.compile(r"(sm|compute)_[0-9]{2,3}|cuda(:[0-9]+)?")


def _check_options(targets, metadata, name, license) -> tuple[list[str], list[str]]:
    """Checks options, and lists the levels and the CUDA targets of machine code."""
    wanted = (targets,) if isinstance(targets, str) else tuple(targets)
    levels = [level for level in _LEVELS if level in wanted]
    cuda = [t for t in wanted if isinstance(t, str) and _CUDA.fullmatch(t)]
    if not wanted or any(t not in ("native", *_LEVELS, *cuda) for t in wanted):
        raise ExportError(
            f"export(): targets={wanted!r}: a package may have machine code for the levels {', '.join(_LEVELS)} and "
            'for CUDA architectures such as "sm_90", or "cuda", that of the present device; "native" stands for the '
            "machine that loads it, which compiles the graph"
        )
    # The present device has a number.
    cuda = [str(_C.resolve_device(t)) if t.startswith("cuda") else t for t in cuda]
    for what, value in (("name", name), ("license", license)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"export(): {what} must be a str, got {type(value).__name__}")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(x, str) for pair in metadata.items() for x in pair)
    ):
        raise TypeError("export(): metadata must map str to str")
    return levels, cuda


def _own_name(fn) -> str:
    own = getattr(fn, "__name__", None) or type(fn).__name__
    return own if own.isidentifier() else "program"


class _Exporter:
    def __init__(self, fn, args: tuple, kwargs: dict, grad: bool, made: bool = False, joint: bool = False):
        # `made`: the arguments are the exporter's own, and the trace is one of several that are compared.
        # `joint`: gradients are given by a program that also does what the function does (see _export_joint).
        self.fn, self.grad, self.made, self.joint = fn, grad, made, joint
        self.with_gradients: tuple | None = None
        self.leaves_gradients = False
        # Memory of the tensors through which gradients leave the function; number and memory of those that have them.
        self.outside: list = []
        self.reached: list = []
        if grad and not made:
            # In C whoever wants the gradient of an argument says so by its example.
            own = (lambda x: _variable(x) if x.requires_grad else x.detach()) if joint else _variable
            args, kwargs = _map((args, kwargs), own)
        self.args, self.kwargs = args, kwargs
        self.state: list[dict] = []
        self.tensors: list[Tensor] = []
        self.known: dict[tuple, int] = {}
        self.names: dict[int, str] = {}
        # What was found last of all that the function can reach.
        self.walk: Names | None = None
        # Objects whose identity stands for them while they are known.
        self.held: list = []

    def run(self):
        leaves: list = []
        tree = _tree((self.args, self.kwargs), leaves, "", "argument")
        result: list = []
        self._seed_devices([value for _, value in leaves])
        forward = self._trace(functools.partial(self._call, result))
        fixed = set(forward.specialised)
        numbers, inputs = {}, []
        names = self._argument_names()
        for i, (path, value) in enumerate(leaves):
            if i in fixed:
                continue
            numbers[i] = len(inputs)
            dtype = "float64" if isinstance(value, float) else value.dtype.name
            shape = [] if isinstance(value, float) else list(value.shape)
            kind = "float" if isinstance(value, float) else "tensor"
            inputs.append({"name": _leaf_name(path, names), "dtype": dtype, "shape": shape, "kind": kind})
        _unique(inputs)
        outputs = []
        for path, dtype, shape in result:
            outputs.append({"name": _leaf_name(path, None), "dtype": dtype, "shape": shape, "kind": "tensor"})
        _unique(outputs)
        manifest = {
            "inputs": inputs,
            "outputs": outputs,
            "parameters": names,
            "arguments": _numbered(tree, numbers, leaves),
            "result": self.result_tree,
            "forward": self._program("graph.txt", forward, numbers),
            "vjp": None,
        }
        if self.grad:
            refuse_sharing(self.reached, self)
        joint = _export_joint.trace(self, manifest, numbers) if self.grad and self.joint else None
        vjp = self._vjp(manifest, numbers, leaves) if self.grad and not joint else None
        self._sort_state([manifest["forward"], joint.program if joint else manifest["vjp"]])
        _unique(self.state)
        manifest["state"] = self.state
        if joint:
            self.with_gradients = joint.manifest(manifest, _unique), joint.graph
        return manifest, forward, vjp, self.tensors

    @staticmethod
    def leaves_of(x) -> list:
        """Tensors and floats of arguments or a result, in order."""
        leaves: list = []
        _tree(x, leaves, "", "argument")
        return [value for _, value in leaves]

    def seeds(self) -> list[int]:
        """The state of default generators among the state."""
        states = {_C.memory_id(generator._state) for generator in _generators.values()}
        return [i for i, t in enumerate(self.tensors) if _C.memory_id(t) in states]

    def _seed_devices(self, leaves: list) -> None:
        """Makes the random state of every device that the function may use: one that is made in the trace would be a
        tensor that the function keeps."""
        walk = Names()
        walk.root(self.fn)
        devices = {x.device for x in (*walk.tensors.values(), *leaves) if isinstance(x, Tensor)}
        for device in (*devices, _C.get_default_device()):
            if device.type != "cpu":
                generator_of(device)

    # -- tracing -------------------------------------------------------------------------------------------

    def _call(self, found: list, *args, **kwargs):
        with enable_grad() if self.grad else contextlib.nullcontext():
            result = self.fn(*args, **kwargs)
        leaves: list = []
        tree = _tree(result, leaves, "", "result")
        if any(isinstance(value, float) for _, value in leaves):
            # Floats that come out of a trace are the same at every call.
            kept = [(p, v) for p, v in leaves if not isinstance(v, float)]
            numbers = {i: n for n, i in enumerate(i for i, (_, v) in enumerate(leaves) if not isinstance(v, float))}
            tree, leaves = _numbered(tree, numbers, leaves), kept
        tensors = [value for _, value in leaves]
        if self.grad:
            self.outside, self.reached = _C.check_gradients(tensors)
        self.result_tree, self.flows = tree, [t.requires_grad for t in tensors]
        self.devices = [t.device for t in tensors]
        # Not the tensors: they would outlive the trace.
        found[:] = [(path, value.dtype.name, list(value.shape)) for path, value in leaves]
        return [_C.clone(t.detach()) for t in tensors]

    def _trace(self, call):
        before = Names()
        before.root(self.fn)
        forward = _C.trace_export(call, self.args, self.kwargs, True, self.made)
        self._name_tensors()
        self._refuse_exchanges(before)
        refuse_outside(self.outside, self.names)
        self.leaves_gradients = forward.leaves_gradients
        if not forward.leaves_gradients:
            return forward
        # The next call finds the gradients of this one: what it does with them is what is exported.
        empty = [t for t in self.candidates.values() if t.requires_grad and t.is_leaf and t.grad is None]
        try:
            for t in empty:
                t.grad = _C.full(list(t.shape), 0, t.dtype, t.device)
            forward = _C.trace_export(call, self.args, self.kwargs, True, self.made)
            self._name_tensors()
        finally:
            for t in empty:
                t.grad = None
        if forward.leaves_gradients:
            raise ExportError(
                "export(): the function leaves gradients in tensors that it makes or that cannot be found"
            )
        return forward

    def _vjp(self, manifest: dict, numbers: dict, leaves: list):
        """The trace of the gradients, and its place in the manifest."""
        seeds = [i for i, flows in enumerate(self.flows) if flows]
        if not seeds:
            raise ExportError(
                "export(): include_grad=True, but no output depends on an input or parameter of a float dtype"
            )
        ports = manifest["outputs"]
        cotangents = [_C.full([], 1.0, _C.PyDType(ports[i]["dtype"]), self.devices[i]) for i in seeds]
        # Their elements are not looked at.
        cotangents = [_C.phantom(x, ports[i]["shape"]) for x, i in zip(cotangents, seeds, strict=True)]
        # What to differentiate is what the user's function uses.
        parameters = [i for i, entry in enumerate(self.state) if entry["role"] == "parameter"]
        slots: list = []

        def gradients(args, kwargs, cotangents):
            with enable_grad():
                result = self.fn(*args, **kwargs)
                outs: list = []
                _tree(result, outs, "", "result")
                outs = [value for _, value in outs if isinstance(value, Tensor)]
                given: list = []
                _tree((args, kwargs), given, "", "argument")
                wanted = [
                    ({"input": numbers[i]}, t) for i, (_, t) in enumerate(given) if _is_variable(t) and t.requires_grad
                ]
                wanted += [({"state": i}, self.tensors[i]) for i in parameters]
                found = grad([outs[i] for i in seeds], [t for _, t in wanted], cotangents, allow_unused=True)
            slots[:] = [slot for (slot, _), g in zip(wanted, found, strict=True) if g is not None]
            return [_C.clone(g.detach()) for g in found if g is not None]

        # Only the gradients: what the function writes, it writes when it is called.
        trace = _C.trace_export(gradients, (self.args, self.kwargs, cotangents), {}, False, self.made)
        cotangent = {len(leaves) + n: i for n, i in enumerate(seeds)}
        program = self._program("vjp.txt", trace, numbers, cotangent)
        program["outputs"] = [slots[i] for _, i, *_ in trace.outputs]
        manifest["vjp"] = program
        return trace

    def _program(self, graph: str, trace, numbers: dict, cotangent: dict | None = None) -> dict:
        slots = []
        for kind, detail, dtype, shape in trace.inputs:
            if kind in ("arg", "float"):
                out = cotangent.get(detail) if cotangent else None
                if out is None and detail not in numbers:
                    # A float whose value the trace needed is no input any more; the graph has it as a constant.
                    slots.append({"state": self._constant(detail, dtype, shape)})
                else:
                    slots.append({"input": numbers[detail]} if out is None else {"output": out})
            else:
                slots.append({"state": self._stateful(trace, kind, detail, dtype, shape)})
        outputs = [{"output": i} if kind == "result" else slots[i] for kind, i, *_ in trace.outputs]
        return {"graph": graph, "inputs": slots, "outputs": outputs}

    def _constant(self, leaf: int, dtype: str, shape: list) -> int:
        value = self._leaf(leaf)
        return self._add(
            ("leaf", leaf), f"constant.{leaf}", dtype, shape, "constant", _C.full([], value, _C.float64, None)
        )

    def _leaf(self, leaf: int):
        leaves: list = []
        _tree((self.args, self.kwargs), leaves, "", "argument")
        return leaves[leaf][1]

    def _stateful(self, trace, kind: str, detail, dtype: str, shape: list) -> int:
        if kind == "captured":
            where, key, value = detail
            role = "constant" if trace.fixed else "float"
            name = self.names.get(("dict", id(where)), "")
            name = f"{name}.{key}" if name else str(key)
            self.held.append(where)
            made = _C.full([], value, _C.float64, None)
            return self._add(("float", id(where), key), name, dtype, shape, role, made)
        if kind == "fixed":
            return self._add(
                ("fixed", len(self.state)), f"constant.{len(self.state)}", dtype, shape, "constant", detail
            )
        memory = _C.memory_id(detail)
        # The object that the user has: a parameter may be a view of the memory that the trace found.
        own = self.candidates.get(memory, detail)
        name = self.names.get(memory, f"state.{len(self.state)}")
        if not is_whole(own):
            own, name = detail, f"{name}.base"
        elif own.requires_grad and not own.is_leaf:
            # A view of what is trained: gradients are the trained tensor's.
            own = detail
        trained = own.requires_grad and own.is_leaf
        return self._add(("tensor", memory), name, dtype, shape, "parameter" if trained else "buffer", own)

    def _add(self, key: tuple, name: str, dtype: str, shape: list, role: str, tensor: Tensor) -> int:
        if key not in self.known:
            self.known[key] = len(self.state)
            self.state.append({"name": name, "dtype": dtype, "shape": list(shape), "role": role})
            self.tensors.append(tensor)
        return self.known[key]

    def _sort_state(self, programs: list) -> None:
        """Puts the state in the order in which its tensors were found by name: that of the module's state dict."""
        order = {memory: i for i, memory in enumerate(self.candidates)}
        keys = sorted(self.known, key=lambda k: order.get(k[1], len(order)) if k[0] == "tensor" else len(order) + 1)
        place = {self.known[k]: i for i, k in enumerate(keys)}
        self.state = [self.state[self.known[k]] for k in keys]
        self.tensors = [self.tensors[self.known[k]] for k in keys]
        for program in programs:
            for slot in (*program["inputs"], *program["outputs"]) if program else ():
                if "state" in slot and "at" not in slot:
                    slot["at"] = place[slot["state"]]
            for side in ("inputs", "outputs") if program else ():
                program[side] = [{"state": s["at"]} if "state" in s else s for s in program[side]]

    # -- names ---------------------------------------------------------------------------------------------

    def _argument_names(self) -> list[str]:
        target = self.fn.forward if hasattr(self.fn, "forward") and hasattr(self.fn, "named_parameters") else self.fn
        try:
            bound = list(inspect.signature(target).parameters.values())
        except (TypeError, ValueError):
            bound = []
        plain = [p.name for p in bound if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        names = plain[: len(self.args)]
        for i in range(len(names), len(self.args)):
            # One of `*args`: its name is no other's.
            name = f"arg{i}"
            while name in plain:
                name += "_"
            names.append(name)
        return names

    def _refuse_exchanges(self, before: Names) -> None:
        """A package updates what its state holds; another tensor in the place of one is what it cannot keep."""
        was = {name: handle for handle, name in before.names.items()}
        for handle, name in self.names.items():
            if was.get(name, handle) != handle and not name.endswith("grad"):
                raise ExportError(
                    f"export(): the function puts another tensor in the place of {name!r}, which a package cannot do. "
                    f"Write the values into the tensor that is there: {name}.copy_(...)"
                )
        after = self.walk.numbers
        for name, old in before.numbers.items():
            new = after.get(name, old)
            if new is not old and (type(new) is not type(old) or new != old):
                raise ExportError(
                    f"export(): the function changes {name!r} from {old!r} to {new!r}; a package would repeat the "
                    "first call for ever. Keep it in a tensor (register_buffer) that the function updates in place, or "
                    "change it outside of the function"
                )

    def _name_tensors(self) -> None:
        walk = Names()
        walk.root(self.fn)
        # One for each device; a program of one device uses one of them.
        for generator in _generators.values():
            walk.add("random.state", generator._state)
        self.walk, self.names, self.candidates = walk, walk.names, walk.tensors
        self.held.append(walk)


# -- structure -------------------------------------------------------------------------------------------------


def _is_variable(x) -> bool:
    return isinstance(x, Tensor) and x.dtype.is_floating_point


def _variable(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(True) if _is_variable(x) else x


def _stand_in(x: Tensor, of: Tensor, grad: bool) -> Tensor:
    """The argument of a trace that stands for `of`, and is it or a phantom."""
    if grad and _is_variable(x):
        return _variable(of) if x is of else x.requires_grad_(True)
    return x if x is of or not of.requires_grad else x.requires_grad_(True)


def _map(x, f):
    if isinstance(x, Tensor):
        return f(x)
    if type(x) is dict:
        return {k: _map(v, f) for k, v in x.items()}
    if type(x) is list:
        return [_map(v, f) for v in x]
    if isinstance(x, tuple):
        items = [_map(v, f) for v in x]
        return type(x)(*items) if hasattr(x, "_fields") else tuple(items)
    return x


def _tree(x, leaves: list, path: str, what: str, depth: int = 0) -> dict:
    """The structure of arguments or a result; lists its leaves, tensors and floats, with their paths."""
    if depth > _MAX_DEPTH:
        raise ExportError(f"export(): the {what} nests deeper than {_MAX_DEPTH} levels")
    if isinstance(x, Tensor) or type(x) is float:
        leaves.append((path, x))
        return {"leaf": len(leaves) - 1}
    if x is None or type(x) in (bool, str) or (type(x) is int and -(2**63) <= x < 2**63):
        return {"value": x}
    dot = path + "." if path else ""
    down = lambda key, v: _tree(v, leaves, f"{dot}{key}", what, depth + 1)  # noqa: E731
    if type(x) is dict:
        keys = all(type(k) in (str, bool) or (type(k) is int and -(2**63) <= k < 2**63) for k in x)
        if not keys:
            raise ExportError(f"export(): the {what} {path or ''} is a dict with keys that are no text and no int")
        return {"dict": [[k, down(k, v)] for k, v in x.items()]}
    if type(x) is list:
        return {"list": [down(i, v) for i, v in enumerate(x)]}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        items = [down(k, v) for k, v in zip(x._fields, x, strict=True)]
        return {"named": {"name": type(x).__name__, "fields": list(x._fields), "items": items}}
    if type(x) is tuple:
        return {"tuple": [down(i, v) for i, v in enumerate(x)]}
    raise ExportError(f"export(): the {what} {path or ''} is a {type(x).__name__}, which a package cannot hold")


def _numbered(tree: dict, numbers: dict[int, int], leaves: list) -> dict:
    """The tree with leaves numbered anew; those without a number are fixed floats."""
    ((kind, spec),) = tree.items()
    if kind == "leaf":
        if spec in numbers:
            return {"leaf": numbers[spec]}
        return {"float": struct.pack(">d", leaves[spec][1]).hex()}
    if kind == "dict":
        return {"dict": [[k, _numbered(t, numbers, leaves)] for k, t in spec]}
    if kind == "named":
        return {"named": {**spec, "items": [_numbered(t, numbers, leaves) for t in spec["items"]]}}
    if kind in ("list", "tuple"):
        return {kind: [_numbered(t, numbers, leaves) for t in spec]}
    return tree


def _leaf_name(path: str, parameters: list[str] | None) -> str:
    """`0.1.image` of the arguments is `pixels.image` if the second positional one is called so."""
    if parameters is None:
        return path or "output"
    half, _, rest = path.partition(".")
    if half == "1":
        return rest
    number, _, rest = rest.partition(".")
    name = parameters[int(number)]
    return f"{name}.{rest}" if rest else name


def _unique(entries: list[dict]) -> None:
    """Gives each entry a name of its own."""
    taken: set[str] = set()
    for entry in entries:
        base = "".join(c if c.isprintable() else "_" for c in entry["name"])[:900] or "tensor"
        name, n = base, 1
        while name in taken or name == "__metadata__":
            name, n = f"{base}.{n}", n + 1
        entry["name"] = name
        taken.add(name)
