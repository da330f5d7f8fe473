"""The process of one peer and one workload: `python -m benchmarks.child PEER WORKLOAD THREADS DIR`.

Builds the workload, runs it once and leaves the results in DIR for the caller to check, then answers commands on
standard input, each with one line of JSON: "warm" (warm up; choose the calls of a round), "go" (microseconds per
call of one round, after some untimed ones), "end" (peak memory). What libraries print goes to standard error.

`reference` as the peer runs the meaning in float64 instead, and ends.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

from benchmarks import peers, workloads

SEED = 0
MOST_CALLS = 1 << 16
# Between two rounds of a peer the others fill the caches with their arrays, and processors rest: 16 MB are back in the
# third-level cache after some 10 ms, and until then a call takes up to twice the time. Each peer first works for so
# long without being timed.
_WAKE_S = 0.03


def answer_stream():
    """The real standard output; file descriptor 1 points to standard error from now on."""
    stream = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return stream


def pin() -> None:
    """Pins every thread of this process to one core."""
    if not hasattr(os, "sched_setaffinity"):
        return
    core = {min(os.sched_getaffinity(0))}
    for task in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(task), core)
        except OSError:
            pass  # the thread has ended meanwhile


def inputs(workload):
    """The arrays of a workload, the same in every process."""
    import numpy as np

    return workload.inputs(np, np.random.default_rng(SEED))


def as_tuple(result):
    """Results as a tuple."""
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def save(path: str, arrays) -> None:
    """Writes results for the caller."""
    import numpy as np

    np.savez(path, *arrays)


def reference(workload, folder: str) -> None:
    """Writes what the workload means in float64."""
    import numpy as np

    result = workload.reference(np, *[a.astype(np.float64) for a in inputs(workload)])
    if workload.kind == "step":
        losses = None if result is None else [result() for _ in range(workload.checked_steps)]
        with open(os.path.join(folder, "reference.json"), "w") as file:
            json.dump(losses, file)
    else:
        save(os.path.join(folder, "reference.npz"), as_tuple(result))


def calibrate(call, budget: float, warm: float) -> int:
    """Warms up for so many seconds and chooses the calls of a round that takes about `budget` seconds."""
    start = time.perf_counter()
    done, held = 0, None
    while done < 3 or time.perf_counter() - start < warm:
        held = call()
        done += 1
        if done >= MOST_CALLS:
            break
    each = timed(call, 1)
    calls = max(1, min(MOST_CALLS, int(budget / max(each, 1e-7))))
    del held
    return max(1, min(MOST_CALLS, int(budget / max(timed(call, calls) / calls, 1e-7))))


def wake(call) -> None:
    """Runs the call until caches are filled and processors are at speed."""
    start = time.perf_counter()
    held = None
    while time.perf_counter() - start < _WAKE_S:
        held = call()
    del held


def timed(call, calls: int) -> float:
    """Seconds of so many calls. The last result is held while the next is made, as a loop of a user does."""
    held = None
    start = time.perf_counter()
    for _ in range(calls):
        held = call()
    took = time.perf_counter() - start
    del held
    return took


def peak_kib() -> int:
    """Largest resident memory so far. The kernel's own mark where there is one: `ru_maxrss` begins with what the
    parent had when it started this process."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Serves one peer until standard input ends."""
    name, workload_name, threads, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    out = answer_stream()
    workload = workloads.get(workload_name)

    def say(**message):
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        if name == "reference":
            reference(workload, folder)
            say(ready=True)
            return
        peer = peers.get(name)
        peer.prepare(threads)
        call = peer.bind(workload, [peer.array(a) for a in inputs(workload)])
        start = time.perf_counter()
        first = call()
        cold = time.perf_counter() - start
        losses = None
        if workload.kind == "step":
            losses = [float(first)] + [float(call()) for _ in range(workload.checked_steps - 1)]
        else:
            save(os.path.join(folder, f"{name.replace(':', '-')}.npz"), [peer.numpy(r) for r in as_tuple(first)])
        del first
    except workloads.Unsupported as reason:
        say(skipped=str(reason))
        return
    say(ready=True, cold=cold, losses=losses)
    calls = 1
    for line in sys.stdin:
        command, *args = line.split()
        if command == "warm":
            if threads == 1:
                pin()
            calls = calibrate(call, float(args[0]), float(args[1]))
            say(calls=calls)
        elif command == "go":
            wake(call)
            say(us=timed(call, calls) / calls * 1e6)
        elif command == "end":
            say(peak_kib=peak_kib())
            return


if __name__ == "__main__":
    main()
