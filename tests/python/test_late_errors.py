"""Errors of values that are found when a program runs: they name the user's line of this call, and leave every tensor
as it was."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import torsh
from torsh import nn
from torsh.nn import functional as F


def line():
    return inspect.currentframe().f_back.f_lineno


def lazy(*values):
    """An index tensor that is still to be computed."""
    return torsh.tensor(values) + torsh.tensor(0)


def at(info, number):
    assert f"test_late_errors.py:{number}" in str(info.value), info.value


# -- lines -----------------------------------------------------------------------------------------------------


def test_a_cached_program_names_the_line_of_this_call():
    x, good, bad = torsh.ones(4), torsh.tensor([1, 2]), torsh.tensor([1, 4])
    assert (torsh.index_select(x, 0, good) * 3).tolist() == [3.0, 3.0]
    y = torsh.index_select(x, 0, bad) * 3
    here = line() - 1
    with pytest.raises(IndexError, match="index 4 is out of bounds") as info:
        y.numpy()
    at(info, here)


def test_two_equal_operations_on_one_line_are_told_apart():
    x, w, good, bad = torsh.ones(4), torsh.ones(4) * 2, torsh.tensor([1, 2]), torsh.tensor([7, 0])
    # One line here, two lines below: the program is the same.
    a, b = x[good], w[good]
    assert (a - b).tolist() == [-1.0, -1.0]
    a = x[good]
    b = w[bad]
    here = line() - 1
    with pytest.raises(IndexError) as info:
        (a - b).numpy()
    at(info, here)


@pytest.mark.parametrize(
    "op",
    [
        lambda i: F.embedding(i, torsh.ones(5, 3)),
        lambda i: torsh.gather(torsh.ones(5), 0, i),
        lambda i: F.cross_entropy(torsh.zeros(2, 5), i),
        lambda i: torsh.ones(5)[i],
    ],
)
def test_every_indexed_read_names_its_line(op):
    op(torsh.tensor([1, 2])).numpy()
    y = op(torsh.tensor([1, 77]))
    with pytest.raises(IndexError) as info:
        y.numpy()
    at(info, op.__code__.co_firstlineno)


def test_an_equal_function_compiled_elsewhere():
    def one(x, i):
        return x[i] + 1

    def two(x, i):
        return x[i] + 1

    x = torsh.ones(3)
    assert torsh.compile(one)(x, torsh.tensor([1])).tolist() == [2.0]
    with pytest.raises(IndexError) as info:
        torsh.compile(two)(x, torsh.tensor([3])).numpy()
    at(info, two.__code__.co_firstlineno + 1)


# -- writes with indices that are known ------------------------------------------------------------------------

WRITES = [
    lambda x, i: x.__setitem__(i, 1.0),
    lambda x, i: x.__setitem__((slice(None), i), 1.0),
    lambda x, i: x.__setitem__((i, torsh.tensor([0])), 1.0),
    lambda x, i: x[0].__setitem__(i, 1.0),
    lambda x, i: x.index_put_((i,), torsh.tensor(1.0)),
    lambda x, i: x.index_put_((i,), torsh.tensor(1.0), accumulate=True),
    lambda x, i: x.scatter_(0, i.reshape(1, 1), 1.0),
    lambda x, i: x.scatter_add_(1, i.reshape(1, 1), torsh.ones(1, 1)),
    lambda x, i: x.index_add_(0, i, torsh.ones(1, 3)),
    lambda x, i: x.index_copy_(1, i, torsh.ones(3, 1)),
    lambda x, i: x.index_fill_(0, i, 1.0),
]


@pytest.mark.host_only("what a device holds is not looked at before the program runs")
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("bad", [3, 9, -4])
@pytest.mark.parametrize("dtype", [torsh.int64, torsh.int32])
def test_a_known_index_is_refused_at_once(write, bad, dtype):
    x = torsh.arange(9.0).reshape(3, 3)
    with pytest.raises(IndexError, match=f"index {bad} is out of bounds for dimension . with size 3") as info:
        write(x, torsh.tensor([bad], dtype=dtype))
    at(info, write.__code__.co_firstlineno)
    np.testing.assert_array_equal(x.numpy(), np.arange(9.0).reshape(3, 3))
    write(x, torsh.tensor([2], dtype=dtype))
    assert x.sum().item() != 36.0


@pytest.mark.parametrize("index", [[5], np.array([0, 5]), (np.array([5]), 0), [[0, -6]]])
def test_lists_and_arrays_are_refused_at_once(index):
    x = torsh.zeros(5, 2)
    with pytest.raises(IndexError, match="out of bounds"):
        x[index] = 1.0
    assert x.tolist() == [[0.0, 0.0]] * 5


def test_a_known_index_in_a_compiled_function():
    @torsh.compile
    def f(x, i):
        x[i] = 1.0

    x = torsh.zeros(3)
    f(x, torsh.tensor([1]))
    with pytest.raises(IndexError):
        f(x, torsh.tensor([3]))
    assert x.tolist() == [0.0, 1.0, 0.0]


# -- writes with indices that are not ---------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITES)
def test_a_pending_index_leaves_the_old_value(write):
    x = torsh.arange(9.0).reshape(3, 3)
    write(x, lazy(7))
    with pytest.raises(IndexError) as info:
        x.numpy()
    at(info, write.__code__.co_firstlineno)
    np.testing.assert_array_equal(x.numpy(), np.arange(9.0).reshape(3, 3))
    x += 1
    np.testing.assert_array_equal(x.numpy(), np.arange(9.0).reshape(3, 3) + 1)


def test_what_came_after_the_bad_write_goes_with_it():
    x = torsh.tensor([1.0, 2.0])
    x *= 2
    x[lazy(5)] = 0.0
    x += 10
    x[lazy(0)] = 7.0
    with pytest.raises(IndexError, match="index 5"):
        x.tolist()
    assert x.tolist() == [2.0, 4.0]


def test_a_bad_read_that_was_stored():
    x, table = torsh.zeros(2), torsh.ones(3)
    x.copy_(table[lazy(0, 3)])
    with pytest.raises(IndexError):
        x.tolist()
    assert x.tolist() == [0.0, 0.0] and table.tolist() == [1.0] * 3


def test_bases_and_views_recover_together():
    x = torsh.arange(6.0).reshape(2, 3)
    row, flat = x[1], x.view(-1)
    row[lazy(3)] = -1.0
    with pytest.raises(IndexError):
        flat.tolist()
    assert x.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert row.tolist() == [3.0, 4.0, 5.0] and flat.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_the_error_is_not_lost_on_the_way():
    x, other = torsh.zeros(3), torsh.ones(3)
    x[lazy(3)] = 1.0
    # Somebody else's value is read first; x reports when it is read itself.
    assert (other + 1).tolist() == [2.0] * 3
    with pytest.raises(IndexError):
        x.tolist()
    assert x.tolist() == [0.0] * 3


def test_a_value_given_since_stays():
    x = torsh.zeros(3)
    x[lazy(3)] = 1.0
    y = x + 1
    x.copy_(torsh.full((3,), 5.0))
    with pytest.raises(IndexError):
        y.tolist()
    assert x.tolist() == [5.0] * 3


def test_writes_that_succeed_leave_nothing_behind():
    x, seen = torsh.zeros(1 << 20), []
    for _ in range(4):
        for k in range(3):
            x[lazy(k)] = 1.0
            x += 1
        x.sum().item()
        seen.append(torsh.memory_stats()["live"])
    assert seen[1:] == seen[:-1], seen


def test_parameters_survive_a_step_on_a_bad_batch():
    emb = nn.Embedding(4, 2)
    before = emb.weight.detach().clone().numpy()
    opt = torsh.optim.SGD(emb.parameters(), lr=1.0, momentum=0.9)
    for batch, good in (([0, 1], True), ([0, 4], False), ([2, 3], True)):
        opt.zero_grad()
        loss = emb(lazy(*batch)).sum()
        loss.backward()
        opt.step()
        if good:
            loss.item()
            before = emb.weight.detach().clone().numpy()
        else:
            with pytest.raises(IndexError):
                loss.item()
            with pytest.raises(IndexError):
                emb.weight.detach().numpy()
            np.testing.assert_array_equal(emb.weight.detach().numpy(), before)


# -- values that an operation does not take ----------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
CHECKS = [
    (lambda t: torsh.multinomial(t, 1), [0.5, -0.1], "element < 0"),
    (lambda t: torsh.multinomial(t, 1), [0.5, NAN], "nan"),
    (lambda t: torsh.multinomial(t, 1, replacement=True), [0.5, INF], "inf"),
    (lambda t: torsh.multinomial(t, 1, replacement=True), [0.0, 0.0], "sum of probabilities <= 0"),
    (lambda t: torsh.multinomial(t, 1), [[1.0, 0.0], [0.0, 0.0]], "sum of probabilities <= 0"),
    (lambda t: torsh.multinomial(t, 2), [0.0, 0.3, 0.0], "without replacement"),
    (lambda t: torsh.bernoulli(t), [0.0, 1.5], "0, 1"),
    (lambda t: torsh.bernoulli(t), [0.0, NAN], "0, 1"),
    (lambda t: torsh.bernoulli(torsh.zeros(2), p=t), [-0.25, 1.0], "0, 1"),
    (lambda t: F.binary_cross_entropy(t, torsh.ones(2)), [0.5, 1.25], "between 0 and 1"),
    (lambda t: F.binary_cross_entropy(t, torsh.ones(2), reduction="none"), [0.5, -0.5], "between 0 and 1"),
    (lambda t: F.binary_cross_entropy(t, torsh.ones(2), torsh.ones(2)), [0.5, NAN], "between 0 and 1"),
    (lambda t: F.one_hot(t, 3), [0, 3], "smaller than num_classes"),
    (lambda t: F.one_hot(t, 3), [0, -1], "non-negative"),
    (lambda t: F.one_hot(t), [0, -1], "non-negative"),
]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("op", "values", "message"), CHECKS)
def test_refused_values(op, values, message, compiled):
    fn = torsh.compile(op) if compiled else op
    with pytest.raises(RuntimeError, match=message) as info:
        fn(torsh.tensor(values)).numpy()
    if not compiled:
        at(info, op.__code__.co_firstlineno)
    assert not isinstance(info.value, IndexError)


def test_accepted_values():
    torsh.manual_seed(0)
    assert torsh.multinomial(torsh.tensor([0.0, 2.0, 0.0]), 1).tolist() == [1]
    assert sorted(torsh.multinomial(torsh.tensor([1.0, 0.0, 5.0]), 2).tolist()) == [0, 2]
    assert torsh.multinomial(torsh.tensor([[0.0, 1.0], [1.0, 0.0]]), 2, replacement=True).tolist() == [[1, 1], [0, 0]]
    assert torsh.bernoulli(torsh.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert torsh.bernoulli(torsh.zeros(2), p=torsh.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
    x = torsh.tensor([0.0, 1.0, 0.5], requires_grad=True)
    loss = F.binary_cross_entropy(x, torsh.tensor([0.0, 1.0, 1.0]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), np.log(2) / 3, rtol=1e-6)
    np.testing.assert_allclose(x.grad[2].item(), -2 / 3, rtol=1e-6)
    assert F.one_hot(torsh.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert F.one_hot(torsh.tensor([1]), 2).dtype == torsh.int64
