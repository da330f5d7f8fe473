"""How tensors print: like PyTorch, with the values."""

from __future__ import annotations

import math

from torsh import _C

_options = {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80, "sci_mode": None}


def set_printoptions(
    precision=None, threshold=None, edgeitems=None, linewidth=None, profile=None, sci_mode=None
) -> None:
    """Sets digits, the size beyond which tensors are summarised, the edge items then shown and the line width.

    >>> torsh.set_printoptions(precision=4)
    """
    if profile is not None:
        base = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80), "full": (4, math.inf, 3, 80)}
        if profile not in base:
            raise ValueError(f"set_printoptions(): unknown profile {profile!r}; known: {sorted(base)}")
        _options.update(zip(("precision", "threshold", "edgeitems", "linewidth"), base[profile], strict=False))
    for key, value in (
        ("precision", precision),
        ("threshold", threshold),
        ("edgeitems", edgeitems),
        ("linewidth", linewidth),
    ):
        if value is not None:
            _options[key] = value
    _options["sci_mode"] = sci_mode


class _Formatter:
    def __init__(self, values: list, is_float: bool):
        self.is_float, self.sci, self.whole, self.width = is_float, False, False, 1
        p = _options["precision"]
        if not is_float:
            self.width = max((len(self._plain(v)) for v in values), default=1)
            return
        finite = [v for v in values if math.isfinite(v)]
        nonzero = [abs(v) for v in finite if v != 0]
        self.whole = all(v == math.floor(v) for v in finite)
        if nonzero:
            lo, hi = min(nonzero), max(nonzero)
            if self.whole:
                self.sci = hi >= 1e8
            else:
                self.sci = hi / lo > 1000.0 or hi > 1e8 or lo < 1e-4
        if _options["sci_mode"] is not None:
            self.sci = bool(_options["sci_mode"])
        self.precision = p
        self.width = max((len(self._plain(v)) for v in values), default=1)

    def _plain(self, v) -> str:
        if not self.is_float:
            return str(v)
        if not math.isfinite(v):
            return "nan" if v != v else "inf" if v > 0 else "-inf"
        if self.sci:
            return f"{v:.{self.precision}e}"
        return f"{v:.0f}." if self.whole else f"{v:.{self.precision}f}"

    def __call__(self, v) -> str:
        return self._plain(v).rjust(self.width)


def _corners(x):
    """The elements that a summary shows, as a smaller tensor with the same rank."""
    edge = _options["edgeitems"]
    for d in range(x.ndim):
        n = x.shape[d]
        if n > 2 * edge:
            x = _C.apply("concat", (x.narrow(d, 0, edge), x.narrow(d, n - edge, edge)), (d,))
    return x


def _render(values, shape, fmt, indent: int, summarise: bool, linewidth: int) -> str:
    if not shape:
        return fmt(values)
    edge = _options["edgeitems"]
    cut = summarise and shape[0] > 2 * edge
    if len(shape) == 1:
        items = [fmt(v) for v in values]
        if cut:
            items = [*items[:edge], " ...", *items[edge:]]
        per_line = max(1, (linewidth - indent) // (fmt.width + 2))
        lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)] or [""]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = [_render(v, shape[1:], fmt, indent + 1, summarise, linewidth) for v in values]
    if cut:
        parts = [*parts[:edge], "...", *parts[edge:]]
    return "[" + ("," + "\n" * (len(shape) - 1) + " " * (indent + 1)).join(parts) + "]"


def _flatten(values, depth: int):
    for _ in range(depth - 1):
        values = [v for row in values for v in row]
    return values if depth else [values]


def tensor_repr(x, prefix: str = "tensor(") -> str:
    """Text of a tensor: values (summarised beyond the threshold), dtype unless it is a default, gradient."""
    suffixes = []
    dtype = x.dtype
    if x.device.type != "cpu":
        suffixes.append(f"device='{x.device}'")
    if dtype.name not in ("float32", "int64", "bool") or x.numel() == 0 and dtype.name != "float32":
        suffixes.append(f"dtype=torsh.{dtype.name}")
    if not x.is_leaf:
        suffixes.append("grad_fn=True") if x.requires_grad else None
    elif x.requires_grad:
        suffixes.append("requires_grad=True")
    if _C.is_tracing(x):
        body = f"<traced, shape={list(x.shape)}>"
    elif x.numel() == 0:
        body = "[]"
        if x.ndim != 1:
            suffixes.insert(0, f"size={tuple(x.shape)}")
    else:
        summarise = x.numel() > _options["threshold"]
        shown = _corners(x.detach()) if summarise else x.detach()
        values = shown.tolist()
        fmt = _Formatter(_flatten(values, shown.ndim), dtype.is_floating_point)
        body = _render(values, tuple(x.shape), fmt, len(prefix), summarise, _options["linewidth"])
    return prefix + ", ".join([body, *suffixes]) + ")"
