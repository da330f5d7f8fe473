"""Views alias; in-place operations rebind; writes go through views to the base and to every other view."""

import numpy as np
import pytest

import torsh


def base():
    return torsh.arange(12).float().reshape(3, 4).clone()


VIEWS = {
    "row": (lambda x: x[1], lambda a: a[1]),
    "column": (lambda x: x[:, 2], lambda a: a[:, 2]),
    "strided": (lambda x: x[::2, 1::2], lambda a: a[::2, 1::2]),
    "transpose": (lambda x: x.t(), lambda a: a.T),
    "flat": (lambda x: x.view(-1), lambda a: a.reshape(-1)),
    "of a view": (lambda x: x.t()[1:][0], lambda a: a.T[1:][0]),
    "unsqueezed": (lambda x: x.unsqueeze(1), lambda a: a[:, None]),
    "narrow": (lambda x: x.narrow(1, 1, 2), lambda a: a[:, 1:3]),
    "detached": (lambda x: x.detach()[0], lambda a: a[0]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_write_through_a_view_reaches_the_base(name, run):
    of_torsh, of_numpy = VIEWS[name]

    def f(x):
        v = of_torsh(x)
        v += 100.0
        v.mul_(2.0)
        return v.clone()

    x, a = base(), np.arange(12, dtype=np.float32).reshape(3, 4).copy()
    got = run(f, x)
    v = of_numpy(a)
    v += 100
    v *= 2
    np.testing.assert_array_equal(got.numpy(), v)
    np.testing.assert_array_equal(x.numpy(), a)


@pytest.mark.parametrize("name", VIEWS)
def test_a_write_to_the_base_is_seen_by_the_view(name):
    of_torsh, of_numpy = VIEWS[name]
    x, a = base(), np.arange(12, dtype=np.float32).reshape(3, 4).copy()
    v, w = of_torsh(x), of_numpy(a)
    x[1] = -1.0
    a[1] = -1
    np.testing.assert_array_equal(v.numpy(), w)
    x.zero_()
    assert not v.numpy().any()


def test_sibling_views():
    x = base()
    row, column = x[0], x[:, 0]
    row.fill_(7.0)
    assert column.tolist() == [7.0, 4.0, 8.0]
    column.zero_()
    assert row.tolist() == [0.0, 7.0, 7.0, 7.0]


def test_reshape_copies_where_it_cannot_alias():
    x = base()
    flat = x.t().reshape(-1)
    flat.zero_()
    assert x.sum().item() == 66.0
    with pytest.raises((RuntimeError, ValueError)):
        x.t().view(-1)
    assert x.t().stride() == (1, 4) and not x.t().is_contiguous()


def test_expanded_views_cannot_be_written():
    x = torsh.zeros(3, 1)
    with pytest.raises(RuntimeError, match="single memory location"):
        x.expand(3, 4).add_(1.0)
    assert x.tolist() == [[0.0]] * 3


def test_clone_does_not_alias():
    x = base()
    y = x.clone()
    y.zero_()
    assert x.sum().item() == 66.0


def test_parameter_shares_memory():
    data = torsh.zeros(3)
    p = torsh.nn.Parameter(data)
    with torsh.no_grad():
        p += 1.0
    assert data.tolist() == [1.0] * 3
    data.add_(1.0)
    assert p.tolist() == [2.0] * 3
    assert p.requires_grad and not data.requires_grad and p.is_leaf


def test_data_shares_memory_and_can_be_replaced():
    p = torsh.zeros(3, requires_grad=True)
    p.data.add_(1.0)
    assert p.tolist() == [1.0] * 3 and p.is_leaf
    p.data = torsh.ones(2)
    assert p.shape == (2,) and p.requires_grad


def test_a_slice_assigned_from_itself():
    x = torsh.arange(5)
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("make", ["own", "of another tensor", "layer"])
def test_a_view_of_a_parameter_has_its_gradient(make, run):
    """Also where the parameter is itself another name for the memory of a tensor, as those of layers are."""
    data = torsh.ones(4, 3)
    p = {
        "own": lambda: torsh.ones(4, 3).requires_grad_(),
        "of another tensor": lambda: torsh.nn.Parameter(data),
        "layer": lambda: torsh.nn.Linear(3, 4).weight,
    }[make]()
    part, turned = p[:2], p.T[1:]
    x = torsh.arange(3).float()
    f = lambda x: (part * x).sum() + (turned[0] * x[0]).sum()  # noqa: E731
    for scale in (1.0, 2.0):
        p.grad = None
        y = run(f, x * scale + 1)
        assert y.requires_grad
        y.backward()
        wanted = np.zeros((4, 3), np.float32)
        wanted[:2] += np.arange(3) * scale + 1
        wanted[:, 1] += 1
        assert p.grad.tolist() == wanted.tolist()
        # The views see what is written, and go on having a gradient.
        with torsh.no_grad():
            p.fill_(scale)
        assert part.tolist() == [[scale] * 3] * 2 and part.requires_grad and turned.requires_grad
    assert not part.detach().requires_grad and not p.data[:2].requires_grad
    with pytest.raises(RuntimeError, match="a view of a leaf Variable"):
        p[:1].add_(1)


@pytest.mark.parametrize("make", ["of another tensor", "layer"])
def test_a_view_stays_with_the_memory_that_it_was_made_of(make):
    """Where a parameter gets other data, of any shape or dtype, its views do not follow."""
    for data in (torsh.zeros(4, 3), torsh.zeros(2, 2), torsh.zeros(4, 3, dtype=torsh.float64)):
        p = torsh.nn.Parameter(torsh.ones(4, 3)) if make == "of another tensor" else torsh.nn.Linear(3, 4).weight
        with torsh.no_grad():
            p.fill_(1.0)
        rows, turned = p[1:], p.T
        twice = torsh.compile(lambda rows=rows: rows * 2)
        assert twice().tolist() == [[2.0] * 3] * 3
        p.data = data
        with torsh.no_grad():
            p.add_(5)
        assert rows.tolist() == [[1.0] * 3] * 3 and turned.tolist() == [[1.0] * 4] * 3
        assert (rows * 1).sum().item() == 9 and twice().tolist() == [[2.0] * 3] * 3
        with torsh.no_grad():
            rows.fill_(9)
        assert rows.tolist() == [[9.0] * 3] * 3 and p.tolist() == [[5.0] * p.shape[1]] * p.shape[0]


def test_views_of_a_layer_that_gets_another_dtype():
    layer = torsh.nn.Linear(3, 4)
    rows = layer.weight[1:]
    before = rows.tolist()
    layer.double()
    with torsh.no_grad():
        layer.weight.add_(1)
    assert rows.tolist() == before and rows.dtype == torsh.float32
