"""What `report.py` checks, as tests: on a CUDA device, or on the simulator where TORSH_CUDA_SIM asks for it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import torsh

sys.path.insert(0, str(Path(__file__).parent))
import report  # noqa: E402


def missing() -> str | None:
    """Why nothing can be tested here; None where it can."""
    try:
        torsh.zeros(1, device="cuda").tolist()
    except torsh.DeviceError as e:
        return str(e)
    return None


WHY = missing()
pytestmark = pytest.mark.skipif(WHY is not None, reason=f"no CUDA device: {WHY}")
CASES = {case.name: case for case in report.cases()} if WHY is None else {}


@pytest.fixture(scope="module")
def interpreted() -> dict[str, np.ndarray]:
    return report.interpreted()


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_interpreter(name: str, interpreted: dict[str, np.ndarray]):
    case = CASES[name]
    assert report.difference(case, report.values(case, "cuda"), interpreted[name]) is None


def test_figures_are_measured():
    rows = report.measure(n=1 << 12)
    assert rows[0][0] == "copy" and all(figure > 0 for _, figure, _ in rows)
    if "simulator" not in torsh.cuda.get_device_name():
        rows = report.measure()
        slow = [row for row in rows[1:] if row[2] == "of a copy" and row[1] < 0.5]
        assert not slow, f"far from what memory allows: {slow}"
