"""`torsh.export(..., dynamic=...)`: one template of a function from traces at several sizes.

The function is traced at some ten sizes of each dim. Their graphs must be the same but for integers, and each integer
must be an expression in the dims (`_sizes.py`). The template that comes out is then held against traces at other sizes,
the smallest and the largest among them. No trace needs memory for its arguments: a phantom has a shape and no elements.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import re
from collections import Counter
from typing import Any, NamedTuple

from torsh import _C
from torsh._dims import Dim
from torsh._sizes import HALVES, MAX_DIVISOR, Solver

Tensor = _C.Tensor
ExportError = _C.ExportError

# Above the smallest size, in which special cases are met (1 broadcasts): small, odd and even, few of them usual sizes.
_STEPS = (4, 5, 8, 10, 13, 16, 18, 22, 25)
# Where a quotient of a size appears, all sizes of ranges up to so many are traced; of longer ones samples, so near the
# smallest.
_SHORT_RANGE, _NEAR = 192, 1024
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|%[\w.+-]+|[A-Za-z_][\w.:]*|-?\d[\w.+-]*')
_WHOLE = re.compile(r"-?\d+(\.0)?")
_NUMBER = re.compile(r"(?<![\w.%])-?\d[\w.+-]*")
_FOUND = (
    f"a sum or product of sizes, a quotient of them by up to {MAX_DIVISOR}, rounded down or up, or what such a "
    "quotient of one size leaves"
)
_LOOKED_THROUGH = 4096
# Values of a number that a message shows.
_SHOWN = 5
_ADVICE = (
    "A choice that Python makes by the size, a size of 1 that broadcasts, and numbers that are computed from a size in "
    "Python do this. Restrict the range (torsh.Dim(name, min=2)) or compute it with tensor operations"
)


# What stands before the value of a `full` of 16-bit floats, which is rounded to them; no other number of the line is.
_HALF = re.compile(r": (f16|bf16)\[[^=]*= full\(value=$")


class Trace(NamedTuple):
    """What the exporter made of the function at some sizes."""

    sizes: tuple[int, ...]
    manifest: dict
    graphs: list
    state: list[Tensor]
    texts: list[list[str]]


class Result(NamedTuple):
    """What a package with dims is made of."""

    manifest: dict
    forward: Any
    vjp: Any
    state: list[Tensor]
    templates: tuple[str, str | None]


def export(run, args: tuple, kwargs: dict, names: list[str], dynamic, variable) -> tuple:
    """Traces by `run(args, kwargs)`, which gives (manifest, forward, vjp, state), at the sizes that it takes.

    `names` are those of the positional arguments; `variable(x, of)` makes an
    argument of the exporter's out of a tensor, which stands for the argument `of`. The sizes of the dims in `args` and
    `kwargs` come last.
    """
    family = _Family(run, _Spec(args, kwargs, names, dynamic), variable)
    return *family.result(), family.example


# -- what varies -------------------------------------------------------------------------------------------


class _Spec:
    """Which sizes of the arguments are dims."""

    def __init__(self, args: tuple, kwargs: dict, names: list[str], dynamic):
        self.args, self.kwargs = args, kwargs
        self.dims: dict[str, Dim] = {}
        # The size in the example, and where it was found first.
        self.example: dict[str, tuple[int, str]] = {}
        if isinstance(dynamic, dict):
            given = dict(dynamic)
            self.of_args = [self._read(given.pop(n, None), x, n) for n, x in zip(names, args, strict=True)]
            self.of_kwargs = {n: self._read(given.pop(n, None), x, n) for n, x in kwargs.items()}
            if given:
                raise ExportError(
                    f"export(): dynamic has {sorted(map(str, given))}, which are no arguments; there are "
                    f"{[*names, *kwargs]}"
                )
        elif isinstance(dynamic, (tuple, list)) and len(dynamic) == len(args) and not kwargs:
            self.of_args = [self._read(d, x, n) for n, x, d in zip(names, args, dynamic, strict=True)]
            self.of_kwargs = {}
        else:
            raise TypeError(
                "export(): dynamic must be a dict from names of arguments to their dims, or a tuple with an entry for "
                f"each positional argument, got {type(dynamic).__name__}"
            )
        if not self.dims:
            raise ExportError("export(): dynamic names no dim; leave it out for sizes that are those of the example")

    def _read(self, spec, value, path: str):
        if spec is None:
            return None
        if isinstance(value, Tensor):
            return self._tensor(spec, value, path)
        wrong = TypeError(f"export(): dynamic of {path} must be like the argument, which is a {type(value).__name__}")
        if isinstance(value, dict):
            if not isinstance(spec, dict) or any(k not in value for k in spec):
                raise wrong
            return {k: self._read(spec.get(k), v, f"{path}.{k}") for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            if not isinstance(spec, (list, tuple)) or len(spec) != len(value):
                raise wrong
            return [self._read(d, v, f"{path}.{i}") for i, (d, v) in enumerate(zip(spec, value, strict=True))]
        raise TypeError(f"export(): dynamic of {path}: a {type(value).__name__} has no sizes")

    def _tensor(self, spec, value: Tensor, path: str) -> dict[int, str]:
        rank = value.ndim
        if isinstance(spec, (list, tuple)):
            if len(spec) != rank:
                raise ExportError(f"export(): dynamic of {path} has {len(spec)} entries for {rank} dims")
            spec = dict(enumerate(spec))
        if not isinstance(spec, dict):
            raise TypeError(
                f"export(): dynamic of {path} must be a dict from dims to torsh.Dim, or a tuple of them, got "
                f"{type(spec).__name__}"
            )
        out, named = {}, {}
        for axis, dim in spec.items():
            if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank:
                raise ExportError(f"export(): dynamic of {path} has the dim {axis!r}; the tensor has {rank} dims")
            if named.setdefault(axis % rank, axis) != axis:
                raise ExportError(
                    f"export(): dynamic of {path} has one dim twice, as {named[axis % rank]} and as {axis}; the tensor "
                    f"has {rank} dims"
                )
            size = value.shape[axis]
            if dim is None or (type(dim) is int and dim == size):
                continue
            if isinstance(dim, str):
                dim = self.dims.get(dim) or Dim(dim)
            if not isinstance(dim, Dim):
                raise TypeError(f"export(): dynamic of {path} must have torsh.Dim, a name or None, got {dim!r}")
            where = f"dim {axis} of {path}"
            if self.dims.setdefault(dim.name, dim) != dim:
                raise ExportError(f"export(): {where} is {dim}, which is {self.dims[dim.name]} elsewhere")
            first, there = self.example.setdefault(dim.name, (size, where))
            if first != size:
                raise ExportError(f"export(): {dim.name} is {first} in {there} of the example and {size} in {where}")
            if not dim.min <= size <= dim.max:
                raise ExportError(f"export(): {where} is {size} in the example, which {dim} excludes")
            out[axis % rank] = dim.name
        return out

    def leaves(self) -> list[dict[int, str]]:
        """The dims of each tensor among the arguments, in order."""
        out: list[dict[int, str]] = []

        def walk(x, spec) -> None:
            if isinstance(x, Tensor):
                out.append(spec or {})
            elif isinstance(x, dict):
                for k, v in x.items():
                    walk(v, spec and spec[k])
            elif isinstance(x, (list, tuple)):
                for i, v in enumerate(x):
                    walk(v, spec and spec[i])

        walk(self.args, self.of_args)
        walk(self.kwargs, self.of_kwargs)
        return out

    def resized(self, sizes: dict[str, int], variable) -> tuple[tuple, dict]:
        """The arguments at these sizes: phantoms where a size varies."""
        args = tuple(_resized(x, s, sizes, variable) for x, s in zip(self.args, self.of_args, strict=True))
        return args, {n: _resized(x, self.of_kwargs.get(n), sizes, variable) for n, x in self.kwargs.items()}


def _resized(x, spec, sizes: dict[str, int], variable):
    if isinstance(x, Tensor):
        if not spec:
            return variable(x, x)
        shape = list(x.shape)
        for axis, name in spec.items():
            shape[axis] = sizes[name]
        return variable(_C.phantom(x, shape), x)
    if type(x) is dict:
        return {k: _resized(v, spec and spec[k], sizes, variable) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        items = [_resized(v, spec and spec[i], sizes, variable) for i, v in enumerate(x)]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    return x


# -- traces ------------------------------------------------------------------------------------------------


class _Family:
    """A function's traces at several sizes."""

    def __init__(self, run, spec: _Spec, variable):
        self.run, self.spec, self.variable = run, spec, variable
        self.dims = list(spec.dims.values())
        self.names = [d.name for d in self.dims]
        self.example = tuple(spec.example[n][0] for n in self.names)
        self.traces: dict[tuple[int, ...], Trace] = {}
        self.lines: dict[str, tuple[str, list[str]]] = {}
        self.too_large: set[tuple[int, ...]] = set()

    def result(self) -> Result:
        # What cannot be exported at all is said of the example, as without dims.
        self.trace(self.example)
        points = self.points()
        for sizes in points:
            self.trace(sizes)
        group = self.group(points)
        while True:
            solver = Solver(self.names, [t.sizes for t in group])
            template = self.template(group, solver)
            at = group[0].sizes
            wanted = [*self.residues(solver, at), *solver.edges(self.near(), at)]
            more = [s for s in dict.fromkeys(wanted) if s not in self.traces]
            for sizes in more:
                self.trace(sizes)
            more += self.allowed(solver.edges(self.far(), at))
            if not more:
                break
            group = self.group([t.sizes for t in group] + more)
        manifest, texts = template
        # Only now: a function that takes steps by its sizes takes many here.
        self.extremes()
        self.spread(solver, group[0].sizes)
        for t in self.traces.values():
            self.check(t, group[0], texts)
        manifest["dims"] = [{"name": d.name, "min": d.min, "max": d.max} for d in self.dims]
        made = group[0]
        forward, vjp = made.graphs[0], made.graphs[1] if len(texts) > 1 else None
        return Result(manifest, forward, vjp, made.state, (texts[0], texts[1] if len(texts) > 1 else None))

    def points(self) -> list[tuple[int, ...]]:
        """Sizes from which expressions are found; those of the dims differ in order."""
        lists = []
        for i, d in enumerate(self.dims):
            sizes = [d.min + s for s in _STEPS if d.min + s <= d.max]
            if len(sizes) < 5:
                sizes = list(range(d.min, min(d.max, d.min + 8) + 1))
            lists.append(random.Random(i).sample(sizes, len(sizes)))
        if math.prod(map(len, lists)) <= 2 * len(_STEPS):
            return list(itertools.product(*lists))
        # In later rounds the lists stand against each other at other places.
        rounds, longest = range(len(lists)), max(map(len, lists))
        found = (
            tuple(sizes[(k + r * i) % len(sizes)] for i, sizes in enumerate(lists))
            for r in rounds
            for k in range(longest)
        )
        return list(dict.fromkeys(found))

    def extremes(self) -> None:
        """Traces at the smallest sizes, and the largest that the limits allow, each alone and all together."""
        middle = self.points()[0]
        self.trace(tuple(d.min for d in self.dims))
        most = list(middle)
        for i, d in enumerate(self.dims):
            self.trace((*middle[:i], d.min, *middle[i + 1 :]))
            most[i] = d.max
            while most[i] > middle[i]:
                try:
                    self.trace((*middle[:i], most[i], *middle[i + 1 :]))
                    break
                except _C.LimitError:
                    most[i] = max(middle[i], most[i] // 4)
        with contextlib.suppress(_C.LimitError):
            self.trace(tuple(most))

    def near(self) -> list[range]:
        """The smallest sizes of each dim, as many as are looked through for one that tells expressions apart."""
        return [range(d.min, min(d.max, d.min + _LOOKED_THROUGH) + 1) for d in self.dims]

    def far(self) -> list[range]:
        """The largest sizes of each dim, as many."""
        return [range(max(d.min, d.max - _LOOKED_THROUGH), d.max + 1) for d in self.dims]

    def allowed(self, points: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Traces at those of the sizes that are new and within the limits; gives these."""
        found = []
        for sizes in dict.fromkeys(points):
            if sizes in self.traces or sizes in self.too_large:
                continue
            try:
                self.trace(sizes)
                found.append(sizes)
            except _C.LimitError:
                self.too_large.add(sizes)
        return found

    def residues(self, solver: Solver, at: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Sizes with every remainder that a quotient may have."""
        out = []
        for name, divisor in sorted(solver.divisors):
            i = self.names.index(name)
            # Two whole steps: of one alone, other divisors would fit too.
            start = max(self.dims[i].min, min(at[i], self.dims[i].max - 2 * divisor))
            for size in range(start, min(start + 2 * divisor + 1, self.dims[i].max + 1)):
                out.append((*at[:i], size, *at[i + 1 :]))
        return out

    def spread(self, solver: Solver, at: tuple[int, ...]) -> None:
        """Traces where a wrong quotient shows: all sizes of a short range, else whole steps at the ends and some."""
        steps: dict[str, int] = {}
        for name, divisor in solver.divisors:
            steps[name] = max(steps.get(name, 0), 2 * divisor + 1)
        for name, width in sorted(steps.items()):
            i = self.names.index(name)
            low, high = self.dims[i].min, self.dims[i].max
            if high - low < _SHORT_RANGE:
                sizes = set(range(low, high + 1))
            else:
                sizes = {*range(low, low + width), *range(high - width + 1, high + 1)}
                sizes |= set(random.Random(i).sample(range(low, min(high, low + _NEAR) + 1), 32))
            for size in sorted(sizes):
                with contextlib.suppress(_C.LimitError):
                    self.trace((*at[:i], size, *at[i + 1 :]))

    def trace(self, sizes: tuple[int, ...]) -> Trace:
        if sizes in self.traces:
            return self.traces[sizes]
        try:
            args, kwargs = self.spec.resized(dict(zip(self.names, sizes, strict=True)), self.variable)
            manifest, forward, vjp, state = self.run(args, kwargs)
        except _C.LimitError:
            raise
        except Exception as error:
            if sizes == self.example:
                raise
            raise ExportError(
                f"export(): the function cannot be traced at {self.at(sizes)}, which the range includes: "
                f"{type(error).__name__}: {error}. Restrict the range of the dim"
            ) from error
        graphs = [forward] if vjp is None else [forward, vjp]
        made = Trace(sizes, manifest, graphs, state, [g.graph.split("\n") for g in graphs])
        self.traces[sizes] = made
        return made

    def at(self, sizes: tuple[int, ...]) -> str:
        return ", ".join(f"{n}={s}" for n, s in zip(self.names, sizes, strict=True))

    # -- one template of many traces ---------------------------------------------------------------------------

    def split(self, line: str) -> tuple[str, list[str]]:
        """A line with its integers taken out, and these."""
        known = self.lines.get(line)
        if known is None:
            numbers: list[str] = []

            def take(m: re.Match) -> str:
                whole = m[0].removesuffix(".0")
                if not whole.lstrip("-").isdigit() or m[0] == "-0.0":
                    return m[0]
                numbers.append(whole)
                return "\0" + m[0][len(whole) :]

            known = self.lines[line] = (_TOKEN.sub(take, line), numbers)
        return known

    def form(self, t: Trace) -> list[list[str]]:
        return [[self.split(line)[0] for line in text] for text in t.texts]

    def group(self, points: list[tuple[int, ...]]) -> list[Trace]:
        """The traces with the form that most have. Others may have the same meaning: equal nodes are one, and so may
        be nodes that are equal at some sizes alone."""
        traces = [self.traces[p] for p in points]
        forms = ["\n".join(itertools.chain(*self.form(t))) for t in traces]
        usual, count = Counter(forms).most_common(1)[0]
        found = [t for t, form in zip(traces, forms, strict=True) if form == usual]
        if 2 * count <= len(traces) and len(traces) > 2:
            other = next(t for t, form in zip(traces, forms, strict=True) if form != usual)
            self.refuse(found[0], other, list(zip(self.form(found[0]), self.form(other), strict=False)))
        return found

    def template(self, group: list[Trace], solver: Solver) -> tuple[dict, list[str]]:
        for t in group[1:]:
            self.same_manifest(group[0], t)
        texts, wanted = [], set()
        for g in range(len(group[0].texts)):
            lines = []
            for i, line in enumerate(group[0].texts[g]):
                all_lines = [t.texts[g][i] for t in group]
                if any(other != line for other in all_lines):
                    columns = list(zip(*(map(int, self.split(x)[1]) for x in all_lines), strict=True))
                    wanted.update(columns)
                    lines.append((self.split(line)[0], columns))
                else:
                    lines.append((line, None))
            texts.append(lines)
        shapes = [list(zip(*shapes, strict=True)) for shapes in zip(*(self.outputs(t) for t in group), strict=True)]
        wanted.update(v for shape in shapes for v in shape)
        solver.solve_all(wanted)
        out = []
        for g, lines in enumerate(texts):
            made = []
            for i, (line, columns) in enumerate(lines):
                for values in columns or ():
                    before, _, rest = line.partition("\0")
                    line = before + self.written(solver, values, group, g, i, before) + rest
                made.append(line)
            out.append("\n".join(made))
        manifest = {**group[0].manifest, "version": 2}
        made = ([self.size(solver, v) for v in shape] for shape in shapes)
        manifest["outputs"] = [{**p, "shape": s} for p, s in zip(manifest["outputs"], made, strict=True)]
        # Not what they were, but what was asked for: a range may have one size.
        dims = iter(self.spec.leaves())
        manifest["inputs"] = [
            {**p, "shape": [own.get(i, s) for i, s in enumerate(p["shape"])]}
            for p in manifest["inputs"]
            for own in [next(dims) if p["kind"] == "tensor" else {}]
        ]
        return manifest, out

    def written(
        self, solver: Solver, values: tuple[int, ...], group: list[Trace], g: int, line: int, before: str
    ) -> str:
        """The number behind `before` in a line."""
        found = solver.expression(values)
        half = _HALF.search(before)
        if found is None and half is not None:
            found = solver.rounded(values, HALVES[half[1]])
        if found is None:
            raise ExportError(
                f"export(): {self.blame(group[0], g, line)} has a number that follows from the sizes in no way that a "
                f"package can hold: {self.seen(values, group)}, where {_FOUND} was expected. {_ADVICE}"
            )
        return found if found.lstrip("-").isdigit() else f"<{found}>"

    def seen(self, values: tuple[int, ...], group: list[Trace]) -> str:
        """Some values with their sizes, as many different ones as there are room for, in the order of the sizes."""
        first: dict = {}
        for pair in zip(values, group, strict=True):
            first.setdefault(pair[0], pair)
        again = [pair for pair in zip(values, group, strict=True) if first[pair[0]][1] is not pair[1]]
        some = sorted([*first.values(), *again][:_SHOWN], key=lambda pair: pair[1].sizes)
        return ", ".join(f"{v} at {self.at(t.sizes)}" for v, t in some)

    def size(self, solver: Solver, values: tuple[int, ...]):
        found = solver.expression(values)
        if found is None:
            raise ExportError(
                f"export(): the size of a result follows from the dims in no known way: {values}. {_ADVICE}"
            )
        return int(found) if found.isdigit() else found

    @staticmethod
    def outputs(t: Trace) -> list[list[int]]:
        return [p["shape"] for p in t.manifest["outputs"]]

    def same_manifest(self, a: Trace, b: Trace) -> None:
        """Refuses where more than sizes of inputs and outputs depends on the sizes."""
        here, there = self.at(a.sizes), self.at(b.sizes)
        for key in a.manifest:
            x, y = a.manifest[key], b.manifest[key]
            if key in ("inputs", "outputs"):
                x, y = ([{**p, "shape": len(p["shape"])} for p in side] for side in (x, y))
            if x == y:
                continue
            if key == "state":
                pair = next(((p, q) for p, q in zip(x, y, strict=False) if p != q), None)
                if pair is not None and pair[0]["name"] == pair[1]["name"]:
                    raise ExportError(
                        f"export(): the state {pair[0]['name']!r} is {pair[0]['dtype']} {pair[0]['shape']} at {here} "
                        f"and {pair[1]['dtype']} {pair[1]['shape']} at {there}; state has one size. {_ADVICE}"
                    )
            raise ExportError(
                f"export(): what the program takes, gives or keeps ({key}) depends on the sizes: it differs at {here} "
                f"and at {there}. {_ADVICE}"
            )
        for entry, x, y in zip(a.manifest["state"], a.state, b.state, strict=True):
            if x is not y and _C.memory_id(x) != _C.memory_id(y) and _bytes(x) != _bytes(y):
                raise ExportError(
                    f"export(): the state {entry['name']!r} has other values at {here} than at {there}. {_ADVICE}"
                )

    # -- checks -------------------------------------------------------------------------------------------------

    def check(self, t: Trace, usual: Trace, texts: list[str]) -> None:
        """Holds the template against a trace."""
        self.same_manifest(usual, t)
        for g, text in enumerate(texts):
            filled = t.graphs[g].differs(text, self.names, list(t.sizes))
            if filled is not None:
                same = [(x, x) for x in t.texts[:g]]
                self.refuse(usual, t, [*same, (filled.split("\n"), t.texts[g])])

    def refuse(self, usual: Trace, other: Trace, texts: list[tuple[list[str], list[str]]]) -> None:
        """Says where a trace leaves what is usual; the texts are compared line by line, the trace's second."""
        what = f"export(): the program at {self.at(other.sizes)} is another than at {self.at(usual.sizes)}"
        for g, (a, b) in enumerate(texts):
            for i, (x, y) in enumerate(itertools.zip_longest(a, b, fillvalue="")):
                if x != y:
                    i = min(i, len(other.texts[g]) - 1)
                    here, there = (t.texts[g][min(i, len(t.texts[g]) - 1)].strip()[:200] for t in (other, usual))
                    if _NUMBER.sub("", here) == _NUMBER.sub("", there):
                        self.refuse_whole(other, g, i, x, y)
                    if here == there:
                        # Both are as usual, but the sizes in between say that this one should not be.
                        raise ExportError(
                            f"{what}, at {self.blame(other, g, i)}: `{y.strip()[:200]}`, where `{x.strip()[:200]}` was "
                            f"expected from other sizes. {_ADVICE}"
                        )
                    if _NUMBER.sub("", here) == _NUMBER.sub("", there):
                        raise ExportError(
                            f"export(): {self.blame(other, g, i)} has a number that follows from the sizes, and only "
                            f"integers can be part of a package: `{here}` at {self.at(other.sizes)}, `{there}` at "
                            f"{self.at(usual.sizes)}. Divide by a size instead of multiplying by 1 / size, or use mean"
                        )
                    raise ExportError(
                        f"{what}, at {self.blame(other, g, i)}: `{here}`, where the other has `{there}`. {_ADVICE}"
                    )
        raise ExportError(f"{what}. {_ADVICE}")

    def refuse_whole(self, other: Trace, g: int, i: int, filled: str, line: str) -> None:
        """Refuses a line in which an integer is another than the template has."""
        numbers = zip(_NUMBER.findall(filled), _NUMBER.findall(line), strict=False)
        pair = next((pair for pair in numbers if pair[0] != pair[1]), None)
        if pair is not None and all(map(_WHOLE.fullmatch, pair)):
            raise ExportError(
                f"export(): {self.blame(other, g, i)} has a number that follows from the sizes in no way that was "
                f"found: {pair[1]} at {self.at(other.sizes)}, where {pair[0]} was expected from other sizes. Found is "
                f"{_FOUND}. Restrict the range, or compute it with tensor operations"
            )

    def blame(self, t: Trace, g: int, line: int) -> str:
        """The op of a line and the user's line."""
        text = t.graphs[g].lines.split("\n")[line]
        op = re.search(r" = (\w+)\(", text)
        at = re.search(r' @ "(.*)":(\d+)$', text)
        return (op[1] if op else "the result") + (f" ({at[1]}:{at[2]})" if at else "")


def _bytes(t: Tensor) -> bytes:
    t = t.detach().to("cpu")
    return (t.float() if t.dtype == _C.bfloat16 else t).numpy().tobytes()
