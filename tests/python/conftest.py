"""Shared fixtures. `TORSH_INTERPRET=1 pytest` runs every test on the reference interpreter; tests marked
`compiled_only` look at the compiler itself and are left out then."""

from __future__ import annotations

import numpy as np
import pytest

import torsh


def pytest_configure(config):
    config.addinivalue_line("markers", "compiled_only: looks at compiled programs; not run with TORSH_INTERPRET=1")


@pytest.fixture(autouse=True)
def _fresh_seed():
    """Every test starts from the same random state and with default switches."""
    torsh.manual_seed(0)
    yield
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
