"""Measures torsh against the peers that are installed.

make bench                                          # everything; writes benchmarks/RESULTS.md
python -m benchmarks --only dispatch gelu-64K       # some workloads, printed
python -m benchmarks --quick --peers torsh numpy    # fewer and shorter rounds
python -m benchmarks --loaded --only softmax-512    # also with a competing process on each core
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import limits, peers, report, runner, start, workloads
from benchmarks.results import Results, Row

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
# Calls of a round take so many seconds together, after so many of warming up.
_FULL = {"round_s": 0.02, "warm_s": 0.1}
_QUICK = {"round_s": 0.005, "warm_s": 0.03}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--only", nargs="+", metavar="WORKLOAD", help="these workloads; a family by its prefix (gelu)")
    out.add_argument("--peers", nargs="+", default=list(peers.PEERS), metavar="PEER", help="who is measured")
    out.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="thread counts")
    out.add_argument("--rounds", type=int, help="rounds of each row (8; 3 with --quick)")
    out.add_argument("--quick", action="store_true", help="fewer and shorter rounds: figures are rough")
    out.add_argument("--loaded", action="store_true", help="also measure with a competing process on each core")
    out.add_argument("--no-limits", action="store_true", help="do not measure what the machine can do")
    out.add_argument("--no-start", action="store_true", help="leave out compile time, start, memory and growth")
    out.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    out.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing: report these results")
    out.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    out.add_argument("--timeout", type=float, default=300, metavar="S", help="seconds that a peer may take to compile")
    out.add_argument("--lock", metavar="FILE", help="hold this file's lock while timing")
    out.add_argument("--list", action="store_true", help="name the workloads and peers")
    return out


def select(names: list[str] | None) -> list[str]:
    """Workloads by name or prefix of whole words. ValueError for one that matches nothing."""
    if names is None:
        return list(workloads.WORKLOADS)
    chosen = []
    for name in names:
        found = [w for w in workloads.WORKLOADS if w == name or w.startswith(name + "-")]
        if not found:
            workloads.get(name)  # tells what there is
        chosen += [w for w in found if w not in chosen]
    return chosen


def show(results: Results, row: Row) -> None:
    """One line of progress."""
    cells = [
        f"{peer} {report.number(c.best)}" if c.best is not None else f"{peer} {c.status}"
        for peer, c in row.cells.items()
    ]
    load = " loaded" if row.loaded else ""
    print(f"{row.workload} {row.threads}T{load} [us]: {', '.join(cells)}", file=sys.stderr, flush=True)


def save(path: Path, text: str) -> None:
    """Writes a file through a temporary one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def collect(options, names: list[str]) -> Results:
    """Measures what was asked for. After Ctrl-C the results so far are kept."""
    quick = options.quick
    rounds = options.rounds or (3 if quick else 8)
    command = "python -m benchmarks " + " ".join(sys.argv[1:])
    results = Results(runner.describe(rounds, command.strip()))

    def measure_limits() -> None:
        if options.no_limits or results.limits_reason:
            return
        try:
            results.limits = limits.larger(results.limits, limits.measure(options.threads, options.lock))
        except limits.NoLimits as reason:
            results.limits_reason = str(reason)

    try:
        # Before and after, since other work on the machine lowers what is seen.
        measure_limits()

        def on_row(results: Results, row: Row) -> None:
            show(results, row)
            if options.json:
                # A run that is cut short leaves what it had.
                save(options.json, results.to_json())

        settings = dict(_QUICK if quick else _FULL, lock=options.lock, on_row=on_row, build_timeout=options.timeout)
        for loaded in (False, True) if options.loaded else (False,):
            runner.run(names, options.peers, options.threads, rounds, loaded=loaded, results=results, **settings)
        measure_limits()
        if not options.no_start:
            start.measure(results, 1 if quick else 3, options.lock, options.peers)
    except KeyboardInterrupt:
        print("interrupted: reporting what was measured", file=sys.stderr)
    return results


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    arguments = parser()
    options = arguments.parse_args(argv)
    if options.list:
        print("workloads:", *workloads.WORKLOADS, "\npeers:", *peers.PEERS)
        return 0
    try:
        names = select(options.only)
        for peer in options.peers:
            peers.get(peer)
    except (ValueError, ImportError, AttributeError) as error:
        arguments.error(str(error))
    if min(options.threads) < 1 or (options.rounds is not None and options.rounds < 1):
        arguments.error("threads and rounds are positive")
    if options.from_json:
        results = Results.from_json(options.from_json.read_text())
    else:
        results = collect(options, names)
    if options.json:
        save(options.json, results.to_json())
    text = report.markdown(results)
    if options.write:
        save(RESULTS, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
