"""Arrays to and from other libraries through DLPack, by copy."""

from __future__ import annotations

import numpy as np
import pytest

import torsh
from torsh.utils import dlpack

pytestmark = pytest.mark.host_only("DLPack exchanges memory of the host")

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_both_ways(dtype):
    a = (np.arange(24).reshape(2, 3, 4) % 3).astype(dtype)
    x = torsh.from_dlpack(a)
    assert x.dtype == getattr(torsh, dtype) and x.shape == (2, 3, 4)
    np.testing.assert_array_equal(x.numpy(), a)
    back = np.from_dlpack(x)
    assert back.dtype == a.dtype
    np.testing.assert_array_equal(back, a)


@pytest.mark.parametrize(
    "view",
    [lambda a: a.T, lambda a: a[::2, 1:], lambda a: a[:, ::-1], lambda a: a[:0], lambda a: a[1, 2], lambda a: a[None]],
)
def test_strides(view):
    a = view(np.arange(20.0).reshape(4, 5))
    if not isinstance(a, np.ndarray):
        a = np.asarray(a)
    np.testing.assert_array_equal(torsh.from_dlpack(a).numpy(), a)


def test_copies_are_independent():
    a = np.zeros(3, np.float32)
    x = torsh.from_dlpack(a)
    a[0] = 5.0
    assert x.tolist() == [0.0, 0.0, 0.0]
    b = torsh.from_dlpack(x)
    x += 1
    assert b.tolist() == [0.0, 0.0, 0.0] and x.tolist() == [1.0, 1.0, 1.0]


def test_pending_values_and_bfloat16():
    x = torsh.ones(2, dtype=torsh.bfloat16) * 3
    y = dlpack.from_dlpack(dlpack.to_dlpack(x))
    assert y.dtype == torsh.bfloat16 and y.tolist() == [3.0, 3.0]
    assert torsh.from_dlpack(np.ones(1), device="cpu", copy=True).tolist() == [1.0]


def test_refusals():
    capsule = torsh.ones(2).__dlpack__()
    assert torsh.from_dlpack(capsule).tolist() == [1.0, 1.0]
    for bad in (capsule, 3, [1.0], None, np.zeros(2, np.complex64)):
        with pytest.raises(TypeError, match="from_dlpack"):
            torsh.from_dlpack(bad)
    with pytest.raises(BufferError, match="copies only"):
        torsh.from_dlpack(np.ones(1), copy=False)
    with pytest.raises(TypeError, match="Tensor"):
        dlpack.to_dlpack(np.ones(1))


def test_tensors_that_require_grad_are_not_exported():
    x = torsh.ones(2, requires_grad=True)
    for t in (x, x * 2, torsh.nn.Linear(2, 2).weight):
        for export in (np.from_dlpack, torsh.from_dlpack, dlpack.to_dlpack, lambda t: t.__dlpack__()):
            with pytest.raises(BufferError, match="require gradient"):
                export(t)
    with torsh.no_grad(), pytest.raises(BufferError, match="require gradient"):
        np.from_dlpack(x)
    assert np.from_dlpack((x * 2).detach()).tolist() == [2.0, 2.0]
