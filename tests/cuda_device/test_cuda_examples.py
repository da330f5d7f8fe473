"""The examples at a size that the simulator can run, on a CUDA device: the same losses as on the CPU, and they fall."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from test_device import WHY

import torsh

pytestmark = pytest.mark.skipif(WHY is not None, reason=f"no CUDA device: {WHY}")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", ["train_digits", "train_characters"])
def test_demo(part: str):
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    demo = load("demo")
    here, there = (getattr(demo, part)(demo.TINY, torsh.device(name)) for name in ("cpu", "cuda"))
    assert len(there) >= 40 and np.mean(there[-5:]) < np.mean(there[:5])
    np.testing.assert_allclose(there, here, rtol=2e-3, atol=2e-3)


def test_digits_cnn():
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    example = load("digits_cnn")
    losses = example.tiny("cuda")
    # The devices drop other pixels: each has a random state of its own.
    assert len(losses) == example.TINY_STEPS and losses[-1] < 0.7 * losses[0]


def test_nanogpt(capsys: pytest.CaptureFixture[str]):
    example = load("nanogpt")
    here, there = (example.main(["--tiny", "--steps", "12", "--device", name]) for name in ("cpu", "cuda"))
    np.testing.assert_allclose(there, here, rtol=2e-3, atol=2e-3)
    samples = [part.split("\n")[0] for part in capsys.readouterr().out.split("\nThe ")[1:]]
    assert len(samples) == 2 and samples[0] == samples[1]
