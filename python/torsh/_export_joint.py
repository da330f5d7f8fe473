"""The gradients of a library in C: one program that gives what the function gives, updates what it updates, and gives
gradients. A package has a program of gradients alone, which autograd runs later; a caller in C wants both at once.
"""

from __future__ import annotations

from typing import NamedTuple

from torsh import _C
from torsh.autograd import enable_grad, grad

Tensor = _C.Tensor
ExportError = _C.ExportError


_LEAVES = (
    "the function leaves gradients itself, as it calls backward(). A function that gives its loss has gradients in C; "
    "a training step, which runs backward itself, is exported without include_grad"
)


class Joint(NamedTuple):
    """The trace, what its inputs and outputs are, the outputs that have cotangents, and what has gradients: numbers of
    inputs, and entries of the state."""

    graph: object
    program: dict
    seeds: list
    wanted: list

    def manifest(self, base: dict, unique) -> dict:
        """A manifest that goes on where that of the function ends: inputs with cotangents, outputs with gradients of
        inputs, state with gradients of parameters."""
        inputs, outputs, state = list(base["inputs"]), list(base["outputs"]), list(base["state"])
        inputs += [{**outputs[i], "name": f"grad_{outputs[i]['name']}"} for i in self.seeds]
        slots = []
        for of in self.wanted:
            if isinstance(of, int):
                slots.append({"output": len(outputs)})
                outputs.append({**inputs[of], "name": f"grad_{inputs[of]['name']}"})
            else:
                name = f"{of['name']}.grad"
                if any(entry["name"] == name for entry in base["state"]):
                    raise ExportError(
                        f"export(): include_grad=True, but the function has state called {name!r} already, as it reads "
                        "or writes that gradient itself. Leave that to the caller, or export without include_grad"
                    )
                slots.append({"state": len(state)})
                state.append({**of, "name": name, "role": "buffer"})
        for entries in (inputs, outputs, state):
            unique(entries)
        first = len(base["inputs"])
        taken = [{"input": first + s["cotangent"]} if "cotangent" in s else s for s in self.program["inputs"]]
        given = [slots[s["gradient"]] if "gradient" in s else s for s in self.program["outputs"]]
        arguments = [[str(i), {"leaf": i}] for i in range(len(inputs))]
        return {
            **base,
            "inputs": inputs,
            "outputs": outputs,
            "state": state,
            "parameters": [],
            "arguments": {"tuple": [{"tuple": []}, {"dict": arguments}]},
            "result": {"list": [{"leaf": i} for i in range(len(outputs))]},
            "forward": {"graph": "graph.txt", "inputs": taken, "outputs": given},
        }


def trace(exporter, manifest: dict, numbers: dict) -> Joint:
    """Traces the function of an exporter, whose own trace is done, with its gradients."""
    written = _written(manifest["forward"])
    changed = sorted(exporter.state[i]["name"] for i in written if exporter.state[i]["role"] == "parameter")
    if changed:
        raise ExportError(
            f"export(): include_grad=True, but the function writes parameters: {', '.join(changed)}. Gradients are of "
            "functions that leave their parameters alone: update them outside of the function, or export without "
            "include_grad, as one does with a training step, which has its optimizer inside"
        )
    if exporter.leaves_gradients:
        raise ExportError(f"export(): include_grad=True, but {_LEAVES}")
    seeds = [i for i, flows in enumerate(exporter.flows) if flows]
    if not seeds:
        raise ExportError(
            "export(): include_grad=True, but no output depends on a parameter, or on an argument whose example "
            "requires grad"
        )
    ports = manifest["outputs"]
    cotangents = [_C.full(ports[i]["shape"], 1.0, _C.PyDType(ports[i]["dtype"]), exporter.devices[i]) for i in seeds]
    parameters = [
        (entry, t) for entry, t in zip(exporter.state, exporter.tensors, strict=True) if entry["role"] == "parameter"
    ]
    wanted: list = []
    unused: list = []

    def both(args, kwargs, cotangents):
        with enable_grad():
            result = exporter.fn(*args, **kwargs)
            outs = [x for x in exporter.leaves_of(result) if isinstance(x, Tensor)]
            given = exporter.leaves_of((args, kwargs))
            found = [(numbers[i], x) for i, x in enumerate(given) if isinstance(x, Tensor) and x.requires_grad]
            found += parameters
            of = [t for _, t in found]
            grads = grad([outs[i] for i in seeds], of, cotangents, allow_unused=True) if found else []
        unused[:] = [of for (of, _), g in zip(found, grads, strict=True) if g is None and isinstance(of, int)]
        wanted[:] = [of for (of, _), g in zip(found, grads, strict=True) if g is not None]
        return [_C.clone(x.detach()) for x in (*outs, *grads) if x is not None]

    try:
        graph = _C.trace_export(both, (exporter.args, exporter.kwargs, cotangents), {}, True, False)
    except RuntimeError as error:
        if type(error) is not RuntimeError:
            raise
        raise ExportError(
            f"export(): include_grad=True, but the function cannot be differentiated: {error}. A training step, which "
            "runs backward itself, is exported without include_grad"
        ) from error
    if graph.leaves_gradients:
        raise ExportError(f"export(): include_grad=True, but {_LEAVES}")
    if unused:
        names = ", ".join(manifest["inputs"][i]["name"] for i in unused)
        raise ExportError(
            "export(): include_grad=True, but no output depends on these arguments, whose examples require grad: "
            f"{names}. Give examples that do not (x.detach())"
        )
    if not wanted:
        raise ExportError(
            "export(): include_grad=True, but there is no gradient: outputs depend on no parameter that the function "
            "reaches, nor on an argument whose example requires grad"
        )
    place = {len(exporter.leaves_of((exporter.args, exporter.kwargs))) + n: i for n, i in enumerate(seeds)}
    program = exporter._program("graph.txt", graph, numbers, place)
    program["inputs"] = [{"cotangent": seeds.index(s["output"])} if "output" in s else s for s in program["inputs"]]
    count = len(ports)
    program["outputs"] = [
        {"gradient": s["output"] - count} if s.get("output", 0) >= count else s for s in program["outputs"]
    ]
    differs = sorted(exporter.state[i]["name"] for i in written ^ _written(program))
    if differs:
        raise ExportError(
            "export(): include_grad=True, but the function with gradients updates other state than the function alone: "
            f"{', '.join(differs)}. Export without include_grad"
        )
    return Joint(graph, program, seeds, wanted)


def _written(program: dict) -> set:
    """The entries of the state that a program writes."""
    return {slot["state"] for slot in program["outputs"] if "state" in slot}
