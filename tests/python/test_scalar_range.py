"""Python numbers that an integer dtype does not hold: refused where they would be stored and in arithmetic (as in
NumPy; PyTorch wraps), and compared as they are."""

from __future__ import annotations

import pytest

import torsh
from torsh.nn import functional as F

U = MASK = FIRST = None


@pytest.fixture(autouse=True)
def _tensors(_fresh_seed):
    """Made for each test, on its device."""
    global U, MASK, FIRST
    U = torsh.tensor([5, 250], dtype=torsh.uint8)
    MASK, FIRST = torsh.tensor([True, False]), torsh.tensor([0])


def WHERE(v):  # noqa: N802
    return torsh.where(MASK, U, v)


@pytest.mark.parametrize(
    "call",
    [
        lambda v: torsh.full((2,), v, dtype=torsh.uint8),
        lambda v: torsh.tensor(v, dtype=torsh.uint8),
        lambda v: torsh.tensor([1, v], dtype=torsh.uint8),
        WHERE,
        lambda v: U.masked_fill(MASK, v),
        lambda v: U.clone().fill_(v),
        lambda v: U.clone().__setitem__(0, v),
        lambda v: U.clone().__setitem__(MASK, v),
        lambda v: U.clone().__setitem__(FIRST, v),
        lambda v: U.scatter(0, FIRST, v),
        lambda v: U.index_fill(0, FIRST, v),
        lambda v: F.pad(U, (1, 1), value=v),
        lambda v: U.new_full((2,), v),
        lambda v: torsh.full_like(U, v),
    ],
)
@pytest.mark.parametrize("value", [256, 300, -1, 300.5, float("nan"), float("inf")])
def test_stored_numbers_must_fit(call, value):
    if type(value) is float and call is WHERE:
        # The float decides on the dtype of the result, which is stored nowhere.
        assert call(value).dtype == torsh.float32
        return
    with pytest.raises(RuntimeError, match="cannot be converted to type uint8 without overflow"):
        call(value)
    assert U.tolist() == [5, 250]


@pytest.mark.parametrize("value", [1e30, -1e30, float("nan"), 1e3])
def test_stored_floats_must_fit(value):
    x = torsh.tensor([1], dtype=torsh.int8)
    with pytest.raises(RuntimeError, match="cannot be converted to type i?int8"):
        x.fill_(value)
    assert x.tolist() == [1]
    assert x.fill_(-3.7).tolist() == [-3]


STORES = {
    "tensor": lambda v, dtype: torsh.tensor(v, dtype=dtype),
    "nested": lambda v, dtype: torsh.tensor([v], dtype=dtype)[0],
    "full": lambda v, dtype: torsh.full((), v, dtype=dtype),
    "fill_": lambda v, dtype: torsh.zeros((), dtype=dtype).fill_(v),
    "masked_fill": lambda v, dtype: torsh.zeros((), dtype=dtype).masked_fill(torsh.tensor(True), v),
    "setitem": lambda v, dtype: written(torsh.zeros(1, dtype=dtype), v),
}


def written(x, v):
    x[0] = v
    return x[0]


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize(
    "value, dtype, want",
    [
        (2.0**63, "int64", None),
        (2.0**63 - 1024, "int64", 2**63 - 1024),
        (-(2.0**63), "int64", -(2**63)),
        (-(2.0**63) - 2048, "int64", None),
        (-0.5, "uint8", None),
        (-0.0, "uint8", 0),
        (255.5, "uint8", 255),
        (-128.5, "int8", None),
        (-127.5, "int8", -127),
        (127.5, "int8", 127),
    ],
)
def test_floats_next_to_the_ends(store, value, dtype, want):
    """A fraction is lost above the largest value, and refused below the smallest, as in PyTorch."""
    dtype = getattr(torsh, dtype)
    if want is None:
        with pytest.raises(RuntimeError, match="without overflow"):
            store(value, dtype)
    else:
        assert store(value, dtype).item() == want


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_the_ends_of_each_dtype_fit(dtype):
    info = torsh.iinfo(getattr(torsh, dtype))
    x = torsh.zeros(2, dtype=getattr(torsh, dtype))
    x[0], x[1] = info.min, info.max
    assert x.tolist() == [info.min, info.max]


@pytest.mark.parametrize("value", [256, 300, -300])
@pytest.mark.parametrize(
    "call",
    [
        lambda v: U + v,
        lambda v: v + U,
        lambda v: U - v,
        lambda v: v - U,
        lambda v: U * v,
        lambda v: U // v,
        lambda v: v % U,
        lambda v: U & v,
        lambda v: U | v,
        lambda v: U << v,
        lambda v: U**v,
        lambda v: torsh.remainder(U, v),
        lambda v: torsh.add(U, U, alpha=v),
        lambda v: torsh.sub(U, U, alpha=v),
        lambda v: torsh.add(U, v, alpha=1),
        lambda v: torsh.add(U, 1, alpha=v),
        lambda v: U.clone().add_(v),
        lambda v: U.clone().mul_(v),
        lambda v: torsh.addcmul(U, U, U, value=v),
    ],
)
def test_numbers_in_arithmetic_must_fit(call, value):
    for f in (call, torsh.compile(call)):
        with pytest.raises(RuntimeError, match="(cannot be converted to type uint8|negative integer powers)"):
            f(value)
    assert U.tolist() == [5, 250]


def test_results_of_arithmetic_wrap():
    assert (U + 10).tolist() == [15, 4] and (U * 2).tolist() == [10, 244] and (U - 6).tolist() == [255, 244]
    assert (torsh.tensor([5], dtype=torsh.int8) + 127).tolist() == [-124]
    # A number of a higher kind decides on the dtype, and so does a tensor.
    assert (U * 300.0).dtype == torsh.float32 and (torsh.tensor([True]) * 300).tolist() == [300]
    assert (U + torsh.tensor([300])).tolist() == [305, 550]
    assert (torsh.tensor([1]) + 2**40).tolist() == [2**40 + 1]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_scaled_number_wraps_like_a_scaled_tensor(compiled):
    run = torsh.compile if compiled else (lambda f: f)
    assert run(lambda x: x.add(1, alpha=-1))(U).tolist() == [4, 249]
    assert run(lambda x: x.sub(1, alpha=-1))(U).tolist() == [6, 251]
    # As PyTorch: 3 * 200 is 88 modulo 256, and so is 3 * -56.
    assert run(lambda x: x.add(3, alpha=200))(U).tolist() == [93, 82]
    assert run(lambda x: x.sub(3, alpha=-56))(U).tolist() == run(lambda x: x.sub(3, alpha=200))(U).tolist()
    assert run(lambda x: x.clone().add_(3, alpha=200))(U).tolist() == [93, 82]
    assert run(lambda x: x.add(100, alpha=100))(torsh.tensor([1], dtype=torsh.int8)).tolist() == [17]
    assert run(lambda x: x.add(1.5, alpha=2.5))(U).tolist() == [8.75, 253.75]


@pytest.mark.parametrize("alpha", [2.5, 1.0, True, False])
@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_scales_of_integers_are_integers(alpha, dtype):
    x = torsh.tensor([5, 6], dtype=getattr(torsh, dtype))
    for call in (
        lambda: x.add(x, alpha=alpha),
        lambda: torsh.sub(x, 1, alpha=alpha),
        lambda: torsh.rsub(x, 1, alpha=alpha),
        lambda: x.add_(1, alpha=alpha),
    ):
        with pytest.raises(RuntimeError, match="alpha"):
            call()
    assert x.tolist() == [5, 6]
    assert torsh.add(x, torsh.ones(2), alpha=2.5).tolist() == [7.5, 8.5]


def test_bounds_saturate():
    for bound in (7, torsh.tensor([7, 7], dtype=torsh.uint8)):
        assert torsh.clamp(U, min=-1, max=bound).tolist() == [5, 7]
        assert torsh.clamp(U, min=bound, max=300).tolist() == [7, 250]


def test_comparisons_do_not_wrap():
    for dtype in (torsh.uint8, torsh.int8):
        x = torsh.tensor([5, 50, 100], dtype=dtype)
        assert (x > 300).tolist() == [False] * 3 and (x < 300).tolist() == [True] * 3
        assert (x == 261).tolist() == [False] * 3 and (x != 261).tolist() == [True] * 3
        assert (x > -200).tolist() == [True] * 3 and (300 > x).tolist() == [True] * 3
    assert (torsh.tensor([3], dtype=torsh.int32) < 2**40).tolist() == [True]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int64", "uint8", "bool"])
def test_bools_are_not_subtracted(dtype):
    x = torsh.ones(2).to(getattr(torsh, dtype))
    for call in (lambda: x - True, lambda: True - x, lambda: x - torsh.tensor([True, False]), lambda: x.sub(True)):
        with pytest.raises(TypeError, match="bool tensor is not supported"):
            call()
    if dtype != "bool":
        assert (x + True).tolist() == [2] * 2 and (x - 1).tolist() == [0] * 2
