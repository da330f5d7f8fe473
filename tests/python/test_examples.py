"""The examples run and learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.host_only("of full size; tests/cuda_device runs each example on a device")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.compiled_only
def test_digits_cnn_learns():
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    example = load("digits_cnn")
    epochs, accuracy = example.run(example.QUICK_EPOCHS)
    assert epochs == 3
    assert accuracy > 0.9


@pytest.mark.compiled_only
def test_digits_cnn_takes_the_epochs_that_validate_best(monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    example = load("digits_cnn")
    runs = []

    def train(train_x, train_y, test_x, test_y, epochs, device):
        runs.append((len(train_y), len(test_y), epochs))
        return {1: 0.5, 2: 0.9, 3: 0.9}[epochs]

    monkeypatch.setattr(example, "train", train)
    assert example.run((1, 2, 3)) == (2, 0.9)
    # 1,437 training images, of which 288 are held out, and 360 test images that only the last run sees.
    assert runs == [(1149, 288, 1), (1149, 288, 2), (1149, 288, 3), (1437, 360, 2)]


@pytest.mark.compiled_only
def test_nanogpt_learns_and_samples(capsys):
    example = load("nanogpt")
    losses = example.main(["--quick"])
    assert len(losses) == example.QUICK_STEPS
    # Guessing gives 4.6.
    assert sum(losses[-4:]) / 4 < 3.6
    _, sample = capsys.readouterr().out.split("\nThe ", 1)
    assert len(sample) == 40 + len("\n")


@pytest.mark.parametrize("name", ["demo", "digits_cnn", "nanogpt"])
def test_examples_refuse_devices_that_there_are_not(name: str):
    for package in ("sklearn", "tqdm") if name != "nanogpt" else ():
        pytest.importorskip(package)
    with pytest.raises(ValueError, match="Unknown device: cuba"):
        load(name).main(["--tiny", "--device", "cuba"])
