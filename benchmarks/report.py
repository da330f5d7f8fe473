"""RESULTS.md from results: targets met and missed, all times, limits, start, memory, growth."""

from __future__ import annotations

from benchmarks import limits as machine
from benchmarks import peers as peer_table
from benchmarks import workloads as workload_table
from benchmarks.results import Results, Row
from benchmarks.shortfalls import WHY
from benchmarks.targets import (
    FAIR_SHARE,
    GOALS,
    GROWTH_LIMIT_S,
    GROWTH_NODES,
    NOISE,
    SCALING,
    START_GOALS,
    TRACE_LIMIT_US,
)

_OURS = "torsh"


def ratios(row: Row) -> dict[str, float]:
    """Each peer's least time over torsh's; "best" for the fastest of the rivals. Empty without a time of torsh."""
    ours = row.cells.get(_OURS)
    if ours is None or ours.best is None:
        return {}
    out = {p: c.best / ours.best for p, c in row.cells.items() if p != _OURS and c.best is not None}
    rivals = [out[p] for p in peer_table.RIVALS if p in out]
    return out | ({"best": min(rivals)} if rivals else {})


def verdicts(results: Results, loaded: bool = False) -> list[dict]:
    """Per goal and thread count: the ratios, the goals missed, and the largest gap (goal over ratio)."""
    out = []
    threads = sorted({row.threads for row in results.rows if row.loaded == loaded})
    for goal in GOALS:
        for count in threads:
            row = results.row(goal.workload, count, loaded)
            if row is None:
                continue
            have = ratios(row)
            items = [(peer, wanted, have.get(peer)) for peer, wanted in goal.items()]
            missed = {peer: wanted / got for peer, wanted, got in items if got is not None and got < wanted}
            known = [peer for peer, _, got in items if got is not None]
            out.append(
                {"goal": goal, "row": row, "ratios": have, "items": items, "missed": missed, "known": known,
                 "gap": max(missed.values(), default=0.0)}
            )  # fmt: skip
    return out


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """A markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*lines, *("| " + " | ".join(c.replace("|", "/") for c in row) + " |" for row in rows)]


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1e-3 or value == 0 else f"{value:.1e}"


def share(results: Results, row: Row) -> str:
    """The share of the machine's limit that torsh reaches, and what the limit is."""
    cell = row.cells.get(_OURS)
    if not results.limits or cell is None or cell.best is None or str(row.threads) not in results.limits["threads"]:
        return "-"
    least, what = machine.least_us(results.limits, workload_table.get(row.workload), row.threads)
    return f"{least / cell.best:.0%} of {what}"


def _targets(results: Results) -> list[str]:
    found = verdicts(results)
    rows = []
    for v in found:
        row, have = v["row"], v["ratios"]
        ours = row.cells.get(_OURS)
        if not have:
            reason = f"{ours.status}: {ours.reason}" if ours else "not measured"
            rows.append([row.workload, str(row.threads), "-", "-", "-", "-", "-", reason])
            continue
        cells = {
            peer: f"{number(got)} of {number(wanted)}" if got is not None else "-" for peer, wanted, got in v["items"]
        }
        verdict = "not met: " + ", ".join(v["missed"]) if v["missed"] else "met" if v["known"] else "no peer"
        absent = [peer for peer in peer_table.RIVALS[2:] if peer not in have]
        if absent:
            verdict = "met where measured" if verdict == "met" else verdict
            verdict += f" ({', '.join(absent)} not measured)"
        against = [cells.get(p, "-") for p in ("torch-compile", "jax", "best")]
        rows.append([row.workload, str(row.threads), number(ours.best), *against, share(results, row), verdict])
    # A row whose goals were not all measured is not counted as met.
    good = [v for v in found if v["known"] and not v["missed"]]
    met = sum(1 for v in good if len(v["known"]) == len(v["items"]))
    partly = f" {len(good) - met} more are met where measured." if met < len(good) else ""
    heads = ["workload", "threads", "torsh us", "vs torch.compile", "vs jax", "vs best", "share of limit", "target"]
    lines = [
        "## Targets",
        f"{met} of {len(found)} rows are met.{partly} A cell is the ratio reached, then the ratio asked for; "
        "\"best\" is the fastest of NumPy, PyTorch, torch.compile and jax. The limit is the larger of least bytes over "
        "the bandwidth of the cache level that holds them, and operations over the peak of multiply-adds.",
        "",
        *table(heads, rows),
    ]  # fmt: skip
    worst = sorted((v for v in found if v["missed"]), key=lambda v: -v["gap"])
    if worst:
        lines += ["", "Largest gaps (ratio asked for over ratio reached): " + "; ".join(
            f"{v['row'].workload} ({v['row'].threads}T) {v['gap']:.2f}" for v in worst[:10]) + "."]  # fmt: skip
    return lines


def _shortfalls(results: Results) -> list[str]:
    """What limits each workload that misses a target."""
    missed: dict[str, list[str]] = {}
    for v in verdicts(results):
        if v["missed"]:
            gaps = ", ".join(f"{peer} {number(1 / gap)}" for peer, gap in v["missed"].items())
            missed.setdefault(v["row"].workload, []).append(f"{v['row'].threads}T {gaps}")
    if not missed:
        return []
    lines = [f"* {name} ({'; '.join(gaps)}): {WHY.get(name, 'not looked into')}." for name, gaps in missed.items()]
    return [
        "## What limits the rows that fall short",
        "In brackets the share of each target that is reached. Instructions are those of the main loop for AVX-512.",
        "",
        *lines,
    ]


def _rules(results: Results) -> list[str]:
    """The rules across rows: two threads, compiled against lazy, fused against unfused."""
    scaling, slower, compared = [], [], 0
    for row in results.rows:
        have = ratios(row)
        if row.loaded or not have:
            continue
        for peer, words in (("torsh-lazy", "compiled than lazy"), ("torsh-unfused", "fused than unfused")):
            compared += peer in have
            if have.get(peer, 1.0) * NOISE < 1.0:
                slower.append(f"{row.workload} ({row.threads}T) {1 / have[peer]:.2f} times slower {words}")
        one = results.row(row.workload, 1)
        workload = workload_table.get(row.workload)
        if row.threads != 2 or one is None or workload.array <= 1 << 20 or not results.limits:
            continue
        what = machine.least_us(results.limits, workload, 1)[1] if "1" in results.limits["threads"] else "DRAM"
        before = one.cells.get(_OURS)
        if what != "DRAM" and before is not None and before.best is not None:
            scaling.append((row.workload, before.best / row.cells[_OURS].best))
    low = [f"{name} {got:.2f}" for name, got in scaling if got < SCALING]
    lines = ["## Rules across rows"]
    if scaling:
        lines.append(
            f"* Two threads at least {SCALING} times one, where arrays exceed 1 MiB and DRAM is not the limit: "
            f"{len(scaling) - len(low)} of {len(scaling)} rows. Below: {', '.join(low) or 'none'}."
        )
    if compared:
        lines.append(
            f"* No workload slower compiled than lazy, or fused than unfused (beyond {NOISE - 1:.0%} noise): "
            f"{compared - len(slower)} of {compared}. Slower: {'; '.join(slower) or 'none'}."
        )
    return lines if len(lines) > 1 else []


def _times(results: Results, loaded: bool, title: str) -> list[str]:
    rows = [row for row in results.rows if row.loaded == loaded]
    if not rows:
        return []
    peers = list(dict.fromkeys(peer for row in rows for peer in row.cells))
    body = []
    for row in rows:
        cells = [row.cells.get(peer) for peer in peers]
        shown = [f"{number(c.best)} / {number(c.median)}" if c and c.best is not None else "-" for c in cells]
        body.append([row.workload, str(row.threads), *shown])
    return [
        title,
        "Microseconds per call: least / median over the rounds.",
        "",
        *table(["workload", "threads", *peers], body),
    ]


def _slowdown(results: Results) -> list[str]:
    """What a competing process on each core costs each peer: its median beside competitors over that without."""
    body, slower, compared = [], [], 0
    peers = list(dict.fromkeys(peer for row in results.rows if row.loaded for peer in row.cells))
    for row in results.rows:
        idle = results.row(row.workload, row.threads) if row.loaded else None
        if idle is None:
            continue
        factors = {
            peer: cell.median / idle.cells[peer].median
            for peer, cell in row.cells.items()
            if cell.median and peer in idle.cells and idle.cells[peer].median
        }
        if not factors:
            continue
        body.append([row.workload, str(row.threads), *(number(factors.get(peer)) for peer in peers)])
        rivals = [factors[peer] for peer in peer_table.RIVALS if peer in factors]
        if _OURS in factors and rivals:
            compared += 1
            if factors[_OURS] > NOISE * max(FAIR_SHARE, min(rivals)):
                slower.append(f"{row.workload} ({row.threads}T) {factors[_OURS]:.2f}, best {min(rivals):.2f}")
    if not body:
        return []
    lines = ["## Slow-down by a competing process on each core"]
    if compared:
        lines.append(
            f"* No more than half of each core gone ({FAIR_SHARE:g} times the time), or no more than the least slowed "
            f"of the rivals (beyond {NOISE - 1:.0%} noise): {compared - len(slower)} of {compared} rows. "
            f"Slower: {'; '.join(slower) or 'none'}."
        )
    return [
        *lines,
        "",
        "Median time beside the competitors over the median without.",
        "",
        *table(["workload", "threads", *peers], body),
    ]


def _limits(results: Results) -> list[str]:
    if not results.limits:
        return ["## Limits of the machine", f"Not measured: {results.limits_reason or 'not asked for'}."]
    body = []
    for threads, figures in results.limits["threads"].items():
        for level, rates in figures["levels"].items():
            size = f"{rates['bytes'] / 1024:,.0f} KiB"
            body.append([threads, level, size, *(number(rates[k]) for k in ("read", "copy", "triad"))])
    peaks = "; ".join(
        f"{threads} thread{'s' if threads != '1' else ''}: "
        + ", ".join(f"{isa} {number(v)}" for isa, v in f["gflop_per_s"].items())
        for threads, f in results.limits["threads"].items()
    )
    return [
        "## Limits of the machine",
        f"Peak of float32 multiply-adds in GF/s: {peaks}. Bandwidth in GB/s of the bytes that a program names:", "",
        *table(["threads", "level", "working set", "read", "copy", "triad"], body),
    ]  # fmt: skip


def _start(results: Results) -> list[str]:
    if not results.start:
        return []
    goals = {goal.name: goal for goal in START_GOALS}
    columns = list(dict.fromkeys(k for f in results.start for k in f.values))
    body, notes = [], []
    for figure in results.start:
        goal, ours = goals.get(figure.name), figure.values.get(_OURS)
        target, verdict = "-", "-"
        if goal:
            base = (figure.values.get(goal.over) or 0.0) if goal.over else 0.0
            target = (f"{goal.over} + " if goal.over else "<= ") + f"{number(goal.limit)} {goal.unit}"
            verdict = "-" if ours is None else "met" if ours <= base + goal.limit else "not met"
        body.append(
            [f"{figure.name}, {figure.unit}", *(number(figure.values.get(c)) for c in columns), target, verdict]
        )
        notes += [f"* {figure.name}, {who}: {text}." for who, text in figure.notes.items()]
    heads = ["what", *columns, "target", "verdict"]
    return ["## Compile, start, memory", *table(heads, body), *([""] + notes if notes else [])]


def _memory(results: Results) -> list[str]:
    rows = [r for r in results.rows if not r.loaded and any(c.peak_kib for c in r.cells.values())]
    rows = [r for r in rows if r.threads == min(x.threads for x in rows)]
    if not rows:
        return []
    peers = list(dict.fromkeys(peer for row in rows for peer in row.cells))
    cell = lambda c: f"{c.peak_kib / 1024:.0f}" if c and c.peak_kib else "-"  # noqa: E731
    body = [[row.workload, *(cell(row.cells.get(p)) for p in peers)] for row in rows]
    return ["## Peak resident memory of each workload, MB", *table(["workload", *peers], body)]


def _growth(results: Results) -> list[str]:
    if not results.growth:
        return []
    largest, body = f"compile {GROWTH_NODES[-1]:,} nodes", []
    for figure in results.growth:
        ours = figure.values.get(_OURS)
        limit = GROWTH_LIMIT_S if figure.name == largest else TRACE_LIMIT_US if figure.unit == "us" else None
        target = f"<= {number(limit)} {figure.unit}" if limit else "-"
        verdict = "-" if ours is None or not limit else "met" if ours <= limit else "not met"
        value = number(ours) if ours is not None else figure.notes.get(_OURS, "-")
        body.append([f"{figure.name}, {figure.unit}", value, target, verdict])
    return ["## Growth", *table(["what", "torsh", "target", "verdict"], body)]


def _missing(results: Results) -> list[str]:
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in results.rows:
        for peer, cell in row.cells.items():
            if cell.status != "ok":
                where = f"{row.workload} ({row.threads}T{', loaded' if row.loaded else ''})"
                reasons.setdefault((peer, cell.status, cell.reason), []).append(where)
    if not reasons:
        return []
    lines = [f"* {peer}, {status}: {reason}. {', '.join(where)}" for (peer, status, reason), where in reasons.items()]
    return ["## Not measured, and why", *lines]


def markdown(results: Results) -> str:
    """The text of RESULTS.md."""
    env = results.environment
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items())
    parts = [
        [
            "# Results",
            "",
            f"Written by `{env['command']}`. Every peer runs in its own process; every result is checked against "
            "float64 (the first losses of training steps, too) before it is timed; rounds are interleaved, so that a "
            "change of the machine's speed meets all alike. A ratio is the peer's least time over torsh's (above 1: "
            "torsh is faster).",
            "",
            f"Machine: {env['machine']}, {env['cores']} cores; Python {env['python']}, {versions}; "
            f"{env['rounds']} rounds.",
        ],
        _targets(results),
        _shortfalls(results),
        _rules(results),
        _times(results, False, "## Times"),
        _limits(results),
        _start(results),
        _memory(results),
        _growth(results),
        _times(results, True, "## Times with a competing process on each core"),
        _slowdown(results),
        _missing(results),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"
