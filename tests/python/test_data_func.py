"""torsh.utils.data and torsh.func."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest

import torsh
from torsh import func
from torsh.utils import data


def numbers(n=10):
    return data.TensorDataset(torsh.arange(n), torsh.arange(n, dtype=torsh.float32) * 2)


def test_batches():
    loader = data.DataLoader(numbers(), batch_size=4)
    got = [(x.tolist(), y.tolist()) for x, y in loader]
    assert [len(x) for x, _ in got] == [4, 4, 2] == [len(y) for _, y in got] and len(loader) == 3
    assert sum((x for x, _ in got), []) == list(range(10))
    assert len(list(data.DataLoader(numbers(), batch_size=4, drop_last=True))) == 2
    assert [x.item() for x, _ in data.DataLoader(numbers(3), batch_size=None)] == [0, 1, 2]


def test_shuffle_follows_the_generator():
    def order(seed):
        g = torsh.Generator().manual_seed(seed)
        return torsh.cat([x for x, _ in data.DataLoader(numbers(), 3, shuffle=True, generator=g)]).tolist()

    assert order(1) == order(1) != order(2) and sorted(order(1)) == list(range(10))
    loader = data.DataLoader(numbers(50), 50, shuffle=True)
    assert next(iter(loader))[0].tolist() != next(iter(loader))[0].tolist()


def test_fast_path_equals_slow_path():
    class Plain(data.Dataset):
        def __init__(self, source):
            self.source = source

        def __getitem__(self, i):
            return self.source[i]

        def __len__(self):
            return len(self.source)

    part = data.Subset(numbers(), [7, 1, 5])
    a = list(data.DataLoader(part, 2))
    b = list(data.DataLoader(Plain(part), 2))
    assert [[t.tolist() for t in x] for x in a] == [[t.tolist() for t in x] for x in b]


def test_samplers_and_iterables():
    s = data.BatchSampler(data.SequentialSampler(range(5)), 2)
    assert list(s) == [[0, 1], [2, 3], [4]] and len(s) == 3
    assert [x.tolist() for x, _ in data.DataLoader(numbers(5), batch_sampler=[[4, 0], [2]])] == [[4, 0], [2]]
    assert len(list(data.RandomSampler(range(3), replacement=True, num_samples=20))) == 20

    class Count(data.IterableDataset):
        def __iter__(self):
            return iter(range(5))

    assert [b.tolist() for b in data.DataLoader(Count(), 2)] == [[0, 1], [2, 3], [4]]
    joined = numbers(3) + numbers(2)
    assert len(joined) == 5 and joined[3][0].item() == 0 and joined[-1][1].item() == 2.0


@pytest.mark.names_devices  # indices are drawn by a generator of the host, as in PyTorch
def test_random_split():
    a, b = data.random_split(numbers(), [7, 3], generator=torsh.Generator().manual_seed(3))
    assert len(a) == 7 and sorted(a.indices + b.indices) == list(range(10))
    assert [len(p) for p in data.random_split(range(11), [0.5, 0.5])] == [6, 5]


def test_collate():
    P = namedtuple("P", "x y")
    out = data.default_collate([P(1.5, {"a": torsh.ones(2)}), P(2.5, {"a": torsh.zeros(2)})])
    assert out.x.dtype == torsh.float64 and out.y["a"].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert data.default_collate(["a", "b"]) == ["a", "b"]
    assert data.default_collate([np.float32(1), np.float32(2)]).dtype == torsh.float32


BAD_DATA = [
    (lambda: data.DataLoader(numbers(), num_workers=2), ValueError),
    (lambda: data.DataLoader(numbers(), batch_size=0), ValueError),
    (lambda: data.DataLoader(numbers(), batch_size=1.5), TypeError),
    (lambda: data.DataLoader(numbers(), shuffle=True, sampler=[0]), ValueError),
    (lambda: data.DataLoader(numbers(), batch_size=2, batch_sampler=[[0]]), ValueError),
    (lambda: data.TensorDataset(torsh.ones(2), torsh.ones(3)), ValueError),
    (lambda: data.TensorDataset([1, 2]), TypeError),
    (lambda: data.TensorDataset(), TypeError),
    (lambda: data.random_split(range(4), [1, 2]), ValueError),
    (lambda: data.random_split(range(4), [5, -1]), ValueError),
    (lambda: data.default_collate([object()]), TypeError),
    (lambda: data.default_collate([[1], [1, 2]]), RuntimeError),
    (lambda: numbers(2)[5], IndexError),
    (lambda: data.ConcatDataset([]), ValueError),
]


@pytest.mark.parametrize("k", range(len(BAD_DATA)))
def test_bad_data(k):
    call, kind = BAD_DATA[k]
    with pytest.raises(kind):
        call()


def test_grad_of_grad():
    x = torsh.tensor(3.0)
    f = func.grad(lambda v: v**4)
    assert f(x).item() == 108.0 and not f(x).requires_grad
    assert func.grad(f)(x).item() == 108.0
    assert func.grad(func.grad(f))(x).item() == 72.0
    assert x.grad is None and not x.requires_grad


def test_value_and_grad_of_trees():
    params = {"w": torsh.tensor([1.0, 2.0]), "b": [torsh.tensor(3.0)]}

    def loss(p, x):
        return ((p["w"] * x).sum() + p["b"][0]) ** 2, x.sum()

    (value, aux), (gp, gx) = func.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, torsh.tensor([1.0, 1.0]))
    assert value.item() == 36.0 and aux.item() == 2.0
    assert gp["w"].tolist() == [12.0, 12.0] and gp["b"][0].item() == 12.0 and gx.tolist() == [12.0, 24.0]
    g, v = func.grad_and_value(lambda x: x.sum())(torsh.ones(2))
    assert g.tolist() == [1.0, 1.0] and v.item() == 2.0


def test_grad_inside_no_grad_and_of_constants():
    with torsh.no_grad():
        assert func.grad(lambda x: x * x)(torsh.tensor(2.0)).item() == 4.0
    assert func.grad(lambda x: torsh.tensor(1.0))(torsh.tensor(2.0)).item() == 0.0


def test_vjp():
    out, pull = func.vjp(lambda x, y: (x * y, x.sum()), torsh.tensor([1.0, 2.0]), torsh.tensor([3.0, 4.0]))
    assert out[0].tolist() == [3.0, 8.0]
    gx, gy = pull((torsh.ones(2), torsh.tensor(10.0)))
    assert gx.tolist() == [13.0, 14.0] and gy.tolist() == [1.0, 2.0]


def test_functional_call():
    m = torsh.nn.Sequential(torsh.nn.Linear(2, 2, bias=False), torsh.nn.Linear(2, 1))
    m[0].weight.data = torsh.eye(2)
    x = torsh.tensor([[1.0, 2.0]])
    before = m(x).item()
    new = {n: torsh.zeros_like(p) for n, p in m.named_parameters()}
    assert func.functional_call(m, new, x).item() == 0.0
    assert func.functional_call(m, ({"1.weight": torsh.ones(1, 2)}, {"1.bias": torsh.ones(1)}), (x,)).item() == 4.0
    assert m(x).item() == before
    params = {n: p.detach() for n, p in m.named_parameters()}
    g = func.grad(lambda p: func.functional_call(m, p, (x,)).sum())(params)
    assert g["1.bias"].tolist() == [1.0] and m[1].bias.grad is None
    with pytest.raises(RuntimeError, match="nope"):
        func.functional_call(m, {"nope": x}, (x,))
    with pytest.raises(RuntimeError):
        func.functional_call(m, {"1.bias": torsh.ones(1)}, (x,), strict=True)


def test_functional_call_ties_shared_parameters():
    m = torsh.nn.Sequential(torsh.nn.Linear(1, 1, bias=False), torsh.nn.Linear(1, 1, bias=False))
    m[1].weight = m[0].weight
    two = torsh.tensor([[2.0]])
    assert func.functional_call(m, {"0.weight": two}, torsh.ones(1, 1)).item() == 4.0


BAD_FUNC = [
    (lambda: func.grad(lambda x: x)(torsh.ones(2)), RuntimeError),
    (lambda: func.grad(lambda x: 1.0)(torsh.ones(2)), RuntimeError),
    (lambda: func.grad(lambda x: x.sum())(torsh.arange(3)), TypeError),
    (lambda: func.grad(lambda x: x.sum(), argnums=1)(torsh.ones(1)), IndexError),
    (lambda: func.grad(lambda x: x.sum(), argnums="a"), TypeError),
    (lambda: func.grad(lambda x: x)(1.0), TypeError),
    (lambda: func.vjp(lambda x: x, torsh.ones(2))[1](torsh.ones(2), torsh.ones(2)), RuntimeError),
]


@pytest.mark.parametrize("k", range(len(BAD_FUNC)))
def test_bad_func(k):
    call, kind = BAD_FUNC[k]
    with pytest.raises(kind):
        call()
