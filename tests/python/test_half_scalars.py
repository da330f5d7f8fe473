"""Numbers beside tensors of 16-bit floats: where PyTorch keeps 32 bits of the number, and where it rounds it first."""

import numpy as np
import pytest

import torsh

S = 0.1234567
DTYPES = ["float16", "bfloat16"]
MODES = [lambda f: f, torsh.compile]
IDS = ["lazy", "compiled"]

# Computed with the number in 32 bits, and rounded once.
KEPT = {
    "mul": lambda x, s: x * s,
    "mul, number first": lambda x, s: s * x,
    "div": lambda x, s: x / s,
    "div, number first": lambda x, s: s / x,
    "floor_divide": lambda x, s: x // s,
}
# Computed with the number rounded to the tensor's type.
ROUNDED = {
    "add": lambda x, s: x + s,
    "sub": lambda x, s: x - s,
    "sub, number first": lambda x, s: s - x,
    "lt": lambda x, s: x < s,
    "eq": lambda x, s: x == s,
    "ge": lambda x, s: x >= s,
}


def to_half(values, dtype):
    """float32 values rounded to a 16-bit type and back."""
    values = np.asarray(values, dtype=np.float32)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


def inputs(dtype):
    values = np.random.default_rng(5).standard_normal(2000).astype(np.float32) * 2
    values[:3] = S, -S, 1.0
    values = to_half(values, dtype)
    return values, torsh.tensor(values).to(getattr(torsh, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrap", MODES, ids=IDS)
@pytest.mark.parametrize("name", [*KEPT, *ROUNDED])
def test_against_float32(name, dtype, wrap):
    values, x = inputs(dtype)
    f = KEPT.get(name) or ROUNDED[name]
    s = np.float32(S) if name in KEPT else to_half([S], dtype)[0]
    want = f(values, s)
    got = wrap(lambda x: f(x, S))(x)
    if want.dtype == np.bool_:
        assert got.dtype == torsh.bool and (got.numpy() == want).all()
        return
    assert got.dtype == getattr(torsh, dtype)
    np.testing.assert_array_equal(got.float().numpy(), to_half(want, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrap", MODES, ids=IDS)
def test_a_number_that_is_an_argument_and_a_0d_tensor(dtype, wrap):
    values, x = inputs(dtype)
    kept = to_half(values * np.float32(S), dtype)
    rounded = to_half(values * to_half([S], dtype)[0], dtype)
    assert (kept != rounded).any()
    f = wrap(lambda x, s: x * s)
    for number in (S, torsh.tensor(S), torsh.tensor(S, dtype=torsh.float64)):
        np.testing.assert_array_equal(f(x, number).float().numpy(), kept)
    for tensor in (torsh.tensor(S).to(x.dtype), torsh.tensor([S]).to(x.dtype)):
        np.testing.assert_array_equal(f(x, tensor).float().numpy(), rounded)
    np.testing.assert_array_equal(f(torsh.tensor(S), x).float().numpy(), rounded)
    y = x.clone()
    y.mul_(S)
    np.testing.assert_array_equal(y.float().numpy(), kept)


@pytest.mark.parametrize("wrap", MODES, ids=IDS)
def test_numbers_beyond_the_type_do_not_overflow_early(wrap):
    x = torsh.tensor([1e-3, 1.0, 0.0]).half()
    small = np.float32(np.float16(1e-3))
    assert wrap(lambda x: x * 1e6)(x).tolist() == [float(np.float16(small * np.float32(1e6))), float("inf"), 0.0]
    assert wrap(lambda x: x * 100_003)(x).tolist()[0] == float(np.float16(small * np.float32(100_003)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrap", MODES, ids=IDS)
def test_gradients_keep_the_number_too(dtype, wrap):
    values, x = inputs(dtype)
    x.requires_grad_(True)

    def f(x):
        (x * S).sum().backward()
        (x / 3.0).sum().backward()

    wrap(f)(x)
    once = to_half([S], dtype)[0], to_half([np.float32(1.0) / np.float32(3.0)], dtype)[0]
    np.testing.assert_array_equal(x.grad.float().numpy(), np.full_like(values, to_half([once[0] + once[1]], dtype)[0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrap", MODES, ids=IDS)
def test_against_torch(dtype, wrap):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    values, x = inputs(dtype)
    functions = {
        **KEPT,
        **ROUNDED,
        "where": lambda x, s: T.where(x > 0, x, s),
        "clamp": lambda x, s: x.clamp(-s, s),
        "masked_fill": lambda x, s: x.masked_fill(x > 0, s),
        "leaky_relu": lambda x, s: T.nn.functional.leaky_relu(x, s),
        "0-d": lambda x, s: x * T.tensor(s),
        "0-d first": lambda x, s: T.tensor(s) * x,
    }
    # PyTorch divides a number by a tensor in two steps, and rounds twice.
    del functions["div, number first"]
    for name, f in functions.items():
        T = torch
        want = f(torch.tensor(values).to(getattr(torch, dtype)), S)
        T = torsh
        got = wrap(lambda x, f=f: f(x, S))(x)
        assert str(got.dtype).split(".")[-1] == str(want.dtype).split(".")[-1], name
        np.testing.assert_array_equal(got.float().numpy(), want.float().numpy(), err_msg=name)


def widened(name, x, y, z):
    """What PyTorch's kernels compute in float32."""
    f = np.float32
    return {
        "addcmul": lambda: x + f(0.3) * y * z,
        "addcdiv": lambda: x + f(0.3) * y / z,
        "addcmul, no value": lambda: x + y * z,
        "lerp": lambda: x + f(0.3) * (y - x),
        "lerp, far": lambda: y - (y - x) * (f(1.0) - f(0.7)),
        "lerp, tensor": lambda: np.where(np.abs(z) < 0.5, x + z * (y - x), y - (y - x) * (f(1) - z)),
    }[name]()


COMPOSITES = {
    "addcmul": lambda x, y, z: torsh.addcmul(x, y, z, value=0.3),
    "addcdiv": lambda x, y, z: torsh.addcdiv(x, y, z, value=0.3),
    "addcmul, no value": lambda x, y, z: x.addcmul(y, z),
    "lerp": lambda x, y, z: torsh.lerp(x, y, 0.3),
    "lerp, far": lambda x, y, z: torsh.lerp(x, y, 0.7),
    "lerp, tensor": lambda x, y, z: torsh.lerp(x, y, z),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrap", MODES, ids=IDS)
@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_are_rounded_once(name, dtype, wrap):
    values = [to_half(np.random.default_rng(k).standard_normal(3000).astype(np.float32), dtype) for k in range(3)]
    tensors = [torsh.tensor(v).to(getattr(torsh, dtype)) for v in values]
    got = wrap(COMPOSITES[name])(*tensors)
    assert got.dtype == getattr(torsh, dtype)
    np.testing.assert_array_equal(got.float().numpy(), to_half(widened(name, *values), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaled_sums_of_products_are_rounded_after_the_product_and_at_the_end(dtype):
    rng = np.random.default_rng(3)
    a, b, c = (to_half(rng.standard_normal(s).astype(np.float32), dtype) for s in ((9, 7), (7, 5), (9, 5)))
    half = [torsh.tensor(v).to(getattr(torsh, dtype)) for v in (a, b, c)]
    product = (half[0] @ half[1]).float().numpy()
    want = to_half(c * np.float32(0.7) + product * np.float32(0.3), dtype)
    got = torsh.addmm(half[2], half[0], half[1], beta=0.7, alpha=0.3)
    np.testing.assert_array_equal(got.float().numpy(), want)
    batched = torsh.baddbmm(*(t.unsqueeze(0) for t in (half[2], half[0], half[1])), beta=0.7, alpha=0.3)
    np.testing.assert_array_equal(batched[0].float().numpy(), want)
    vector = torsh.addmv(half[2][:, 0], half[0], half[1][:, 0], beta=0.7, alpha=0.3)
    product = (half[0] @ half[1][:, 0]).float().numpy()
    want = to_half(c[:, 0] * np.float32(0.7) + product * np.float32(0.3), dtype)
    np.testing.assert_array_equal(vector.float().numpy(), want)
