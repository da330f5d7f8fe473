"""Sizes of libraries in C, as docs/c.md lists them."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest
from c_library import need

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.c_library import size  # noqa: E402

pytestmark = [
    pytest.mark.compiled_only,
    pytest.mark.host_only("libraries in C run on the host"),
    pytest.mark.skipif(
        platform.machine() != "x86_64" or not shutil.which("gcc"), reason="sizes are those of GCC on x86-64"
    ),
]


@pytest.fixture(autouse=True)
def gcc(monkeypatch):
    need("nm")
    monkeypatch.setenv("CC", "gcc")


def test_code_of_a_small_training_step(tmp_path):
    whole, weights, products = size("digits-step", tmp_path)
    assert weights > 1_000_000 and products > 1000
    assert whole - products < 32_000


def test_code_of_a_gpt_training_step(tmp_path):
    whole, weights, products = size("gpt", tmp_path)
    assert weights > 10_000_000 and products > 1000
    assert whole - products < 64 * 1024
