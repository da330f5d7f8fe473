"""Shared fixtures. `TORSH_INTERPRET=1 pytest` runs every test on the reference interpreter; tests marked
`compiled_only` look at the compiler itself and are left out then.

`pytest --device cuda` makes the tests' tensors there: it is the default device, and `numpy()` copies to the host.
Tests marked `names_devices` choose their devices themselves and keep the CPU as the default."""

from __future__ import annotations

import functools
import shutil

import numpy as np
import pytest

import torsh


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where tests make tensors: cpu, cuda or cuda:N")


def pytest_configure(config):
    config.addinivalue_line("markers", "names_devices: chooses its devices itself, whatever --device says")
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
    config.addinivalue_line("markers", "compiled_only: looks at compiled programs; not run with TORSH_INTERPRET=1")


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
