"""Exports with dims over many ops: a function of x: f32[n, m, 4] and its gradient, the bits of torsh.compile at each.

Most have the range from 1. Where a size of 1 is another program, the range begins at 2; what cannot be a package of any
range is expected to be refused.
"""

from __future__ import annotations

import numpy as np
import pytest

import torsh
from torsh import Dim
from torsh.nn import functional as F


def rand(*shape):
    """Of the device under test."""
    return torsh.tensor(np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32))


def bits(x: torsh.Tensor) -> list:
    x = x.detach()
    return [x.dtype.name, tuple(x.shape), x.numpy().tobytes()]


W = None  # of a convolution; made for each test, on its device
SIZES = [(6, 9), (1, 1), (1, 5), (7, 1), (2, 2), (4, 4), (13, 31), (64, 48)]
# Each is compiled by itself, on a device by NVRTC.
DEVICE_SIZES = [(6, 9), (1, 5), (13, 31)]


@pytest.fixture(autouse=True)
def _weights(_fresh_seed):
    global W
    W = rand(5, 4, 3)


OPS = {
    "cumsum": lambda x: x.cumsum(0),
    "cumprod": lambda x: x.cumprod(1),
    "cummax": lambda x: x.cummax(0)[0],
    "sort": lambda x: x.sort(0)[0],
    "topk": lambda x: x.topk(1, 0)[1],
    "argsort": lambda x: x.argsort(1),
    "argmax": lambda x: x.argmax(),
    "median": lambda x: x.median(),
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 0),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3)),
    "tril": lambda x: (x @ x.transpose(1, 2)).tril(),
    "triu": lambda x: (x @ x.transpose(1, 2)).triu(1),
    "cat": lambda x: torsh.cat([x, x * 2], 0),
    "stack": lambda x: torsh.stack([x, x], 1),
    "repeat": lambda x: x.repeat(2, 3, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "expand": lambda x: x[:1].expand(x.shape[0], -1, -1) * 1,
    "chunk": lambda x: x.chunk(2, 0)[0],
    "unbind": lambda x: x.unbind(2)[0],
    "flatten": lambda x: x.flatten(),
    "unflatten": lambda x: x.reshape(x.shape[0], 2, -1),
    "squeeze": lambda x: x.squeeze(),
    "permute": lambda x: x.permute(2, 1, 0).contiguous(),
    "last": lambda x: x[-1],
    "slice": lambda x: x[1:],
    "step": lambda x: x[::2],
    "diff": lambda x: x[1:] - x[:-1],
    "index": lambda x: x[torsh.arange(x.shape[0] - 1, -1, -1)],
    "mask": lambda x: x * (torsh.arange(x.shape[0]) % 2)[:, None, None],
    "gather": lambda x: x.gather(1, (x > 0).long() * 0),
    "scatter_add": lambda x: torsh.zeros(x.shape[0], 4).scatter_add(1, (x[:, 0] > 0).long(), x[:, 0]),
    "one_hot": lambda x: F.one_hot((x[:, 0, 0] > 0).long(), 3),
    "embedding": lambda x: F.embedding((x[:, :, 0] > 0).long(), W[:, :, 0]),
    "where": lambda x: torsh.where(x > 0, x, -x),
    "softmax": lambda x: x.softmax(0),
    "log_softmax": lambda x: x.log_softmax(1),
    "logsumexp": lambda x: x.logsumexp(0),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "group_norm": lambda x: F.group_norm(x.transpose(1, 2), 2),
    "batch_norm": lambda x: F.batch_norm(x.transpose(1, 2), torsh.zeros(4), torsh.ones(4), training=True),
    "norm": lambda x: x.norm(dim=0),
    "var": lambda x: x.var(1, correction=0),
    "mean": lambda x: x.mean(),
    "numel": lambda x: x.sum() / x.numel(),
    "root": lambda x: x * torsh.full((), x.shape[0]).float().sqrt(),
    "prod": lambda x: x.prod(0),
    "amax": lambda x: x.amax((0, 1)),
    "any": lambda x: (x > 2).any(0),
    "count": lambda x: (x > 0).sum(),
    "linspace": lambda x: torsh.linspace(0, 1, x.shape[0]) * x[:, 0, 0],
    "eye": lambda x: torsh.eye(x.shape[0]) @ x[:, 0],
    "conv1d": lambda x: F.conv1d(x.transpose(1, 2), W, padding=1),
    "avg_pool": lambda x: F.avg_pool1d(x.transpose(1, 2), 2, 2, 1),
    "max_pool": lambda x: F.max_pool1d(x.transpose(1, 2), 3, 2, 1),
    "adaptive": lambda x: F.adaptive_avg_pool1d(x.transpose(1, 2), 1),
    "einsum": lambda x: torsh.einsum("nmk,nlk->nml", x, x),
    "bmm": lambda x: torsh.bmm(x, x.transpose(1, 2)),
    "matmul": lambda x: x.reshape(-1, 4) @ W[:, :, 0].T,
    "outer": lambda x: torsh.outer(x[:, 0, 0], x[0, :, 1]),
    "attention": lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
    "rand": lambda x: x + torsh.rand(x.shape[0], 1, 1),
    "randn": lambda x: x + torsh.randn_like(x),
    "dropout": lambda x: F.dropout(x, 0.5),
    "mse": lambda x: F.mse_loss(x, x * 0.5),
    "cross_entropy": lambda x: F.cross_entropy(x[:, 0], (x[:, 0, 0] > 0).long()),
    "binary": lambda x: F.binary_cross_entropy_with_logits(x, (x > 0).float()),
}
# Where the range begins when it is not 1; None: refused.
FROM = {"squeeze": 2, "batch_norm": 2, "linspace": None}
GRADIENT_FROM = {
    **FROM, "roll": 2, "prod": 2, "var": None, "cumprod": None, "adaptive": None, "attention": None,
}  # fmt: skip
NO_GRADIENT = {"topk", "argsort", "argmax", "one_hot", "embedding", "count", "any"}


def gradient(f):
    def g(x):
        y = x.detach().clone().requires_grad_()
        with torsh.enable_grad():
            out = f(y).float()
            return torsh.autograd.grad((out * out).mean(), y)[0]

    return g


def check(fn, low, path):
    def export(least: int):
        torsh.manual_seed(0)
        n, m = Dim("n", min=least, max=64), Dim("m", min=least, max=64)
        torsh.export(fn, (rand(6, 9, 4),), path, dynamic=({0: n, 1: m},))

    if low is None:
        with pytest.raises(torsh.ExportError, match=r"is another|follow"):
            export(2)
        return
    if low > 1:
        with pytest.raises(torsh.ExportError, match=r"n=1|m=1"):
            export(1)
    export(low)
    program, compiled = torsh.load(path).to(torsh.get_default_device()), torsh.compile(fn)
    torsh.manual_seed(0)
    for size in SIZES if torsh.get_default_device().type == "cpu" else DEVICE_SIZES:
        if min(size) >= low:
            x = rand(*size, 4)
            assert bits(program(x)) == bits(compiled(x)), size


@pytest.mark.parametrize("op", OPS)
def test_forward(op, tmp_path):
    check(OPS[op], FROM.get(op, 1), tmp_path / "a.torsh")


@pytest.mark.parametrize("op", [op for op in OPS if op not in NO_GRADIENT])
def test_gradient(op, tmp_path):
    check(gradient(OPS[op]), GRADIENT_FROM.get(op, 1), tmp_path / "a.torsh")


@pytest.mark.parametrize("dtype", [torsh.float16, torsh.bfloat16])
@pytest.mark.parametrize("of", [lambda n: n + 1, lambda n: 2 * n - 1, lambda n: 3 * n, lambda n: -n])
def test_numbers_that_are_told_apart_only_where_they_round(tmp_path, of, dtype):
    """Most sizes round `n` and `n + 1` alike: what is exported must be right where they are not."""

    def f(x):
        return torsh.full((1,), of(x.shape[0]), dtype=dtype) + 0 * x[:1].to(dtype)

    torsh.export(f, (torsh.ones(5000),), tmp_path / "a.torsh", dynamic=({0: Dim("n", min=5000, max=8000)},))
    program = torsh.load(tmp_path / "a.torsh")
    for n in (*range(5000, 5140), 7999, 8000):
        assert program(torsh.ones(n)).tolist() == torsh.full((1,), of(n), dtype=dtype).tolist(), n
