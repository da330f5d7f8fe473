"""What an export with dims says of numbers that no expression gives: what was found, and what was expected."""

from __future__ import annotations

import re
import types

import pytest

import torsh
from torsh import Dim, _dynamic


@pytest.mark.parametrize("power, modulus", [(2, 7), (3, 7), (2, 5)])
@pytest.mark.parametrize("low", [2, 40])
def test_values_that_differ_are_shown(tmp_path, power, modulus, low):
    def f(x):
        return x * (x.shape[0] ** power % modulus)

    with pytest.raises(torsh.ExportError) as e:
        torsh.export(f, (torsh.ones(low + 1),), tmp_path / "a.torsh", dynamic=({0: Dim("n", min=low, max=500)},))
    shown = [(int(value), int(n)) for value, n in re.findall(r"(\d+) at n=(\d+)", str(e.value))]
    assert all(value == n**power % modulus for value, n in shown)
    # As many values as there are, up to five; each size once, in order.
    assert len({value for value, _ in shown}) >= 3 and len(shown) == 5
    assert [n for _, n in shown] == sorted({n for _, n in shown})
    assert "where a sum or product of sizes, a quotient of them by up to 64" in str(e.value)


def test_a_line_as_usual_that_should_be_another():
    """Both programs have the same line, but the template has another one at these sizes."""

    def trace(n, line):
        graph = types.SimpleNamespace(lines=f'{line} @ "model.py":7')
        return _dynamic.Trace((n,), {}, [graph], [], [[line]])

    line, expected = ("  %1: f32[] = full(value=0.5)", "  %1: f32[] = full(value=0.25)")
    family = object.__new__(_dynamic._Family)
    family.names = ["n"]
    with pytest.raises(torsh.ExportError) as e:
        family.refuse(trace(5, line), trace(9, line), [([expected], [line])])
    text = str(e.value)
    assert "at n=9" in text and "model.py:7" in text
    assert f"`{line.strip()}`, where `{expected.strip()}` was expected" in text
