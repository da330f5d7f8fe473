"""`add`, `sub` and `rsub` with `alpha` compute in the dtype of the result, as PyTorch's do."""

import pytest

import torsh

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


def made(value, dtype):
    return torsh.tensor([value], dtype=getattr(torsh, dtype)) if dtype else value


# What PyTorch gives, for floats of 16 bits from its kernels for longer tensors.
CASES = [
    ("add", 0, "int32", 200, "uint8", 2, "int32", 400),
    ("sub", 0, "int32", 200, "uint8", 2, "int32", -400),
    ("rsub", 200, "uint8", 0, "int32", 2, "int32", -400),
    ("add", 0, "int32", 200, "uint8", -3, "int32", -600),
    ("add", 0, "int64", 100, "int8", 100, "int64", 10000),
    ("sub", 200, "uint8", -100, "int8", 2, "int16", 400),
    ("add", 7, "int8", True, "bool", 100, "int8", 107),
    ("add", 1, "uint8", 200, "uint8", 2, "uint8", 145),
    ("add", 0.0, "float32", 60000.0, "float16", 2, "float32", 120000.0),
    ("add", 0.0, "float64", 3, "int64", 0.1, "float64", 3 * 0.1),
    ("add", 0.0, "float64", True, "bool", 0.1, "float64", 0.1),
    ("add", 0.0, "float64", 3.0, "float32", 0.1, "float64", 3 * 0.1),
    ("add", 0.0, "float16", 3, "int64", 0.5, "float16", 1.5),
    ("rsub", 3, "int64", 0.0, "bfloat16", 0.5, "bfloat16", -1.5),
    ("add", 1.0, "bfloat16", 70000, "int32", 3.0, "bfloat16", 210944.0),
    # The product alone is no float16.
    ("sub", 60000.0, "float16", 60000.0, "float16", 2, "float16", -60000.0),
    ("add", 0.25, "float32", 3, None, 0.5, "float32", 1.75),
    ("add", 3, "int64", 0.5, None, 2, "float32", 4.0),
    ("add", 1.0, "float16", 3, None, 0.5, "float16", 2.5),
    ("add", False, "bool", True, "bool", 2, "bool", True),
    ("add", False, "bool", True, "bool", 0, "bool", False),
    ("add", True, "bool", True, None, 2, "bool", True),
    ("add", False, "bool", True, None, 0, "bool", False),
    ("add", False, "bool", True, None, True, "bool", True),
]


@pytest.mark.parametrize("wrap", [lambda f: f, torsh.compile], ids=["lazy", "compiled"])
@pytest.mark.parametrize("fn, a, a_dtype, b, b_dtype, alpha, dtype, want", CASES)
def test_values(fn, a, a_dtype, b, b_dtype, alpha, dtype, want, wrap):
    got = wrap(lambda x, y: getattr(torsh, fn)(x, y, alpha=alpha))(made(a, a_dtype), made(b, b_dtype))
    assert got.dtype == getattr(torsh, dtype)
    assert got.tolist() == [want]


@pytest.mark.parametrize("b", DTYPES)
@pytest.mark.parametrize("a", DTYPES)
@pytest.mark.parametrize("alpha", [0, 2, 5, 0.5])
def test_the_dtype_is_that_without_alpha(a, b, alpha):
    x, y = made(1, a), made(1, b)
    dtype = torsh.result_type(x, y)
    if isinstance(alpha, float) and not dtype.is_floating_point:
        with pytest.raises(RuntimeError, match="alpha must not be a float"):
            torsh.add(x, y, alpha=alpha)
        return
    got = torsh.add(x, y, alpha=alpha)
    assert got.dtype == dtype
    assert got.tolist() == [True if dtype == torsh.bool else 1 + alpha]


def test_a_product_is_not_rounded_to_16_bits():
    """2**-9 + 3 * (1 + 2**-10) is rounded once; the product alone would round to 3 + 2**-8."""
    x, y = made(2.0**-9, "float16"), made(1 + 2.0**-10, "float16")
    assert torsh.add(x, y, alpha=3).tolist() == [3 + 2.0**-8]
    assert torsh.sub(x * 0 + 3, y, alpha=3).tolist() == [-3 * 2.0**-10]


@pytest.mark.parametrize(
    "a, b", [("float32", "float32"), ("float64", "float32"), ("float16", "float16"), ("float32", "bfloat16")]
)
def test_gradients(a, b):
    x, y = made(1.0, a).requires_grad_(), made(2.0, b).requires_grad_()
    torsh.sub(x, y, alpha=0.5).sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (x.dtype, [1.0])
    assert (y.grad.dtype, y.grad.tolist()) == (y.dtype, [-0.5])
