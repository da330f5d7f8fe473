"""Runs workloads: starts the peers' processes, checks their results, then times them in interleaved rounds."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import peers as peer_table
from benchmarks import workloads as workload_table
from benchmarks.results import Cell, Results, Row

ROOT = Path(__file__).resolve().parent.parent
_LOADED_ROUND_S = 0.1
# On several threads a round begins when the threads of the peer before it have gone to sleep: OpenBLAS lets its own
# look for work for some 30 ms, on a core that the next peer is meant to have.
_REST_S = 0.05


class ChildFailed(Exception):
    """A peer's process ended, hung or answered what is not understood."""


class Child:
    """The process of one peer; every answer is awaited with a deadline."""

    def __init__(self, peer: str, workload: str, threads: int, folder: str, env: dict):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", peer, workload, str(threads), folder],
            env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, start_new_session=True,
        )  # fmt: skip
        self.buffer = b""
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def ask(self, command: str, timeout: float) -> dict:
        """Sends a command and awaits the answer."""
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise ChildFailed(self.last_words()) from None
        return self.answer(timeout)

    def answer(self, timeout: float) -> dict:
        """The next answer."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            if not self.selector.select(max(0.0, deadline - time.monotonic())):
                raise ChildFailed(f"no answer in {timeout:.0f} s")
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                raise ChildFailed(self.last_words())
            self.buffer += part
            if len(self.buffer) > 1 << 20:
                raise ChildFailed("answered more than a line")
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise ChildFailed(f"unreadable answer {line[:60]!r}")
        return message

    def last_words(self) -> str:
        """How the process ended: its last line on standard error, and its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        size = self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, size - 4096))
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        code = self.process.poll()
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        return f"{lines[-1].strip()[:200]} ({how})" if lines else how

    def close(self) -> None:
        """Ends the process."""
        self.selector.close()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        # Its helpers too: the child leads a group of its own.
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def environment(peer, threads: int, folder: str) -> dict:
    """The variables of one peer's process."""
    env = peer_table.environment(dict(os.environ), threads, folder) | peer.env
    path = env.get("PYTHONPATH")
    env["PYTHONPATH"] = str(ROOT) + (os.pathsep + path if path else "")
    return env


def difference(np, got, want) -> float:
    """Largest error of any result, relative to that result's largest value."""
    if len(got) != len(want):
        return math.inf
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        if a.shape != b.shape:
            return math.inf
        error = float(np.abs(a.astype(np.float64) - b).max()) if a.size else 0.0
        scale = float(np.abs(b).max()) if b.size else 0.0
        # A NaN compares as not below anything.
        worst = max(worst, error / (scale or 1.0)) if error == error else math.inf
    return worst


def check_arrays(folder: str, peer: str, tolerance: float) -> str | None:
    """What is wrong with a peer's results, against float64."""
    import numpy as np

    def load(path):
        with np.load(path) as data:
            return [data[k] for k in data.files]

    path = os.path.join(folder, f"{peer.replace(':', '-')}.npz")
    off = difference(np, load(path), load(os.path.join(folder, "reference.npz")))
    os.unlink(path)
    return None if off <= tolerance else f"off by {off:.2g} from float64 (allowed: {tolerance:.2g})"


def check_losses(losses: dict[str, list[float]], reference, tolerance: float) -> dict[str, str]:
    """What is wrong with each peer's first losses: not the float64 ones (or, without those, not the median of the
    other libraries; of torsh alone when it is alone), or not falling."""
    wrong = {}
    others = [got for peer, got in losses.items() if not peer_table.get(peer).ours] or list(losses.values())
    want = reference or [statistics.median(column) for column in zip(*others, strict=True)]
    for peer, got in losses.items():
        errors = [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(got, want, strict=True)]
        # Each by itself: `max` may pass over a NaN.
        off = next((e for e in errors if not e <= tolerance), None)
        if off is not None:
            whose = "float64" if reference else "the other peers"
            wrong[peer] = f"its losses are off by {off:.2g} from those of {whose}"
        elif not got[-1] < got[0]:
            wrong[peer] = f"its loss does not fall: {got}"
    return wrong


@contextlib.contextmanager
def competitors(cores: Iterable[int]):
    """One busy process on each core."""
    code = (
        "import os, sys\n"
        "if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {int(sys.argv[1])})\n"
        "while True: pass"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(core)]) for core in cores]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextlib.contextmanager
def holding(lock: str | None):
    """Holds an exclusive lock on a file, so that several runs on one machine do not time at once."""
    if lock is None:
        yield
        return
    import fcntl

    with open(lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Runner:
    """One run: folders, time limits and settings that all rows share."""

    def __init__(
        self, folder: str, *, rounds: int = 8, round_s: float = 0.02, warm_s: float = 0.1, build_timeout: float = 300,
        round_timeout: float = 120, lock: str | None = None, log: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        self.folder, self.rounds, self.round_s, self.warm_s = folder, rounds, round_s, warm_s
        self.build_timeout, self.round_timeout, self.lock, self.log = build_timeout, round_timeout, lock, log
        self.references: dict[str, str] = {}

    def reference(self, workload) -> str:
        """The folder with the float64 result; made once a run."""
        if workload.name not in self.references:
            folder = os.path.join(self.folder, workload.name)
            os.makedirs(folder, exist_ok=True)
            env = environment(peer_table.PEERS["numpy"], os.cpu_count() or 1, self.folder)
            child = Child("reference", workload.name, 1, folder, env)
            try:
                message = child.answer(self.build_timeout)
            finally:
                child.close()
            if "skipped" in message:
                raise workload_table.Unsupported(message["skipped"])
            self.references[workload.name] = folder
        return self.references[workload.name]

    def row(self, name: str, threads: int, peers: Iterable[str], loaded: bool = False) -> Row:
        """Measures one workload."""
        workload = workload_table.get(name)
        row = Row(name, threads, {peer: Cell() for peer in peers}, loaded)
        try:
            folder = self.reference(workload)
        except workload_table.Unsupported as reason:
            return self.fail_all(row, "skipped", str(reason))
        except ChildFailed as reason:
            return self.fail_all(row, "failed", f"no float64 result: {reason}")
        children = self.start(row, folder)
        try:
            self.check(row, workload, folder, self.build(row, children))
            timed = {p: c for p, c in children.items() if row.cells[p].status == "ok"}
            with holding(self.lock), self.load(loaded):
                self.time(row, timed)
        finally:
            for child in children.values():
                child.close()
        return row

    @staticmethod
    def load(loaded: bool):
        """Competing processes, or none."""
        if not loaded:
            return contextlib.nullcontext()
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        return competitors(sorted(cores))

    @staticmethod
    def fail_all(row: Row, status: str, reason: str) -> Row:
        for peer in row.cells:
            row.cells[peer] = Cell(status, reason)
        return row

    def start(self, row: Row, folder: str) -> dict[str, Child]:
        """Starts all peers; they build at the same time."""
        children = {}
        for name in row.cells:
            peer = peer_table.get(name)
            missing = peer.missing()
            if missing:
                row.cells[name] = Cell("skipped", missing)
            else:
                env = environment(peer, row.threads, self.folder)
                children[name] = Child(name, row.workload, row.threads, folder, env)
        return children

    def attempt(self, row: Row, peer: str, action: Callable[[], dict]) -> dict | None:
        """The answer of a peer, or None with its cell marked."""
        try:
            return action()
        except ChildFailed as reason:
            row.cells[peer] = Cell("failed", str(reason))
            return None

    def build(self, row: Row, children: dict[str, Child]) -> dict[str, dict]:
        """Awaits the first result of every peer."""
        ready = {}
        for peer, child in children.items():
            message = self.attempt(row, peer, lambda child=child: child.answer(self.build_timeout))
            if message is None:
                continue
            if "skipped" in message:
                row.cells[peer] = Cell("skipped", message["skipped"])
            elif message.get("ready") is not True:
                row.cells[peer] = Cell("failed", f"unexpected answer {message}")
            else:
                ready[peer] = message
        return ready

    def check(self, row: Row, workload, folder: str, ready: dict[str, dict]) -> None:
        """Marks the peers whose results are wrong."""
        if workload.kind == "step":
            reference = json.loads(Path(folder, "reference.json").read_text())
            losses = {peer: message["losses"] for peer, message in ready.items()}
            for peer, reason in check_losses(losses, reference, workload.tolerance).items():
                row.cells[peer] = Cell("wrong", reason)
            return
        for peer in ready:
            try:
                reason = check_arrays(folder, peer, workload.tolerance)
            except Exception as error:  # whatever a result file may hold, the run goes on
                reason = f"its result cannot be read: {error}"
            if reason:
                row.cells[peer] = Cell("wrong", reason)

    def time(self, row: Row, children: dict[str, Child]) -> None:
        """Warms up each peer, then runs the rounds, peer after peer in each."""
        running = dict(children)

        def ask(peer: str, command: str, key: str):
            message = self.attempt(row, peer, lambda: running[peer].ask(command, self.round_timeout))
            if message is not None and not isinstance(message.get(key), (int, float)):
                row.cells[peer], message = Cell("failed", f"unexpected answer {message}"), None
            if message is None:
                del running[peer]
                return None
            return message[key]

        # Beside competitors a round spans many slices of the scheduler.
        round_s = max(self.round_s, _LOADED_ROUND_S) if row.loaded else self.round_s
        for peer in list(running):
            ask(peer, f"warm {round_s} {self.warm_s}", "calls")
        for _ in range(self.rounds):
            for peer in list(running):
                if row.threads > 1:
                    time.sleep(_REST_S)
                us = ask(peer, "go", "us")
                if us is not None:
                    row.cells[peer].us.append(us)
        for peer in list(running):
            row.cells[peer].peak_kib = ask(peer, "end", "peak_kib")


def describe(rounds: int, command: str) -> dict:
    """What a reader needs to know about the machine and the run."""
    from importlib import metadata

    versions = {}
    for package in ("torsh-compiler", "numpy", "torch", "jax"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(),
        "versions": versions, "rounds": rounds, "command": command,
    }  # fmt: skip


def run(
    workloads: Iterable[str] | None = None, peers: Iterable[str] | None = None, threads: Iterable[int] = (1, 2),
    rounds: int = 8, *, loaded: bool = False, results: Results | None = None, command: str = "benchmarks.run",
    on_row: Callable[[Results, Row], None] = lambda results, row: None, **settings,
) -> Results:  # fmt: skip
    """Measures workloads.

    Args:
        workloads: names from `benchmarks.WORKLOADS`; all of them by default.
        peers: names from `benchmarks.PEERS` or `module:Class`; all by default.
        threads: thread counts, equal for all peers.
        rounds: interleaved rounds of each row.
        loaded: with a competing process on each core.
        results: add to these instead of new ones.
        on_row: called after each row.
        settings: of `Runner`: round_s, warm_s, build_timeout, round_timeout (seconds), lock (a file).

    Returns:
        The results; a peer that cannot run a workload has its reason in its cell.
    """
    names = list(workload_table.WORKLOADS if workloads is None else workloads)
    chosen = list(peer_table.PEERS if peers is None else peers)
    for name in names:
        workload_table.get(name)
    for name in chosen:
        peer_table.get(name)
    results = results or Results(describe(rounds, command))
    with tempfile.TemporaryDirectory(prefix="torsh-bench-") as folder:
        runner = Runner(folder, rounds=rounds, **settings)
        for name in names:
            for count in threads:
                row = runner.row(name, count, chosen, loaded)
                results.rows.append(row)
                on_row(results, row)
            reference = Path(folder, name, "reference.npz")
            reference.unlink(missing_ok=True)
    return results
