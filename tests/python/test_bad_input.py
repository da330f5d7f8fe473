"""Wrong calls get the right class of error, with facts, and leave torsh usable."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import torsh
from torsh import nn
from torsh.nn import functional as F


def cyclic():
    a = []
    a.append(a)
    return a


def deep(n):
    x = 1.0
    for _ in range(n):
        x = [x]
    return x


T = torsh.ones
CASES = [
    (lambda: torsh.tensor([[1, 2], [3]]), ValueError, "length 2 at dim 1"),
    (lambda: torsh.tensor([1, [2]]), ValueError, None),
    (lambda: torsh.tensor(cyclic()), ValueError, "cyclic"),
    (lambda: torsh.tensor(deep(100)), ValueError, "64"),
    (lambda: torsh.tensor("abc"), TypeError, "str"),
    (lambda: torsh.tensor({"a": 1}), TypeError, "dict"),
    (lambda: torsh.tensor(object()), TypeError, "object"),
    (lambda: torsh.tensor(None), TypeError, "NoneType"),
    (lambda: torsh.tensor(1j), TypeError, "complex"),
    (lambda: torsh.tensor(2**70), (OverflowError, ValueError, RuntimeError), None),
    (
        lambda: torsh.tensor([float("nan")], dtype=torsh.int64),
        RuntimeError,
        "value nan cannot be converted to type int64",
    ),
    (lambda: torsh.tensor(np.array(["a"])), TypeError, None),
    (lambda: torsh.tensor(np.zeros(2, np.complex64)), TypeError, "complex"),
    (lambda: torsh.tensor([1], dtype="float99"), ValueError, "Unknown dtype: float99"),
    (lambda: torsh.tensor([1], dtype=7), TypeError, None),
    (lambda: torsh.tensor([1], requires_grad=True), RuntimeError, None),
    (lambda: torsh.zeros(-1), ValueError, "-1"),
    (lambda: torsh.zeros(2**62), MemoryError, None),
    (lambda: torsh.zeros(2**32, 2**32), MemoryError, None),
    (
        lambda: torsh.zeros(2**31, 2**31, 0).sum().item() + torsh.zeros(2**63),
        (MemoryError, OverflowError, ValueError, TypeError),
        None,
    ),
    (lambda: torsh.zeros(1.5), TypeError, "float"),
    (lambda: torsh.zeros("a"), TypeError, "str"),
    (lambda: torsh.ones(1).expand(2**40, 2**20).sum().item(), MemoryError, None),
    (lambda: T(2, 3) + T(4), ValueError, "broadcast"),
    (lambda: T(2) + "x", TypeError, None),
    (lambda: T(2) + None, TypeError, None),
    (lambda: T(2) + [1, 2], TypeError, None),
    (lambda: torsh.exp("x"), TypeError, None),
    (lambda: torsh.exp(), TypeError, None),
    (lambda: T(2, 3) @ T(2, 3), ValueError, None),
    (lambda: torsh.matmul(T(2), torsh.tensor(1.0)), (ValueError, RuntimeError), None),
    (lambda: torsh.mm(T(2), T(2)), ValueError, None),
    (lambda: torsh.bmm(T(2, 2, 2), T(3, 2, 2)), ValueError, None),
    (lambda: T(2, 3).sum(5), IndexError, "[-2, 1]"),
    (lambda: T(2, 3).sum([0, 0]), RuntimeError, "multiple times"),
    (lambda: T(2, 3).sum("a"), TypeError, None),
    (lambda: T(2, 3).sum(1.0), TypeError, None),
    (lambda: T(2, 3).permute(0, 0), RuntimeError, None),
    (lambda: T(2, 3).permute(0), ValueError, None),
    (lambda: T(2, 3).reshape(4, 2), ValueError, "invalid"),
    (lambda: T(2, 3).reshape(-1, -1), ValueError, "one dimension"),
    (lambda: T(0).reshape(-1, 0), ValueError, "ambiguous"),
    (lambda: T(2, 3).expand(4, 3), ValueError, None),
    (lambda: T(2).squeeze(3), IndexError, None),
    (lambda: T(3).narrow(0, 2, 2), RuntimeError, "exceeds"),
    (lambda: T(3).split(0), RuntimeError, None),
    (lambda: torsh.cat([]), RuntimeError, "non-empty"),
    (lambda: torsh.cat([T(2), T(2, 2)]), ValueError, None),
    (lambda: torsh.cat(T(2)), TypeError, None),
    (lambda: torsh.stack([T(2), T(3)]), ValueError, None),
    (lambda: T(3)[3], IndexError, None),
    (lambda: T(3)[1, 1], IndexError, None),
    (lambda: T(3)[::-1], ValueError, None),
    (lambda: T(3)["a"], (TypeError, IndexError), None),
    (lambda: T(3)[1.5], (TypeError, IndexError), None),
    (lambda: T(3)[torsh.tensor([0.5])], (TypeError, IndexError), None),
    (lambda: T(3)[torsh.tensor([True, False])], IndexError, None),
    (lambda: T(3).gather(0, torsh.tensor([7])).numpy(), IndexError, "7"),
    (lambda: T(3).gather(0, torsh.tensor([[0]])), ValueError, None),
    (lambda: T(3).gather(0, T(1)), TypeError, "int64"),
    (lambda: T(3).index_select(0, torsh.tensor([-7])).numpy(), IndexError, None),
    (lambda: torsh.arange(0, 1, 0), ValueError, "nonzero"),
    (lambda: torsh.arange(float("nan")), ValueError, None),
    (lambda: torsh.linspace(0, 1, -1), ValueError, None),
    (lambda: torsh.randint(5, 5, (1,)), RuntimeError, None),
    (lambda: T(3).topk(4), RuntimeError, "k=4"),
    (lambda: T(2).item(), (RuntimeError, ValueError), None),
    (lambda: bool(T(2)), RuntimeError, "ambiguous"),
    (lambda: int(T(2)), (RuntimeError, ValueError, TypeError), None),
    (lambda: torsh.tensor([1]).mean(), TypeError, "float"),
    (lambda: torsh.tensor([1]).softmax(0), TypeError, None),
    (lambda: T(2).backward(), RuntimeError, None),
    (lambda: T(2, requires_grad=True).backward(), RuntimeError, "scalar"),
    (lambda: T(2, requires_grad=True).add_(1), RuntimeError, "leaf"),
    (lambda: torsh.tensor([1]).requires_grad_(), RuntimeError, None),
    (lambda: torsh.autograd.grad(T(1, requires_grad=True).sum(), T(1, requires_grad=True)), RuntimeError, None),
    (lambda: nn.Linear(3, 2)(T(4)), ValueError, "does not fit"),
    (lambda: nn.Linear(-1, 2), ValueError, None),
    (lambda: F.cross_entropy(T(2, 3), torsh.tensor([0])), ValueError, None),
    (lambda: F.cross_entropy(T(2, 3), torsh.tensor([0, 3])).item(), IndexError, None),
    (lambda: F.layer_norm(T(2, 3), (4,)), ValueError, None),
    (lambda: F.dropout(T(2), 1.5), ValueError, None),
    (lambda: F.one_hot(torsh.tensor([-1]), 0), RuntimeError, None),
    (lambda: torsh.PyDevice("gpu"), ValueError, "Unknown device: gpu"),
    (lambda: torsh.PyDevice("cuda:x"), ValueError, "Invalid CUDA device ID: x"),
    (lambda: torsh.PyDevice("cuda:-1"), ValueError, "Invalid CUDA device ID: -1"),
    (lambda: torsh.PyDevice(""), ValueError, "Unknown device"),
    (lambda: torsh.PyDType("floaty"), ValueError, "Unknown dtype: floaty"),
    (lambda: torsh.ones(2, device="cuda:63"), torsh.DeviceError, None),
    (lambda: T(2).to("cuda:63"), RuntimeError, None),
    (lambda: torsh.limits.set(nonsense=1), TypeError, "nonsense"),
    (lambda: torsh.limits.set(max_rank=-1), ValueError, None),
    (lambda: torsh.set_num_threads(0), RuntimeError, None),
    (lambda: torsh.compile(3), TypeError, None),
    (lambda: T(3).tensor_split(2**62), MemoryError, "pieces"),
    (lambda: torsh.zeros(0).chunk(2**62), MemoryError, "pieces"),
    (lambda: T(1).expand(2**21).unbind(), MemoryError, "pieces"),
    (lambda: list(T(1).expand(2**21)), MemoryError, "max_nodes"),
    (lambda: T(1).expand(2**21).split(1), MemoryError, "pieces"),
    (lambda: torsh.einsum("ij,jk", T(2, 3)), ValueError, None),
    (lambda: torsh.full((2,), 300, dtype=torsh.uint8), RuntimeError, "overflow"),
    (lambda: torsh.zeros(2, dtype=torsh.int8).fill_(1000), RuntimeError, "overflow"),
    (lambda: torsh.einsum("ij->z", T(2, 3)), ValueError, None),
]


@pytest.mark.parametrize("k", range(len(CASES)))
def test_bad_call(k):
    call, kind, text = CASES[k]
    with pytest.raises(kind) as info:
        call()
    assert not isinstance(info.value, torsh.InternalError)
    if text:
        assert text in str(info.value), str(info.value)
    # The traceback ends in the caller's own file or goes no deeper than torsh's Python.
    assert (torsh.ones(2) + 1).tolist() == [2.0, 2.0]


def test_error_carries_facts():
    with pytest.raises(torsh.ShapeError) as info:
        torsh.ones(2, 3) + torsh.ones(4)
    e = info.value
    assert e.op == "add"
    assert [tuple(s) for s in e.shapes] == [(2, 3), (4,)]
    assert e.dtypes == (torsh.float32, torsh.float32)
    assert isinstance(e, ValueError) and isinstance(e, torsh.TorshError)


def test_late_error_names_the_users_line():
    x = torsh.ones(3)
    y = torsh.index_select(x, 0, torsh.tensor([9]))
    line = sys._getframe().f_lineno - 1
    z = y + 1
    with pytest.raises(IndexError) as info:
        z.numpy()
    assert f"test_bad_input.py:{line}" in str(info.value)


def test_limits():
    with torsh.limits.override(max_tensor_bytes=1000):
        with pytest.raises(torsh.LimitError) as info:
            (torsh.zeros(10_000) + 1).sum().item()
        assert "1000" in str(info.value) and isinstance(info.value, MemoryError)
    with torsh.limits.override(max_rank=2), pytest.raises(torsh.LimitError):
        torsh.zeros(1, 1, 1).numpy()
    assert torsh.zeros(10_000).sum().item() == 0


def test_devices_and_dtypes():
    d = torsh.PyDevice("cuda:1")
    assert (d.type, d.index, d.name) == ("cuda", 1, "cuda:1")
    assert torsh.PyDevice("cpu") == torsh.device("cpu") and hash(torsh.device("cpu")) == hash(torsh.device("cpu"))
    assert torsh.PyDevice("metal").type == "metal"
    for long, short, size, is_float in [
        ("bool", "bool", 1, False), ("uint8", "u8", 1, False), ("int8", "i8", 1, False), ("int16", "i16", 2, False),
        ("int32", "i32", 4, False), ("int64", "i64", 8, False), ("float16", "f16", 2, True), ("bfloat16", "bf16", 2,
        True), ("float32", "f32", 4, True), ("float64", "f64", 8, True),
    ]:  # fmt: skip
        t = torsh.PyDType(long)
        assert t == torsh.PyDType(short) == getattr(torsh, long)
        assert (t.name, t.itemsize, t.is_floating_point) == (long, size, is_float)
        assert hash(t) == hash(torsh.dtype(short))
    with pytest.raises(torsh.DeviceError):
        torsh.tensor([1.0]).to("cuda:63")
    assert torsh.ones(1, device="cpu").device == torsh.device("cpu") and torsh.ones(1).dtype == torsh.float32


def test_long_chain_does_not_overflow():
    x = torsh.ones(1, requires_grad=True)
    y = x
    for _ in range(20_000):
        y = y + 1.0
    y.sum().backward()
    assert x.grad.item() == 1.0 and y.item() == 20_001.0
