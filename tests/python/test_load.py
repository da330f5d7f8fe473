"""Right results while other processes keep every core busy: threads of a run are then stopped at any point, begin
late or never come. No times are taken here; `python -m benchmarks --loaded` does that."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

import torsh

# The interpreter has no threads.
pytestmark = pytest.mark.compiled_only

BURN = "print(flush=True)\nwhile True: pass"


@contextmanager
def busy_cores():
    """Two competing processes for each core, all of which have begun to burn."""
    count = 2 * (os.cpu_count() or 1)
    running = [subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in running:
            assert process.stdout.readline() == b"\n"
        yield
        assert all(process.poll() is None for process in running), "a competitor ended early"
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()


def filled(*shape):
    n = int(np.prod(shape))
    return (torsh.arange(n).float() * 0.37 % 3.0 - 1.5).reshape(shape)


def work():
    """name -> function: a chain, rows, folds, products with kernels on and in front of their rows, attention."""
    n = 1024
    x, y, narrow = filled(n, n), filled(n, n) * 0.5, filled(n, 8)
    tall = filled(70_000, 64)
    functional = torsh.nn.functional
    heads = filled(1, 2, n // 4, 16)
    return {
        "chain": lambda: functional.gelu(x * y + 0.5) + x,
        "softmax": lambda: torsh.softmax(x, dim=-1),
        "columns": lambda: x.sum(dim=0) + y.var(dim=0),
        "sum": lambda: (x * y).sum(),
        "transpose": lambda: x.t() + y,
        "product": lambda: functional.relu(x @ y + narrow[:, :1]),
        "narrow product": lambda: torsh.relu(tall) @ narrow[:64],
        "attention": lambda: functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
    }


@pytest.mark.host_only("of sizes for the host, whose cores are what is competed for")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_the_same_beside_competing_processes(threads):
    before = torsh.get_num_threads()
    torsh.set_num_threads(threads)
    try:
        calls = {name: torsh.compile(f) for name, f in work().items()}
        want = {name: f().numpy() for name, f in calls.items()}
        with busy_cores():
            for _ in range(3):
                for name, f in calls.items():
                    assert f().numpy().tobytes() == want[name].tobytes(), name
            again = {name: torsh.compile(f)().numpy() for name, f in work().items()}
        assert {name: a.tobytes() for name, a in again.items()} == {name: w.tobytes() for name, w in want.items()}
    finally:
        torsh.set_num_threads(before)


def train(steps):
    """The parameters after some steps of a small model, in place, from the same seed."""
    torsh.manual_seed(5)
    model = torsh.nn.Sequential(
        torsh.nn.Linear(96, 200), torsh.nn.ReLU(), torsh.nn.Dropout(0.2), torsh.nn.Linear(200, 7)
    )
    optimizer = torsh.optim.Adam(model.parameters(), lr=0.01)
    x, y = filled(64, 96), torsh.arange(64) % 7

    @torsh.compile
    def step():
        optimizer.zero_grad()
        loss = torsh.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    losses = [step().item() for _ in range(steps)]
    assert losses[-1] < losses[0]
    return losses, [p.detach().numpy().tobytes() for p in model.parameters()]


def test_training_is_the_same_beside_competing_processes():
    want = train(15)
    with busy_cores():
        assert train(15) == want


def test_threads_that_share_a_program_beside_competing_processes():
    f = torsh.compile(lambda x: torsh.softmax(x @ x, dim=-1).sum(dim=0))
    inputs = [filled(300, 300) * (i + 1) * 0.01 for i in range(4)]
    want = [f(x).numpy().tobytes() for x in inputs]
    wrong, device = [], torsh.get_default_device()

    def caller(i):
        # Each thread has a default of its own.
        torsh.set_default_device(device)
        for _ in range(8):
            if f(inputs[i]).numpy().tobytes() != want[i]:
                wrong.append(i)

    with busy_cores():
        callers = [threading.Thread(target=caller, args=(i,)) for i in range(len(inputs))]
        for t in callers:
            t.start()
        for t in callers:
            t.join(timeout=300)
            assert not t.is_alive(), "a caller hangs"
    assert wrong == []
