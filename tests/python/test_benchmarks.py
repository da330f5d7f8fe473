"""The benchmark suite: complete against the target table, notices wrong results, survives peers that misbehave, and
reports in JSON and markdown. No times are asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import benchmarks  # noqa: E402
from benchmarks import limits, report, runner, shortfalls, targets  # noqa: E402
from benchmarks.__main__ import main, parser, select  # noqa: E402
from benchmarks.results import Cell, Figure, Results, Row  # noqa: E402

QUICK = {"round_s": 0.001, "warm_s": 0.001}

FAKES = """
import os, sys, time
from benchmarks.peers import Numpy
from benchmarks.workloads import Unsupported

class Wrong(Numpy):
    def numpy(self, result):
        result = result.copy()
        result[3] += 0.01
        return result

class NotANumber(Numpy):
    def numpy(self, result):
        return result * float("nan")

class Crash(Numpy):
    def bind(self, workload, arrays):
        os.abort()

class Raises(Numpy):
    def bind(self, workload, arrays):
        raise RuntimeError("no such luck")

class Later(Numpy):
    # Gives the first result, then dies while it is timed.
    def bind(self, workload, arrays):
        call, done = super().bind(workload, arrays), []
        def once():
            done.append(1)
            if len(done) > 2:
                os._exit(7)
            return call()
        return once

class Hang(Numpy):
    def bind(self, workload, arrays):
        time.sleep(600)

class Garbage(Numpy):
    def bind(self, workload, arrays):
        for fd in range(3, 32):
            try:
                os.write(fd, b"what is this\\n")
            except OSError:
                pass
        return super().bind(workload, arrays)

class Chatty(Numpy):
    def bind(self, workload, arrays):
        print("hello", flush=True)
        os.write(1, b"hello again\\n")
        return super().bind(workload, arrays)

class Refuses(Numpy):
    def bind(self, workload, arrays):
        raise Unsupported("not in this version")
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Peers that misbehave, importable here and in the children."""
    (tmp_path / "bench_fakes.py").write_text(FAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield lambda name: f"bench_fakes:{name}"
    sys.modules.pop("bench_fakes", None)


def one(peers, workload="dispatch", **settings):
    """The cells of one row."""
    results = benchmarks.run([workload], peers, [1], 2, **(QUICK | settings))
    return results.row(workload, 1).cells


def test_every_goal_has_its_workload_and_every_workload_its_goal():
    goals = [goal.workload for goal in benchmarks.GOALS]
    assert len(goals) == len(set(goals))
    # The written-out attention is measured beside the function and has no goal of its own.
    assert set(benchmarks.WORKLOADS) == {*goals, "attention-plain"}


def test_goals_are_those_of_the_target_table():
    by_name = {goal.workload: goal for goal in benchmarks.GOALS}
    assert by_name["dispatch"].items() == [("torch-compile", 8), ("jax", 4), ("best", 1)]
    assert by_name["softmax-512"].items() == [("torch-compile", 2.8), ("jax", 3), ("best", 2.5)]
    assert by_name["gelu-64M"].best == 2.0 and by_name["gelu-16M"].best == 1.0
    assert len(targets.START_GOALS) == 12


@pytest.mark.parametrize("name", [w for w in benchmarks.WORKLOADS if w not in ("gelu-64M", "chain-16M")])
def test_inputs_are_the_same_in_every_process_and_costs_are_stated(name):
    workload = benchmarks.WORKLOADS[name]
    first = workload.inputs(np, np.random.default_rng(0))
    again = workload.inputs(np, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(a.dtype in (np.float32, np.int64) for a in first)
    assert workload.bytes > 0 and workload.flops > 0 and workload.array > 0
    assert max(a.nbytes for a in first) <= max(workload.array, 1 << 20)


def test_a_workload_name_is_taken_once():
    with pytest.raises(ValueError, match="registered twice"):
        benchmarks.register(benchmarks.WORKLOADS["dispatch"])


def test_numpy_training_steps_agree_in_both_precisions():
    workload = benchmarks.WORKLOADS["mlp-784"]
    arrays = workload.inputs(np, np.random.default_rng(0))
    step, _ = workload.numpy(np, arrays)
    exact = workload.reference(np, *[a.astype(np.float64) for a in arrays])
    got, want = [step() for _ in range(3)], [exact() for _ in range(3)]
    assert np.allclose(got, want, rtol=1e-4) and want[2] < want[0]


@pytest.mark.parametrize("name", ["Wrong", "NotANumber"])
def test_a_wrong_result_is_not_timed(fakes, name):
    cells = one(["numpy", fakes(name)])
    assert cells["numpy"].status == "ok" and len(cells["numpy"].us) == 2
    cell = cells[fakes(name)]
    assert cell.status == "wrong" and "from float64" in cell.reason and cell.us == []


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("Crash", "failed", "signal 6"),
        ("Raises", "failed", "RuntimeError: no such luck (exit status 1)"),
        ("Later", "failed", "exit status 7"),
        ("Garbage", "failed", "unreadable answer b'what is this'"),
        ("Refuses", "skipped", "not in this version"),
    ],
)
def test_a_peer_that_misbehaves_has_its_reason_in_its_cell(fakes, name, status, reason):
    cells = one([fakes(name), "numpy"])
    assert cells["numpy"].best is not None
    cell = cells[fakes(name)]
    assert cell.status == status and reason in cell.reason and cell.best is None


def test_a_peer_that_hangs_is_ended(fakes):
    cells = one([fakes("Hang"), "numpy"], build_timeout=3)
    assert cells[fakes("Hang")] == Cell("failed", "no answer in 3 s")


def test_what_a_library_prints_does_no_harm(fakes):
    assert one([fakes("Chatty")])[fakes("Chatty")].status == "ok"


def test_a_peer_that_is_not_installed_is_skipped(monkeypatch):
    monkeypatch.setattr(benchmarks.PEERS["jax"], "package", "no_such_package")
    assert one(["jax"])["jax"] == Cell("skipped", "no_such_package is not installed")


def test_losses_are_compared_and_must_fall():
    good, off = [2.0, 1.5, 1.0], [2.0, 1.6, 1.0]
    check = runner.check_losses
    assert check({"torsh": good, "jax": good}, good, 1e-3) == {}
    assert "float64" in check({"torsh": off}, good, 1e-3)["torsh"]
    # Without float64 losses the median of the other libraries counts, however many of ours agree.
    losses = {"torsh": off, "torsh-lazy": off, "torsh-unfused": off, "torch": good, "jax": good}
    assert list(check(losses, None, 1e-3)) == ["torsh", "torsh-lazy", "torsh-unfused"]
    assert list(check({"torch": good, "numpy": good, "jax": off}, None, 1e-3)) == ["jax"]
    assert check({"torsh": good, "torsh-lazy": good}, None, 1e-3) == {}
    assert "does not fall" in check({"torsh": [2.0, 2.0]}, [2.0, 2.0], 1e-3)["torsh"]
    for losses in ([float("nan"), 1.0], [2.0, float("nan")]):
        assert "nan" in check({"torsh": losses}, [2.0, 1.0], 1e-3)["torsh"]


def test_shapes_and_counts_of_results_are_compared():
    a = np.ones(3)
    assert runner.difference(np, [a], [a]) == 0.0
    assert runner.difference(np, [a], [a, a]) == np.inf
    assert runner.difference(np, [a], [np.ones(4)]) == np.inf
    # Relative to each result's own scale: a small result beside a large one is not lost.
    assert runner.difference(np, [a * 1e6, a * 1.01], [a * 1e6, a]) == pytest.approx(0.01)


def test_quick_run_from_the_command_line_gives_valid_json(tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "dispatch", "digits", "--rounds", "2"]
    command += ["--peers", "torsh", "torsh-lazy", "numpy", "--threads", "1", "--no-limits", "--no-start", "--json", out]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    raw = json.loads(out.read_text())
    assert [row["workload"] for row in raw["rows"]] == ["dispatch", "digits-step"]
    results = Results.from_json(out.read_text())
    for row in results.rows:
        for peer, cell in row.cells.items():
            if cell.status == "skipped":
                assert "not installed" in cell.reason
                continue
            assert cell.status == "ok" and len(cell.us) == 2, (peer, cell)
            assert all(us > 0 for us in cell.us) and cell.peak_kib > 1000
    assert results.to_json() == out.read_text()
    assert "# Results" in done.stdout and "| dispatch | 1 |" in done.stdout


def test_environment_is_equal_for_all_and_clean(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("TORSH_FUSION", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    for name, peer in benchmarks.PEERS.items():
        env = runner.environment(peer, 2, "/folder")
        assert "OPENBLAS_CORETYPE" not in env and env["OMP_NUM_THREADS"] == "2"
        assert env["OMP_WAIT_POLICY"] == "passive"
        assert env.get("TORSH_FUSION") == ("0" if name == "torsh-unfused" else None)


def test_select_and_bad_arguments(capsys):
    assert select(["softmax"]) == ["softmax-512", "softmax-4096"]
    assert select(["matmul-128", "matmul-128"]) == ["matmul-128"]
    with pytest.raises(ValueError, match="unknown workload 'nothing'"):
        select(["nothing"])
    for bad in (["--only", "nothing"], ["--peers", "nobody"], ["--threads", "0"], ["--rounds", "0"]):
        with pytest.raises(SystemExit) as info:
            main(bad)
        assert info.value.code == 2
    assert parser().parse_args([]).threads == [1, 2]
    capsys.readouterr()


FIGURES = {
    "isa": "avx2",
    "cache_bytes": {"L1": 32768, "L2": 1048576, "L3": 33554432},
    "threads": {
        "1": {
            "levels": {
                "L1": {"bytes": 16384, "read": 100.0, "copy": 120.0, "triad": 130.0},
                "L2": {"bytes": 524288, "read": 60.0, "copy": 40.0, "triad": 50.0},
                "L3": {"bytes": 16777216, "read": 30.0, "copy": 20.0, "triad": 20.0},
                "DRAM": {"bytes": 268435456, "read": 12.0, "copy": 10.0, "triad": 10.0},
            },
            "gflop_per_s": {"avx2": 100.0},
        }
    },
}


def test_roofline_takes_the_level_that_holds_the_working_set():
    level = lambda size: limits.level(FIGURES, 1, size)  # noqa: E731
    assert [level(n) for n in (32768, 32769, 1 << 20, 1 << 25, (1 << 25) + 1)] == ["L1", "L2", "L2", "L3", "DRAM"]
    # 2 * 1024^3 operations at 100 GF/s.
    assert limits.least_us(FIGURES, benchmarks.WORKLOADS["matmul-1024"], 1) == (
        pytest.approx(21474.8, rel=1e-4),
        "compute",
    )
    # Column sums read 16 MiB: the bandwidth of reads counts.
    assert limits.least_us(FIGURES, benchmarks.WORKLOADS["column-sum"], 1) == (pytest.approx(559.2, rel=1e-3), "L3")


def test_the_larger_of_two_measurements_of_a_limit_counts():
    other = json.loads(json.dumps(FIGURES))
    other["threads"]["1"]["levels"]["L2"]["copy"] = 70.0
    other["threads"]["1"]["levels"]["L1"]["copy"] = 1.0
    other["threads"]["1"]["gflop_per_s"]["avx2"] = 90.0
    other["threads"]["2"] = other["threads"]["1"]
    both = limits.larger(FIGURES, other)["threads"]
    assert both["1"]["levels"]["L2"]["copy"] == 70.0 and both["1"]["levels"]["L1"]["copy"] == 120.0
    assert both["1"]["gflop_per_s"]["avx2"] == 100.0 and both["2"]["gflop_per_s"]["avx2"] == 90.0
    assert limits.larger(None, FIGURES) == FIGURES


def test_limits_without_cargo_are_left_out(monkeypatch):
    monkeypatch.setattr(limits, "_BUILD", ["no-such-cargo-here"])
    with pytest.raises(limits.NoLimits, match="cargo is not installed"):
        limits.measure([1])


def sample() -> Results:
    """Results with every kind of cell."""
    environment = {
        "command": "python -m benchmarks", "machine": "x86_64", "cores": 2, "python": "3.11.7", "rounds": 2,
        "versions": {"numpy": "2.0"},
    }  # fmt: skip
    ok = lambda *us: Cell(us=list(us), peak_kib=51200)  # noqa: E731
    rows = [
        Row("dispatch", 1, {
            "torsh": ok(2.0, 4.0), "torsh-lazy": ok(1.0, 2.0), "numpy": ok(1.0, 1.5), "torch-compile": ok(20.0, 21.0),
            "jax": Cell("skipped", "jax is not installed"),
        }),
        Row("column-sum", 1, {
            "torsh": ok(1000.0, 1100.0), "torsh-lazy": ok(1000.0, 1200.0), "numpy": ok(1500.0, 1600.0),
        }),
        Row("column-sum", 2, {"torsh": ok(800.0, 900.0), "numpy": ok(1500.0, 1600.0)}),
        Row("conv", 1, {"torsh": Cell("skipped", "torsh.nn has no Conv2d yet"), "numpy": Cell("failed", "a | b")}),
        Row("dispatch", 1, {"torsh": ok(5.0, 5.0)}, True),
        Row("column-sum", 1, {"torsh": ok(2000.0, 2100.0), "numpy": ok(3000.0, 3100.0)}, True),
        Row("column-sum", 2, {"torsh": ok(2500.0, 2550.0), "numpy": ok(2400.0, 2480.0)}, True),
    ]  # fmt: skip
    start = [
        Figure("import over a bare interpreter", "ms", {"torsh": 90.0, "numpy": 70.0}),
        Figure("memory after import", "MB", {"torsh": 36.0}, {"torsh": "with NumPy"}),
    ]
    growth = [
        Figure("compile 10,000 nodes", "s", {"torsh": 0.5}),
        Figure("trace, per op from Python", "us", {"torsh": 12.0}),
    ]
    return Results(environment, rows, FIGURES, "", start, growth)


def test_markdown_writer(monkeypatch):
    monkeypatch.setattr(report, "WHY", {"dispatch": "a call costs that"})
    text = report.markdown(sample())
    golden = textwrap.dedent(
        """\
        | workload | threads | torsh us | vs torch.compile | vs jax | vs best | share of limit | target |
        |---|---|---|---|---|---|---|---|
        | dispatch | 1 | 2 | 10 of 8 | - | 0.5 of 1 | 0% of L1 | not met: best (jax not measured) |
        | column-sum | 1 | 1,000 | - | - | 1.5 of 1.2 | 56% of L3 | met where measured (torch-compile, jax not measured) |
        | column-sum | 2 | 800 | - | - | 1.88 of 1.2 | - | met where measured (torch-compile, jax not measured) |
        | conv | 1 | - | - | - | - | - | skipped: torsh.nn has no Conv2d yet |

        Largest gaps (ratio asked for over ratio reached): dispatch (1T) 2.00.

        ## What limits the rows that fall short
        In brackets the share of each target that is reached. Instructions are those of the main loop for AVX-512.

        * dispatch (1T best 0.5): a call costs that.

        ## Rules across rows
        * Two threads at least 1.7 times one, where arrays exceed 1 MiB and DRAM is not the limit: 0 of 1 rows. Below: column-sum 1.25.
        * No workload slower compiled than lazy, or fused than unfused (beyond 10% noise): 1 of 2. Slower: dispatch (1T) 2.00 times slower compiled than lazy.
        """  # noqa: E501
    )
    assert golden in text
    assert "0 of 4 rows are met. 2 more are met where measured. A cell" in text
    assert "| import over a bare interpreter, ms | 90 | 70 | numpy + 30 ms | met |" in text
    assert "| memory after import, MB | 36 | - | <= 35 MB | not met |" in text
    assert "* memory after import, torsh: with NumPy." in text
    assert "| compile 10,000 nodes, s | 0.5 | <= 2 s | met |" in text
    assert "| trace, per op from Python, us | 12 | <= 10 us | not met |" in text
    assert "| dispatch | 1 | 5 / 5 |" in text.split("## Times with a competing process on each core")[1]
    slowdown = textwrap.dedent(
        """\
        ## Slow-down by a competing process on each core
        * No more than half of each core gone (2 times the time), or no more than the least slowed of the rivals (beyond 10% noise): 1 of 2 rows. Slower: column-sum (2T) 2.97, best 1.57.

        Median time beside the competitors over the median without.

        | workload | threads | torsh | numpy |
        |---|---|---|---|
        | dispatch | 1 | 1.67 | - |
        | column-sum | 1 | 1.95 | 1.97 |
        | column-sum | 2 | 2.97 | 1.57 |
        """  # noqa: E501
    )
    assert slowdown in text
    assert "Slow-down" not in report.markdown(Results(sample().environment, [r for r in sample().rows if not r.loaded]))
    assert "* numpy, failed: a | b. conv (1T)" in text
    assert "* jax, skipped: jax is not installed. dispatch (1T)" in text


def test_json_goes_there_and_back():
    results = sample()
    assert Results.from_json(results.to_json()) == results


def test_reporting_again_from_json(tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(sample().to_json())
    assert main(["--from-json", str(path)]) == 0
    assert capsys.readouterr().out == report.markdown(sample()) + "\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_competitors_run_and_end():
    with runner.competitors(sorted(os.sched_getaffinity(0))[:1]) as _:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        assert children
    left = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert len(left) < len(children)


def test_every_goal_has_a_line_on_what_limits_it():
    assert set(shortfalls.WHY) == {goal.workload for goal in targets.GOALS}
