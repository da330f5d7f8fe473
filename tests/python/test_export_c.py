"""`torsh.export(format="c")`: libraries compute what compiled functions compute, whichever compiler made them."""

import numpy as np
import pytest
from c_library import compare, mlp, rand

import torsh
import torsh.nn.functional as F
from torsh import nn

# Libraries hold compiled kernels and are compared with these.
pytestmark = [
    pytest.mark.compiled_only,
    pytest.mark.host_only("libraries in C run on the host"),
    pytest.mark.usefixtures("compiler"),
]


def test_elementwise(tmp_path):
    def f(x, y):
        return torsh.where(x > y, x * 2 + y, torsh.exp(-x * x)), (x * 3).abs().sqrt()

    compare(tmp_path, f, (rand(7, 33), rand(7, 33, seed=1)))


@pytest.mark.parametrize(
    "name",
    "exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf sigmoid rsqrt "
    "reciprocal floor ceil round trunc sign neg abs".split(),
)
def test_functions_have_the_same_bits(tmp_path, name):
    op = getattr(torsh, name, None) or getattr(torsh.special, name)
    x = np.concatenate([np.linspace(-20, 20, 700), np.geomspace(1e-30, 1e30, 300), [0.0, -0.0, np.inf, -np.inf]])
    got = compare(tmp_path, lambda x: torsh.nan_to_num(op(x), 0.5), (torsh.tensor(x.astype(np.float32)),))
    assert np.isfinite(got[0]).all()


@pytest.mark.parametrize("name", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float64"])
def test_dtypes(tmp_path, name):
    dtype = getattr(torsh, name)
    x, y = (rand(6, 50, seed=s) * 10 for s in (2, 3))

    def f(a, b):
        if name == "bool":
            return a & b, (a | b).any(1), a ^ b, a.float()
        out = [a + b, a * b, torsh.maximum(a, b), a.sum(1), a.amax(0), a.argmax(1), a.float(), (a > b), a.prod(1)]
        return (*out, a // torsh.where(b == 0, torsh.ones_like(b), b))

    compare(tmp_path, f, (x.to(dtype), y.to(dtype)))


def test_floor_division_of_floats(tmp_path):
    x = torsh.tensor([1.0, 6.0, float("inf"), -5.0, -1.0, 0.0, 7.5, -0.0, 1.0])
    y = torsh.tensor([0.1, 0.2, 2.0, float("inf"), 3.0, -2.0, -2.5, 4.0, 0.0])
    both = lambda a, b: (torsh.nan_to_num(a // b, 0.5), torsh.nan_to_num(a % b, 0.5))  # noqa: E731
    compare(tmp_path, lambda x, y: (*both(x, y), *both(x.double(), y.double())), (x, y))


def test_casts_saturate(tmp_path):
    x = torsh.tensor([1e20, -1e20, float("nan"), 3.7, -3.7, 254.5, float("inf")])
    kinds = [torsh.int8, torsh.int32, torsh.int64, torsh.uint8, torsh.bool, torsh.float16, torsh.float64]
    compare(tmp_path, lambda x: [x.to(k) for k in kinds], (x,))


@pytest.mark.parametrize("shape", [(4, 16), (3, 700), (1, 5000)])
def test_rows(tmp_path, shape):
    def f(x, w):
        return (
            F.layer_norm(x, (shape[1],), w),
            torsh.softmax(x, -1),
            x.sum(),
            x.var(1),
            torsh.logsumexp(x, 1),
            x.mean(1),
        )

    compare(tmp_path, f, (rand(*shape), rand(shape[1], seed=1)))


@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 300, 70), (5, 7, 3), (64, 600, 33), (70, 1, 530), (9, 513, 1), (3, 0, 4)]
)
def test_products_have_the_same_bits(tmp_path, m, k, n):
    def f(a, b, c):
        return a @ b, a @ c.T, torsh.relu(b.T @ a.T)

    compare(tmp_path, f, (rand(m, k), rand(k, n, seed=1), rand(n, k, seed=2)))


@pytest.mark.parametrize("dtype", [torsh.float64, torsh.float16, torsh.bfloat16, torsh.int32])
def test_products_of_other_dtypes(tmp_path, dtype):
    compare(tmp_path, lambda a, b: a @ b, ((rand(2, 9, 300) * 4).to(dtype), (rand(300, 40, seed=1) * 4).to(dtype)))


def test_calls_by_index(tmp_path):
    index = torsh.tensor([3, 0, 2, 2, -1])
    where = torsh.tensor(np.random.default_rng(0).integers(0, 6, (6, 8)))

    def f(x, y, i, at):
        return (
            x[i], torsh.gather(x, 0, at), torsh.scatter_add(x, 0, at, y), x.index_add(0, i, y[:5]), torsh.cumsum(x, 1),
            torsh.cumsum(x.half(), 0), torsh.argsort(x, 1), torsh.argsort(x, 0, descending=True), torsh.topk(x, 3)[0],
            torsh.cumprod(x, 1),
        )  # fmt: skip

    compare(tmp_path, f, (rand(6, 8), rand(6, 8, seed=1), index, where))


def test_mlp(tmp_path):
    compare(tmp_path, mlp(), (rand(8, 20),))


def test_convolutions(tmp_path):
    torsh.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12),
        nn.ReLU(), nn.Flatten(), nn.Linear(12 * 9, 10),
    )  # fmt: skip
    net.eval()
    compare(tmp_path, net, (rand(2, 3, 16, 16),))
