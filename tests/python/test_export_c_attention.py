"""Attention in libraries in C: results and gradients have the bits of the compiled ones."""

import os
import sys
import time

import numpy as np
import pytest
from c_library import Library, array, compare, rand, same_bits, steps

import torsh
import torsh.nn.functional as F

pytestmark = [pytest.mark.compiled_only, pytest.mark.host_only("libraries in C run on the host")]


def operands(queries=80, keys=80, depth=16, width=16, heads=(2, 3)):
    q, k, v = (rand(*heads, queries, depth), rand(*heads, keys, depth, seed=1), rand(*heads, keys, width, seed=2))
    return q, k, v, rand(*heads, queries, width, seed=3)


def forward_and_grads(**options):
    """The attention with the cotangents of its operands."""

    def f(q, k, v, ct, *mask):
        given = {**options, "attn_mask": mask[0]} if mask else options

        def weighted(q, k, v):
            out = F.scaled_dot_product_attention(q, k, v, **given)
            return (out * ct).sum(), out

        grads, out = torsh.func.grad(weighted, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return out, *grads

    return f


def finite(arrays):
    return all(np.isfinite(a).all() for a in arrays)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "sizes", [{}, {"queries": 150, "keys": 300, "depth": 40, "width": 24}, {"queries": 300, "keys": 70, "depth": 5}]
)
def test_results_and_gradients_have_the_same_bits(tmp_path, sizes, causal):
    args = operands(**sizes)
    compare(tmp_path, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal), args[:3])
    got = compare(tmp_path, forward_and_grads(is_causal=causal), args, name="grads")
    assert finite(got)
    assert all(np.abs(g).max() > 0 for g in got)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("kind", ["bool", "added", "rows without a key", "broadcast"])
def test_masks(tmp_path, kind):
    args = operands(70, 130)
    mask = rand(70, 130, seed=4)
    if kind != "added":
        mask = mask > 0
    if kind == "rows without a key":
        mask[7:40] = False
    if kind == "broadcast":
        mask = rand(2, 1, 1, 130, seed=5) > 0
    compare(tmp_path, forward_and_grads(), (*args, mask))


@pytest.mark.usefixtures("compiler")
def test_views_are_read_where_they_are(tmp_path):
    x = rand(2, 80, 3, 4, 16)

    def f(x, ct):
        def loss(x):
            q, k, v = (x[:, :, i].transpose(1, 2) for i in range(3))
            return (F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2) * ct).sum()

        return torsh.func.grad(loss)(x)

    compare(tmp_path, f, (x, rand(2, 80, 4, 16, seed=1)))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torsh.float16, torsh.bfloat16])
def test_16_bit_floats(tmp_path, dtype):
    compare(tmp_path, forward_and_grads(is_causal=True), tuple(x.to(dtype) for x in operands()))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("causal", [True, False])
def test_dropout(tmp_path, causal):
    args = operands(70, 90)
    f = forward_and_grads(is_causal=causal, dropout_p=0.3)
    torsh.manual_seed(5)
    torsh.export(f, args, tmp_path / "drop", format="c")
    lib, compiled = Library(tmp_path, "drop"), torsh.compile(f)
    for _ in range(2):
        expected = [array(t) for t in compiled(*args)]
        got = [np.empty_like(e) for e in expected]
        assert lib.run([array(a) for a in args], got) == 0
        same_bits(got, expected)


@pytest.mark.usefixtures("compiler")
def test_large_values_are_finite_where_the_meaning_is(tmp_path):
    q, k, v, ct = operands(70, 80, 16, 8)
    got = compare(tmp_path, F.scaled_dot_product_attention, (q, k, v.sign() * 3e38))
    assert finite(got)
    # Products of queries and keys whose blocks overflow; NaN and infinity beside numbers.
    got = compare(tmp_path, numbers_of(forward_and_grads()), (q, k, v.sign() * 3e38, ct * 1e-3), name="large")
    assert np.isfinite(got[0]).all()
    v = np.array(v.numpy())
    v[0, 0, 3, 2], v[1, 1, 5, 1] = np.nan, np.inf
    compare(tmp_path, numbers_of(forward_and_grads(is_causal=True)), (q, k, torsh.tensor(v), ct), name="odd")
    k = np.array(k.numpy())
    k[0, 2, 9, 4] = np.inf
    compare(tmp_path, numbers_of(forward_and_grads()), (q, torsh.tensor(k), torsh.tensor(v), ct), name="odder")


@pytest.mark.usefixtures("compiler")
def test_queries_with_nan_cost_no_more_than_others(tmp_path):
    """Rows whose numbers are not finite are computed again, key by key, but not those that have nothing else."""
    q, k, v, _ = operands(256, 512, 64, 16, heads=(1, 1))
    f = F.scaled_dot_product_attention
    nan = torsh.full_like(q, float("nan"))
    compare(tmp_path, numbers_of(f), (nan, k, v), name="nans")
    torsh.export(f, (q, k, v), tmp_path / "plain", format="c")
    lib, out = Library(tmp_path, "plain"), np.empty((1, 1, 256, 16), np.float32)

    def best(q):
        times = []
        for _ in range(9):
            begin = time.perf_counter()
            assert lib.run([q, array(k), array(v)], [out]) == 0
            times.append(time.perf_counter() - begin)
        return min(times)

    finite_time, nan_time = best(array(q)), best(array(nan))
    assert np.isnan(out).all()
    assert nan_time < 3 * finite_time


def numbers_of(f):
    """The bits of a NaN are nobody's: they become numbers."""
    return lambda *args: [torsh.nan_to_num(x, 0.5, 3e38, -3e38) for x in f(*args)]


def gpt():
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../examples"))
    try:
        import nanogpt
    finally:
        sys.path.pop(0)
    return nanogpt


@pytest.mark.usefixtures("compiler")
def test_gpt(tmp_path):
    nanogpt = gpt()
    torsh.manual_seed(0)
    model = nanogpt.GPT(65, nanogpt.Size())
    model.eval()
    text = torsh.tensor(np.random.default_rng(0).integers(0, 65, (2, nanogpt.Size().context)))
    compare(tmp_path, model, (text,))
    # What is not weights is code.
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert (tmp_path / "libmodel.a").stat().st_size < weights + 100_000


def gpt_step(dropout=None):
    """The whole training step of a small GPT whose attention takes the one-pass ops."""
    nanogpt = gpt()

    def make():
        torsh.manual_seed(0)
        size = nanogpt.Size(layers=2, heads=2, width=32, context=64)
        model = nanogpt.GPT(65, size) if dropout is None else nanogpt.GPT(65, size, dropout)
        model.train()
        opt = torsh.optim.AdamW(model.parameters(), lr=1e-3)

        def step(x, y):
            opt.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits.reshape(-1, 65), y.reshape(-1))
            loss.backward()
            opt.step()
            return loss

        return step, model

    rng = np.random.default_rng(1)
    return make, tuple(torsh.tensor(rng.integers(0, 65, (2, 64))) for _ in range(2))


@pytest.mark.usefixtures("compiler")
def test_gpt_training_step(tmp_path):
    make, args = gpt_step()
    steps(tmp_path, make, args)
