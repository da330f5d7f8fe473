"""Modules, optimizers and whole training steps against NumPy in float64, lazily and compiled."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import torsh
from torsh import nn
from torsh.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 2, bias=False)
        self.register_buffer("count", torsh.zeros(1))
        self.register_buffer("scratch", torsh.zeros(1), persistent=False)

    def forward(self, x):
        return self.b(torsh.tanh(self.a(x)))


def test_module_tree():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == ["a.weight", "a.bias", "b.weight"]
    assert list(net.state_dict()) == ["count", "a.weight", "a.bias", "b.weight"] or set(net.state_dict()) == {
        "a.weight",
        "a.bias",
        "b.weight",
        "count",
    }
    assert [n for n, _ in net.named_modules()] == ["", "a", "b"]
    assert net.training and not net.eval().training and not net.a.training
    assert sum(p.numel() for p in net.parameters()) == 3 * 4 + 4 + 8
    net.apply(lambda m: setattr(m, "seen", True))
    assert net.a.seen and net.seen
    with pytest.raises(TypeError):
        net.a = 3
    with pytest.raises(AttributeError):
        _ = net.nothing
    net.double()
    assert net.a.weight.dtype == torsh.float64 and isinstance(net.a.weight, nn.Parameter)
    assert "Linear(in_features=3, out_features=4, bias=True)" in repr(net)
    other = copy.deepcopy(net)
    other.a.weight.data.zero_()
    assert net.a.weight.abs().sum().item() > 0


def test_state_dict_round_trip():
    a, b = Net(), Net()
    state = {k: v.clone() for k, v in a.state_dict().items()}
    assert b.load_state_dict(state) == ([], [])
    x = torsh.randn(5, 3)
    assert torsh.equal(a(x), b(x))
    before = b.a.weight.clone()
    with pytest.raises(RuntimeError, match="Missing key"):
        b.load_state_dict({})
    with pytest.raises(RuntimeError, match="size mismatch"):
        b.load_state_dict({**state, "a.weight": torsh.zeros(9, 9)})
    assert torsh.equal(before, b.a.weight)
    assert b.load_state_dict({"x": torsh.zeros(1)}, strict=False).unexpected_keys == ["x"]


def test_containers():
    s = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(s) == 3 and isinstance(s[1], nn.ReLU) and s(torsh.ones(4, 2)).shape == (4, 1)
    m = nn.ModuleList([nn.Linear(1, 1)]).append(nn.Linear(1, 2))
    assert len(list(m.parameters())) == 4 and m[-1].out_features == 2
    d = nn.ModuleDict({"x": nn.Tanh()})
    assert "x" in d and list(d.keys()) == ["x"]
    p = nn.ParameterList([torsh.zeros(2)])
    assert isinstance(p[0], nn.Parameter)


def test_embedding_and_dropout():
    e = nn.Embedding(5, 3, padding_idx=0)
    assert e.weight[0].abs().sum().item() == 0
    e(torsh.tensor([0, 1, 1])).sum().backward()
    assert e.weight.grad[:2].tolist() == [[0.0] * 3, [2.0] * 3]
    with pytest.raises(IndexError):
        e(torsh.tensor([5])).detach().numpy()
    d = nn.Dropout(0.5)
    assert (d(torsh.ones(1000)) == 0).sum().item() > 300
    assert torsh.equal(d.eval()(torsh.ones(10)), torsh.ones(10))


def reference_adam(p, grads, lr, b1, b2, eps, wd, decoupled):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        if wd and not decoupled:
            g = g + wd * p
        if wd and decoupled:
            p = p * (1 - lr * wd)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        p = p - lr / (1 - b1**t) * m / (np.sqrt(v) / math.sqrt(1 - b2**t) + eps)
    return p


def reference_sgd(p, grads, lr, momentum, dampening, wd, nesterov):
    buf = None
    for g in grads:
        g = g + wd * p
        if momentum:
            buf = g if buf is None else momentum * buf + (1 - dampening) * g
            g = g + momentum * buf if nesterov else buf
        p = p - lr * g
    return p


def reference_adagrad(p, grads, lr, lr_decay, wd, start, eps):
    total = np.full_like(p, start)
    for t, g in enumerate(grads):
        g = g + wd * p
        total = total + g * g
        p = p - lr / (1 + t * lr_decay) * g / (np.sqrt(total) + eps)
    return p


def reference_rmsprop(p, grads, lr, alpha, eps, wd, momentum, centered):
    v = m = buf = np.zeros_like(p)
    for g in grads:
        g = g + wd * p
        v = alpha * v + (1 - alpha) * g * g
        m = alpha * m + (1 - alpha) * g
        d = g / (np.sqrt(v - m * m if centered else v) + eps)
        buf = momentum * buf + d
        p = p - lr * buf
    return p


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (lambda p: torsh.optim.SGD(p, lr=0.1), lambda p, g: reference_sgd(p, g, 0.1, 0, 0, 0, False)),
        (
            lambda p: torsh.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
            lambda p, g: reference_sgd(p, g, 0.1, 0.9, 0, 0.01, False),
        ),
        (
            lambda p: torsh.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
            lambda p, g: reference_sgd(p, g, 0.1, 0.9, 0, 0, True),
        ),
        (
            lambda p: torsh.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3),
            lambda p, g: reference_sgd(p, g, 0.1, 0.9, 0.3, 0, False),
        ),
        (lambda p: torsh.optim.Adam(p, lr=0.01), lambda p, g: reference_adam(p, g, 0.01, 0.9, 0.999, 1e-8, 0, False)),
        (
            lambda p: torsh.optim.Adam(p, lr=0.01, weight_decay=0.1),
            lambda p, g: reference_adam(p, g, 0.01, 0.9, 0.999, 1e-8, 0.1, False),
        ),
        (
            lambda p: torsh.optim.AdamW(p, lr=0.01, betas=(0.8, 0.95)),
            lambda p, g: reference_adam(p, g, 0.01, 0.8, 0.95, 1e-8, 0.01, True),
        ),
        (lambda p: torsh.optim.Adagrad(p), lambda p, g: reference_adagrad(p, g, 0.01, 0, 0, 0, 1e-10)),
        (
            lambda p: torsh.optim.Adagrad(p, 0.1, 0.2, 0.05, 0.3, 1e-3),
            lambda p, g: reference_adagrad(p, g, 0.1, 0.2, 0.05, 0.3, 1e-3),
        ),
        (
            lambda p: torsh.optim.Adagrad(p, 0.1, maximize=True),
            lambda p, g: reference_adagrad(p, [-x for x in g], 0.1, 0, 0, 0, 1e-10),
        ),
        (lambda p: torsh.optim.RMSprop(p), lambda p, g: reference_rmsprop(p, g, 0.01, 0.99, 1e-8, 0, 0, False)),
        (
            lambda p: torsh.optim.RMSprop(p, 0.02, 0.9, 1e-6, 0.1, 0.8),
            lambda p, g: reference_rmsprop(p, g, 0.02, 0.9, 1e-6, 0.1, 0.8, False),
        ),
        (
            lambda p: torsh.optim.RMSprop(p, centered=True, momentum=0.5),
            lambda p, g: reference_rmsprop(p, g, 0.01, 0.99, 1e-8, 0, 0.5, True),
        ),
    ],
)
def test_optimizers(make, reference, compiled, rng):
    start = rng.normal(size=(3, 5))
    grads = [rng.normal(size=(3, 5)) for _ in range(7)]
    p = nn.Parameter(torsh.tensor(start))
    opt = make([p])

    def step(g):
        (p * g).sum().backward()
        opt.step()
        opt.zero_grad()

    fn = torsh.compile(step) if compiled else step
    for g in grads:
        fn(torsh.tensor(g))
    np.testing.assert_allclose(p.detach().numpy(), reference(start, grads), rtol=1e-6, atol=1e-7)
    assert p.grad is None
    if compiled:
        assert fn.cache_info()["misses"] == 1


def test_schedule_does_not_recompile():
    p = nn.Parameter(torsh.ones(2))
    opt = torsh.optim.SGD([p], lr=1.0)
    sched = torsh.optim.lr_scheduler.StepLR(opt, 1, 0.5)

    @torsh.compile
    def step():
        p.sum().backward()
        opt.step()
        opt.zero_grad()

    for _ in range(3):
        step()
        sched.step()
    assert p.tolist() == [1 - 1 - 0.5 - 0.25] * 2
    assert step.cache_info()["misses"] == 1


def test_optimizer_state_dict():
    p = nn.Parameter(torsh.ones(3))
    opt = torsh.optim.Adam([p], lr=0.1)
    for _ in range(3):
        (p * p).sum().backward()
        opt.step()
        opt.zero_grad()
    q = nn.Parameter(p.detach().clone())
    other = torsh.optim.Adam([q], lr=0.5)
    other.load_state_dict(opt.state_dict())
    for param, o in ((p, opt), (q, other)):
        (param * param).sum().backward()
        o.step()
    assert torsh.equal(p, q)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torsh.optim.SGD(p, lr=-1.0), lambda p: torsh.optim.Adam(p, betas=(1.0, 0.9)),
        lambda p: torsh.optim.SGD(p, nesterov=True),
        lambda p: torsh.optim.Adam([], lr=0.1), lambda p: torsh.optim.Adam(p, eps=-1.0),
        lambda p: torsh.optim.Adagrad(p, lr_decay=-1.0), lambda p: torsh.optim.Adagrad(p, eps=-1.0),
        lambda p: torsh.optim.Adagrad(p, initial_accumulator_value=-1.0), lambda p: torsh.optim.RMSprop(p, alpha=-0.1),
        lambda p: torsh.optim.RMSprop(p, momentum=-0.5), lambda p: torsh.optim.RMSprop(p, lr=-1.0),
    ],
)  # fmt: skip
def test_optimizer_bad_values(make):
    with pytest.raises(ValueError):
        make([nn.Parameter(torsh.ones(1))])


def numpy_mlp_step(params, x, y, lr):
    """One SGD step of a tanh MLP with mean cross entropy, in float64; returns the loss and new parameters."""
    w1, b1, w2, b2 = params
    h = np.tanh(x @ w1.T + b1)
    z = h @ w2.T + b2
    z = z - z.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    n = len(y)
    loss = -np.log(p[np.arange(n), y]).mean()
    dz = p.copy()
    dz[np.arange(n), y] -= 1
    dz /= n
    dh = dz @ w2 * (1 - h * h)
    grads = [dh.T @ x, dh.sum(0), dz.T @ h, dz.sum(0)]
    return loss, [q - lr * g for q, g in zip(params, grads, strict=False)]


@pytest.mark.parametrize("compiled", [False, True])
def test_training_step_follows_numpy(compiled, rng):
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    params = [p.detach().numpy() for p in net.parameters()]
    opt = torsh.optim.SGD(net.parameters(), lr=0.3)

    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    fn = torsh.compile(step) if compiled else step
    for _ in range(5):
        # The loss is a view of a sum: its base is not taken for a tensor left behind.
        x, y = rng.normal(size=(11, 6)), rng.integers(0, 4, 11)
        want, params = numpy_mlp_step(params, x, y, 0.3)
        assert abs(fn(torsh.tensor(x), torsh.tensor(y)).item() - want) < 1e-10
    for p, q in zip(net.parameters(), params, strict=False):
        np.testing.assert_allclose(p.detach().numpy(), q, rtol=1e-10, atol=1e-12)


def test_clip_grad_norm():
    p = nn.Parameter(torsh.tensor([3.0, 4.0]))
    (p * p / 2).sum().backward()
    assert abs(nn.utils.clip_grad_norm_([p], 1.0).item() - 5.0) < 1e-6
    assert abs(p.grad.norm().item() - 1.0) < 1e-5


def test_init():
    w = torsh.empty(200, 100)
    nn.init.xavier_uniform_(w)
    bound = math.sqrt(6 / 300)
    assert w.abs().max().item() <= bound and w.abs().max().item() > 0.9 * bound
    nn.init.trunc_normal_(w, std=2.0, a=-1.0, b=3.0)
    assert w.min().item() >= -1.0 and w.max().item() <= 3.0
    nn.init.kaiming_normal_(w, nonlinearity="relu")
    assert abs(w.std().item() - math.sqrt(2 / 100)) < 0.01
