"""`//`, `%` and `divmod` of floats are Python's, in every dtype, lazily and compiled."""

from __future__ import annotations

import math

import numpy as np
import pytest

import torsh

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.1, -0.1, 0.5, 2.0, 3.0, -5.0, 1e-40, 1e30, -1e30, math.inf, -math.inf, math.nan]


def python_floor(a: float, b: float, one=np.float64) -> float:
    """CPython's algorithm, each step rounded to the type `one`; division by zero is IEEE's."""
    with np.errstate(all="ignore"):
        a, b = one(a), one(b)
        if b == 0:
            return one(a / b)
        mod = np.fmod(a, b)
        div = one(one(a - mod) / b)
        if mod != 0 and (mod < 0) != (b < 0):
            div = one(div - one(1))
        if div == 0:
            return np.copysign(one(0), one(a / b))
        floor = np.floor(div)
        return one(floor + one(1)) if div - floor > 0.5 else floor


def same(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert np.array_equal(got, want, equal_nan=True), (got, want)
    number = ~np.isnan(want)
    assert np.array_equal(np.signbit(got)[number], np.signbit(want)[number]), (got, want)


def test_the_algorithm_of_the_test_is_pythons():
    for a in SPECIAL:
        for b in SPECIAL:
            if b != 0:
                same(python_floor(a, b), a // b)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("dtype", "one"), [("float32", np.float32), ("float64", np.float64)])
def test_floor_division(dtype, one, compiled, rng):
    a, b = (g.ravel() for g in np.meshgrid(np.array(SPECIAL, one), np.array(SPECIAL, one)))
    tenths = (rng.integers(-300, 300, 4000) / 10).astype(one), (rng.integers(-30, 30, 4000) / 10).astype(one)
    wide = one(10.0) ** rng.uniform(-30, 30, (2, 4000)).astype(one) * rng.choice([-1, 1], (2, 4000)).astype(one)
    a, b = np.concatenate([a, tenths[0], wide[0]]), np.concatenate([b, tenths[1], wide[1]])
    want = [python_floor(x, y, one) for x, y in zip(a, b, strict=True)]
    x, y = torsh.tensor(a), torsh.tensor(b)
    forms = [
        lambda x, y: x // y,
        lambda x, y: torsh.div(x, y, rounding_mode="floor"),
        torsh.floor_divide,
        # In a longer line, and with a transposed operand.
        lambda x, y: ((x + 0.0) // (y * 1.0)) * 1.0 if compiled else x // y,
        lambda x, y: (x.reshape(2, -1).t() // y.reshape(2, -1).t()).t().reshape(-1),
    ]
    for k, form in enumerate(forms):
        got = (torsh.compile(form) if compiled else form)(x, y).numpy()
        if k == 3 and compiled:
            # Adding 0 drops the sign of a zero.
            np.testing.assert_array_equal(got, np.asarray(want, one))
        else:
            same(got, np.asarray(want, one))


def test_known_quotients():
    assert (torsh.tensor(1.0, dtype=torsh.float64) // 0.1).item() == 9.0
    assert (torsh.tensor(1.0, dtype=torsh.float64) % 0.1).item() == 1.0 % 0.1
    assert math.isnan((torsh.tensor(math.inf) // 2).item())
    assert (torsh.tensor(-5.0) // math.inf).item() == -1.0
    assert math.isnan((torsh.tensor(math.inf) // 1).item())
    assert (-7 // torsh.tensor([2, -2])).tolist() == [-4, 3] and (torsh.tensor([7]) // 0).tolist() == [0]


def test_quotient_and_remainder_fit():
    a = torsh.linspace(-30.0, 30.0, 601, dtype=torsh.float64)
    for b in (0.1, 0.3, -0.7, 1.1, 2.0):
        q, r = a // b, a % b
        np.testing.assert_allclose((q * b + r).numpy(), a.numpy(), atol=1e-12)
        assert ((r / b >= 0) & (r / b <= 1)).all().item()
        same(q.numpy(), [x // b for x in a.tolist()])
        np.testing.assert_array_equal(r.numpy(), [x % b for x in a.tolist()])


def test_half_precision_rounds_once():
    for dtype in (torsh.float16, torsh.bfloat16):
        a = torsh.tensor([1.0, 300.0, -7.5, 2.9990234375, math.inf, 6.0], dtype=dtype)
        b = torsh.tensor([0.1, 0.7, 2.0, 1.0, 1.0, 2.0], dtype=dtype)
        wide = [python_floor(x, y, np.float32) for x, y in zip(a.float().tolist(), b.float().tolist(), strict=True)]
        same((a // b).float().numpy(), torsh.tensor(wide).to(dtype).float().numpy())


def test_gradient_of_the_remainder_agrees_with_the_quotient():
    a = torsh.tensor([1.0, -1.0], dtype=torsh.float64)
    b = torsh.tensor([0.1, 0.1], dtype=torsh.float64, requires_grad=True)
    (a % b).sum().backward()
    assert b.grad.tolist() == [-9.0, 10.0]
