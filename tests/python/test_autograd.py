"""Gradients: leaves, accumulation, views, in-place, second order, errors."""

import pytest

import torsh


def test_backward_accumulates():
    x = torsh.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]
    first = x.grad
    (x * 3).sum().backward()
    assert x.grad is first and first.tolist() == [5.0, 7.0]
    x.grad = None
    assert x.grad is None


def test_gradients_of_gradients():
    x = torsh.tensor(2.0, requires_grad=True)
    (g,) = torsh.autograd.grad(x**3, [x], create_graph=True)
    (h,) = torsh.autograd.grad(g, [x])
    assert g.item() == 12.0 and h.item() == 12.0


def test_no_grad_and_detach():
    x = torsh.tensor([1.0], requires_grad=True)
    with torsh.no_grad():
        assert not (x * 2).requires_grad
    assert not x.detach().requires_grad
    y = (x * x.detach()).sum()
    y.backward()
    assert x.grad.tolist() == [1.0]


def test_in_place_on_a_leaf_is_refused():
    x = torsh.zeros(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        x.add_(1.0)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        x[0] = 1.0
    with torsh.no_grad():
        x.add_(1.0)
    assert x.tolist() == [1.0] * 3 and x.is_leaf and x.requires_grad


def test_gradient_through_in_place_and_views():
    x = torsh.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2
    y[0] = 0.0
    y[1:].mul_(x[1:])
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 8.0, 12.0]


def test_writing_into_a_buffer_records():
    x = torsh.tensor([1.0, 2.0], requires_grad=True)
    buffer = torsh.zeros(2, 2)
    buffer[1] = x * 3
    assert buffer.requires_grad
    buffer.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_gradient_through_indexing():
    x = torsh.arange(6).float().reshape(2, 3).clone().requires_grad_()
    (x[torsh.tensor([0, 0, 1]), torsh.tensor([1, 1, 2])] * torsh.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad.tolist() == [[0.0, 11.0, 0.0], [0.0, 0.0, 100.0]]


def test_second_backward_needs_retain_graph():
    x = torsh.tensor([1.0], requires_grad=True)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()
    assert x.grad.tolist() == [4.0]


def test_retain_grad():
    x = torsh.tensor([1.0], requires_grad=True)
    y = x * 2
    y.retain_grad()
    (y * y).sum().backward()
    assert y.grad.tolist() == [4.0]


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: torsh.zeros(2).sum().backward(), "does not require grad"),
        (lambda: torsh.zeros(2, requires_grad=True).exp().backward(), "scalar outputs"),
        (lambda: torsh.tensor([1], requires_grad=True), "floating point"),
        (
            lambda: torsh.autograd.grad(torsh.ones(1, requires_grad=True).sum(), [torsh.ones(1, requires_grad=True)]),
            "not have been used",
        ),
    ],
)
def test_misuse(call, text):
    with pytest.raises(RuntimeError, match=text):
        call()


def test_a_realised_output_still_differentiates():
    x = torsh.tensor([2.0], requires_grad=True)
    y = (x * x).sum()
    assert y.item() == 4.0
    y.backward()
    assert x.grad.tolist() == [4.0]


def test_no_grad_write_keeps_the_history():
    x = torsh.tensor([2.0], requires_grad=True)
    y = x * 3
    with torsh.no_grad():
        y.add_(1.0)
    z = (y * y).sum()
    z.backward()
    assert y.tolist() == [7.0] and x.grad.tolist() == [42.0]


def test_deep_graphs_differentiate_without_recursion():
    x = torsh.tensor([1.0], requires_grad=True)
    y = x
    for _ in range(3_000):
        y = y + x
    y.sum().backward()
    assert x.grad.tolist() == [3001.0]
