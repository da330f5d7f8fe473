"""The examples run and learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

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
    accuracy, _ = example.train(example.QUICK_EPOCHS)
    assert accuracy > 0.9
