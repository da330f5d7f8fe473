"""The call path: what a compiled function gives back is its own, from any thread, and in a forked child."""

import gc
import os
import signal
import sys
import threading

import pytest

import torsh


def rows(n, value=1.0):
    return torsh.full((n,), value)


def test_results_never_share_memory_with_what_is_alive():
    f = torsh.compile(lambda x, y: x * y + x)
    x, y = rows(16, 2.0), rows(16, 3.0)
    held = []
    for i in range(50):
        held.append(f(x, y + float(i)))
    assert [h.tolist()[0] for h in held] == [2.0 * (3.0 + i) + 2.0 for i in range(50)]
    assert x.tolist() == [2.0] * 16 and y.tolist() == [3.0] * 16


def test_results_that_are_kept_do_not_change():
    f = torsh.compile(lambda x: x + 1.0)
    first = f(rows(1000))
    view = first[:10]
    del first
    for i in range(20):
        f(rows(1000, float(i)))
    assert view.tolist() == [2.0] * 10


@pytest.mark.compiled_only
@pytest.mark.parametrize("n", [16, 5000, 1 << 20])
def test_memory_of_dropped_results_is_used_again(n):
    f = torsh.compile(lambda x: x * 2.0)
    x = rows(n)
    f(x).tolist()[0]
    f(x)
    gc.collect()
    torsh.reset_peak_memory_stats()
    before = torsh.memory_stats()
    y = f(x)
    for _ in range(100):
        y = f(x)
    after = torsh.memory_stats()
    # Two results at a time: the old one goes when the new one takes its name.
    assert after["peak"] - before["live"] <= 2 * (4 * n + n // 2 + 64)
    assert y.tolist()[0] == 2.0


def test_a_result_that_is_an_argument_or_a_captured_tensor_is_that_object():
    w = rows(4)

    def step(x):
        return x, w, x + w

    f = torsh.compile(step)
    x = rows(4)
    for _ in range(3):
        a, b, c = f(x)
        assert a is x and b is w and c.tolist() == [2.0] * 4


def test_one_value_returned_twice():
    def twice(x):
        y = x + 1.0
        return y, y

    f = torsh.compile(twice)
    for _ in range(3):
        a, b = f(rows(3))
        a.add_(1.0)
        assert a.tolist() == [3.0] * 3 and b.tolist() in ([2.0] * 3, [3.0] * 3)


def test_state_is_updated_in_place_and_what_was_read_before_stays():
    w = rows(8)

    def step(x):
        with torsh.no_grad():
            w.mul_(2.0)
        return (x + w).sum()

    f = torsh.compile(step)
    f(rows(8))
    copy = w.clone()
    alias = w.detach()
    for _ in range(3):
        f(rows(8))
    assert copy.tolist() == [2.0] * 8
    assert w.tolist() == [16.0] * 8 and alias.tolist() == [16.0] * 8


def test_a_pending_or_viewed_argument_fits_as_well():
    f = torsh.compile(lambda x: x.sum())
    base = torsh.arange(6).float()
    assert f(base[1:4]).item() == 6.0
    for i in range(3):
        base.add_(1.0)
        assert f(base[1:4] * 2.0).item() == 2 * (6.0 + 3 * (i + 1))
        assert f(base[1:4]).item() == 6.0 + 3 * (i + 1)


def test_hits_are_counted_and_survive_the_programs():
    f = torsh.compile(lambda x: x + 1.0)
    for n in (2, 3, 2, 3, 3):
        f(rows(n))
    assert f.cache_info()["hits"] == 3 and f.cache_info()["misses"] == 2
    f.clear_cache()
    assert f.cache_info()["hits"] == 3
    f(rows(2))
    f(rows(2))
    assert f.cache_info()["hits"] == 4


def in_threads(count, work):
    failures, device = [], torsh.get_default_device()

    def run(i):
        # Each thread has a default of its own.
        torsh.set_default_device(device)
        try:
            work(i)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout=120)
        assert not t.is_alive()
    assert not failures, failures


@pytest.mark.parametrize("n", [16, 300_000])
def test_several_threads_call_one_function(n):
    f = torsh.compile(lambda x, y: (x * y + x).exp().log())
    f(rows(n), rows(n))

    def work(i):
        x, y = rows(n, 1.0 + i), rows(n, 2.0)
        for _ in range(30):
            z = f(x, y)
            assert abs(z[n - 1].item() - 3.0 * (1.0 + i)) < 1e-3

    in_threads(4, work)


def test_several_threads_update_the_state_of_one_function():
    w = torsh.zeros(1000)

    def step(x):
        with torsh.no_grad():
            w.add_(x)
        return w.sum()

    f = torsh.compile(step)
    x = rows(1000)
    f(x)
    in_threads(4, lambda i: [f(x) for _ in range(25)])
    assert w.tolist()[0] == 101.0


@pytest.mark.host_only("a forked process has no CUDA")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_other_threads_compute_gives_children_that_can():
    # A step holds on to the tensors that it updates while it runs.
    w, one = rows(400_000), rows(1)

    def step(x):
        with torsh.no_grad():
            w.mul_(x).exp_().log_()

    f = torsh.compile(step)
    f(one)
    stop = threading.Event()

    def hammer():
        while not stop.is_set():
            f(one)
            (one + 1.0).sum().item()

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        for _ in range(8):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    # A child that hangs is killed, and the wait below sees that.
                    signal.alarm(20)
                    ok = abs(w.sum().item() - 400_000.0) < 400.0 and f(one) is None
                    code = 0 if ok else 2
                finally:
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            assert status == 0, f"the child ended with status {status}"
    finally:
        stop.set()
        for t in threads:
            t.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_right_results_while_other_processes_take_every_processor():
    burners = []
    for _ in range(2 * (os.cpu_count() or 1)):
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            while True:
                pass
        burners.append(pid)
    try:
        f = torsh.compile(lambda x: (x * 3.0 + 1.0).sum())
        x = rows(500_000)
        for _ in range(20):
            assert f(x).item() == 2_000_000.0
    finally:
        for pid in burners:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_references_are_given_back():
    f = torsh.compile(lambda x, y: x + y)
    x, y = rows(4), rows(4)
    f(x, y)
    before = sys.getrefcount(x), sys.getrefcount(y)
    for _ in range(100):
        f(x, y)
    assert (sys.getrefcount(x), sys.getrefcount(y)) == before
