"""Shared fixtures. `TORSH_INTERPRET=1 pytest` runs every test on the reference interpreter; tests marked
`compiled_only` look at the compiler itself and are left out then.

`pytest --device cuda` makes the tests' tensors there: it is the default device, and `numpy()` copies to the host.
Tests marked `host_only("why")` are skipped then, and `-rs` lists why. Tests marked `names_devices` choose their devices
themselves and keep the CPU as the default. Any other test that makes more than twice as many tensors on the host as on
the device fails, so that nobody takes it for a test of the device; `--figures FILE` writes what each test made on
either, and on the simulator the kernels that it launched."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil

import numpy as np
import pytest

import torsh


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where tests make tensors: cpu, cuda or cuda:N")
    parser.addoption("--figures", help="with --device cuda: a file for a line of figures for each test")


def pytest_configure(config):
    config.addinivalue_line("markers", "names_devices: chooses its devices itself, whatever --device says")
    config.addinivalue_line("markers", "host_only(why): says nothing of other devices; skipped with --device cuda")
    device = torsh.device(config.getoption("--device"))
    if device.type != "cpu":
        if device.type != "cuda" or not torsh.cuda.is_available():
            raise pytest.UsageError(f"--device {device}: there is no such device")
        own = torsh.Tensor.numpy

        @functools.wraps(own)
        def numpy(self, *, force=False):
            away = torsh.get_default_device().type != "cpu"
            return own(self, force=force or (away and not self.requires_grad))

        torsh.Tensor.numpy = numpy
        torsh.Tensor.__array__ = lambda self, dtype=None, copy=None: np.asarray(self.numpy(), dtype=dtype)
    # A thread that ends by an exception has not done what its test looks for.
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnhandledThreadExceptionWarning")
    config.addinivalue_line("markers", "compiled_only: looks at compiled programs; not run with TORSH_INTERPRET=1")


def _figures(device) -> tuple[int, int, int]:
    """Tensors made so far on the host and on the device; kernels launched there, on the simulator (0 elsewhere)."""
    host = torsh._C.memory_stats(torsh.device("cpu"))["allocations"]
    made = torsh.cuda.memory_stats(device)["allocation.all.allocated"]
    library = os.environ.get("TORSH_CUDA_SIM", "")
    if not os.path.isfile(library):
        return host, made, 0
    counters = ctypes.CDLL(library).torsh_cuda_sim_counters
    counters.restype = ctypes.c_char_p
    figures = json.loads(counters())
    return host, made, figures["launches"]


def pytest_collection_modifyitems(config, items):
    for item in items:
        mark = item.get_closest_marker("host_only")
        if mark is None:
            continue
        if not (len(mark.args) == 1 and isinstance(mark.args[0], str)):
            raise pytest.UsageError(f"{item.nodeid}: host_only takes the reason")
        if torsh.device(config.getoption("--device")).type != "cpu":
            item.add_marker(pytest.mark.skip(reason=f"for the host: {mark.args[0]}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """With --device cuda: fails a test that says nothing of devices and made tensors on the host alone."""
    device = torsh.device(item.config.getoption("--device"))
    if device.type == "cpu":
        return (yield)
    # Takes along what is pending since the test's file was imported.
    torsh.eval(torsh.zeros(1, device="cpu"))
    before = _figures(device)
    result = yield
    host, made, launched = (b - a for a, b in zip(before, _figures(device), strict=True))
    path = item.config.getoption("--figures")
    if path:
        with open(path, "a") as out:
            out.write(f"{item.nodeid}\t{host}\t{made}\t{launched}\n")
    # A test that leaves another default has chosen it.
    chosen = item.get_closest_marker("names_devices") is not None or torsh.get_default_device().type != device.type
    if host > 2 * made and not chosen:
        pytest.fail(
            f"made {host} tensors on the CPU and {made} on {device}: mark it host_only or names_devices, or mend it"
        )
    return result


@pytest.fixture(autouse=True)
def _fresh_seed(request):
    """Every test starts from the same random state and with default switches, on the device under test."""
    torsh.manual_seed(0)
    names_devices = request.node.get_closest_marker("names_devices") is not None
    torsh.set_default_device(None if names_devices else request.config.getoption("--device"))
    yield
    torsh.set_default_device(None)
    assert torsh.is_grad_enabled(), "a test left gradients switched off"


@pytest.fixture
def rng():
    """NumPy random numbers for inputs."""
    return np.random.default_rng(12345)


@pytest.fixture(params=["lazy", "compiled"])
def run(request):
    """Runs a function of tensors lazily or through torsh.compile."""
    if request.param == "lazy":
        return lambda fn, *args: fn(*args)
    return lambda fn, *args: torsh.compile(fn)(*args)


@pytest.fixture(params=["gcc", "clang"])
def compiler(request, monkeypatch):
    """The C compiler that makes the libraries of a test; skips where it is missing."""
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setenv("CC", request.param)
    return request.param
