"""Corners of the spatial layers, compared with PyTorch where it is installed and with NumPy."""

import itertools

import numpy as np
import pytest

import torsh
from torsh import nn
from torsh.nn import functional as F


def values(*shape, seed=3):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def both(f, *arrays, tolerance=1e-6):
    """Runs `f(module, *tensors)` with torsh and PyTorch and compares results and gradients."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    results = []
    for m in (torch, torsh):
        xs = [m.tensor(a, requires_grad=a.dtype == np.float32) for a in arrays]
        ys = f(m, *xs)
        ys = ys if isinstance(ys, tuple) else (ys,)
        if ys[0].requires_grad:
            weight = m.tensor(values(*ys[0].shape, seed=9))
            (ys[0] * weight).sum().backward()
        results.append([y.detach().numpy() for y in ys] + [x.grad.numpy() for x in xs if x.grad is not None])
    for want, got in zip(*results, strict=True):
        assert want.shape == got.shape and want.dtype == got.dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", [(1, 2), (0, 3), (3, 0), (2, 2, 1, 0), (1, 1, 2, 3)])
def test_padding_with_what_the_input_has(mode, pads):
    n = len(pads) // 2
    x = values(2, 3, *(5, 4)[2 - n :])
    want = np.pad(x, [(0, 0)] * 2 + [pads[i : i + 2] for i in reversed(range(0, len(pads), 2))], MODES[mode])
    t = torsh.tensor(x)
    np.testing.assert_array_equal(F.pad(t, pads, mode=mode).numpy(), want)
    np.testing.assert_array_equal(torsh.compile(lambda t: F.pad(t, pads, mode=mode) + 0.0)(t).numpy(), want)
    np.testing.assert_array_equal(F.pad(t[0], pads, mode=mode).numpy(), want[0])
    # The gradient counts how often each element was taken.
    t.requires_grad_(True)
    F.pad(t, pads, mode=mode).sum().backward()
    counts = np.zeros(x.size)
    where = np.pad(np.arange(x.size).reshape(x.shape), [(0, 0)] * 2 + [pads[i : i + 2] for i in
                   reversed(range(0, len(pads), 2))], MODES[mode])  # fmt: skip
    np.add.at(counts, where.reshape(-1), 1)
    np.testing.assert_array_equal(t.grad.numpy().reshape(-1), counts)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", [(-1, 2), (2, -1), (-1, -2), (0, 0)])
def test_padding_that_crops_against_torch(mode, pads):
    both(lambda m, x: m.nn.functional.pad(x, pads, mode=mode), values(2, 6))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("mode", ["zeros", *MODES])
@pytest.mark.parametrize("padding", [1, 2, "same", "valid"])
@pytest.mark.parametrize("n", [1, 2])
def test_padding_modes_of_convolutions_against_torch(mode, padding, n):
    def f(m, x, w, b):
        layer = (m.nn.Conv1d, m.nn.Conv2d)[n - 1](2, 3, 4, padding=padding, padding_mode=mode, dilation=1)
        with m.no_grad():
            layer.weight.copy_(w)
            layer.bias.copy_(b)
        assert mode == "zeros" or f"padding_mode={mode}" in repr(layer)
        return layer(x)

    both(f, values(2, 2, *[7, 6][:n]), values(3, 2, *[4] * n, seed=4), values(3, seed=5), tolerance=1e-5)


@pytest.mark.parametrize("size", [None, [9], [10], [1, 3, 10]])
def test_output_size_of_a_transposed_convolution_against_torch(size):
    def f(m, x, w):
        layer = m.nn.ConvTranspose1d(2, 3, 3, stride=2, bias=False)
        with m.no_grad():
            layer.weight.copy_(w)
        return layer(x, output_size=size)

    both(f, values(1, 2, 4), values(2, 3, 3), tolerance=1e-5)


def test_output_size_of_a_transposed_convolution():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    x = torsh.ones(1, 2, 4, 5)
    for h, w in itertools.product((7, 8), (9, 10)):
        y = layer(x, output_size=[h, w])
        assert y.shape == (1, 3, h, w)
        # The rest is what no window reaches but for its size.
        np.testing.assert_array_equal(y.detach().numpy()[..., :7, :9], layer(x).detach().numpy())
    assert layer(x[0], output_size=torsh.Size([8, 9])).shape == (3, 8, 9)
    with pytest.raises(ValueError, match=r"valid sizes range from \[7, 9\] to \[8, 10\]"):
        layer(x, output_size=[9, 10])


def test_empty_batches_of_transposed_convolutions():
    assert F.conv_transpose1d(torsh.ones(0, 2, 4), torsh.ones(2, 3, 3)).shape == (0, 3, 6)


def test_dropout2d_takes_the_first_two_dims_for_images_and_channels():
    torsh.manual_seed(1)
    with pytest.warns(UserWarning, match="2-D input"):
        y = F.dropout2d(torsh.ones(40, 50), 0.5).numpy()
    assert set(np.unique(y)) == {0.0, 2.0} and 0.4 < (y == 0).mean() < 0.6
    with pytest.warns(UserWarning, match=r"\(N, C, L\)"):
        y = F.dropout2d(torsh.ones(20, 30, 7), 0.5).numpy()
    assert (y == y[..., :1]).all() and 0.4 < (y == 0).mean() < 0.6
    with pytest.warns(UserWarning, match="5-D input"):
        y = nn.Dropout2d(0.5)(torsh.ones(20, 30, 2, 2, 2)).numpy()
    assert (y == y[..., :1, :1, :1]).all()
    with pytest.warns(UserWarning, match="1-D input"):
        assert F.dropout2d(torsh.ones(3), 0.5, training=False).tolist() == [1.0, 1.0, 1.0]
    assert F.dropout1d(torsh.ones(3, 4), 0.5).shape == (3, 4)


@pytest.mark.parametrize(("shape", "groups"), [((2, 4), 4), ((2, 4, 1), 2), ((1, 4, 1), 2), ((2, 4, 3), 4)])
def test_group_norm_with_few_values_against_torch(shape, groups):
    both(lambda m, x: m.nn.functional.group_norm(x, groups), values(*shape), tolerance=1e-4)


def test_a_divisor_of_zero_is_a_runtime_error():
    with pytest.raises(RuntimeError, match="divisor must be not zero"):
        nn.AvgPool2d(2, divisor_override=0)(torsh.ones(1, 1, 4, 4))


def test_adaptive_sizes_of_none():
    x = torsh.ones(1, 2, 5, 6)
    for f in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d):
        assert f(x, (None, 3)).shape == (1, 2, 5, 3) and f(x, (2, None)).shape == (1, 2, 2, 6)
        with pytest.raises(TypeError):
            f(x, None)
    for f in (F.adaptive_avg_pool1d, F.adaptive_max_pool1d):
        for none in (None, [None], (None,)):
            with pytest.raises(TypeError):
                f(x[0], none)
    assert nn.AdaptiveMaxPool2d((None, 2))(x).shape == (1, 2, 5, 2)


def window(i, size, out):
    return range(i * size // out, -(-(i + 1) * size // out))


@pytest.mark.parametrize("out", [(1, 1), (3, 2), (4, 5), (2, 5), (5, 7), (9, 3)])
@pytest.mark.parametrize("wrap", [lambda f: f, torsh.compile], ids=["lazy", "compiled"])
def test_adaptive_max_pool_and_its_positions(out, wrap):
    x = values(2, 3, 4, 5)
    x[0, 0] = 1.0
    x[1, 1] = np.round(x[1, 1])
    x[1, 2] = -np.inf
    y, at = wrap(lambda t: F.adaptive_max_pool2d(t, out, return_indices=True))(torsh.tensor(x))
    y, at = y.numpy(), at.numpy()
    assert at.dtype == np.int64 and at.shape == y.shape == (2, 3, *out)
    for n, c, i, j in np.ndindex(*y.shape):
        inside = [(r, q) for r in window(i, 4, out[0]) for q in window(j, 5, out[1])]
        best = max(inside, key=lambda p: x[n, c, p[0], p[1]])
        assert at[n, c, i, j] == best[0] * 5 + best[1] and y[n, c, i, j] == x[n, c, best[0], best[1]]
    flat = torsh.tensor(x[:, :, 0])
    y, at = wrap(lambda t: F.adaptive_max_pool1d(t, out[1], return_indices=True))(flat)
    np.testing.assert_array_equal(np.take_along_axis(x[:, :, 0], at.numpy(), 2), y.numpy())


@pytest.mark.parametrize("out", [1, 3, 4, 7])
def test_adaptive_max_pool_against_torch(out):
    both(lambda m, x: m.nn.functional.adaptive_max_pool2d(x, (out, 3), return_indices=True), values(2, 3, 4, 5))
    both(lambda m, x: m.nn.functional.adaptive_max_pool1d(x, out, return_indices=True), values(2, 3, 5))
    x = np.ones((1, 2, 4, 5), dtype=np.float32)
    both(lambda m, x: m.nn.functional.adaptive_max_pool2d(x, (out, 3), return_indices=True), x)
    x[0, 0, 1, 2] = x[0, 1, 3, 4] = x[0, 1, 0, 0] = np.nan
    both(lambda m, x: m.nn.functional.adaptive_max_pool2d(x, (out, 3), return_indices=True), x)


FOLDS = [
    {"kernel_size": 3},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": (2, 3), "dilation": (2, 1), "padding": 1, "stride": (3, 2)},
    {"kernel_size": (1, 2), "padding": (0, 1)},
]


@pytest.mark.parametrize("args", FOLDS)
def test_fold_is_the_gradient_of_unfold(args):
    x = torsh.tensor(values(2, 3, 6, 7), requires_grad=True)
    columns = F.unfold(x, **args)
    c = torsh.tensor(values(*columns.shape, seed=8))
    (columns * c).sum().backward()
    y = F.fold(c, (6, 7), **args)
    np.testing.assert_allclose(y.numpy(), x.grad.numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(torsh.compile(lambda c: F.fold(c, (6, 7), **args))(c).numpy(), y.numpy())
    np.testing.assert_allclose(F.fold(c[1], (6, 7), **args).numpy(), y.numpy()[1])
    c.requires_grad_(True)
    (F.fold(c, (6, 7), **args) * x.detach()).sum().backward()
    np.testing.assert_allclose(c.grad.numpy(), F.unfold(x.detach(), **args).numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("args", FOLDS)
def test_fold_and_unfold_against_torch(args):
    both(lambda m, x: m.nn.Unfold(**args)(x), values(2, 3, 6, 7))
    columns = F.unfold(torsh.ones(2, 3, 6, 7), **args)
    both(lambda m, c: m.nn.Fold((6, 7), **args)(c), values(*columns.shape), tolerance=1e-5)


def test_fold_keeps_infinities_where_they_are():
    x = np.zeros((1, 4, 4), dtype=np.float32)
    x[0, 0, 0] = np.inf
    y = F.fold(torsh.tensor(x), 3, 2).numpy()
    assert y[0, 0, 0, 0] == np.inf and (y.reshape(-1)[1:] == 0).all()
    assert F.fold(torsh.ones(0, 18, 4), (4, 4), 3).shape == (0, 2, 4, 4)
