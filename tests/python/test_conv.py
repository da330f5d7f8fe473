"""Convolution, pooling and batch norm against direct float64 loops in NumPy, lazily and compiled."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import torsh
import torsh.nn.functional as F
from torsh import nn

CONV = [
    # input, weight, stride, padding, dilation, groups
    ((1, 1, 5), (1, 1, 3), 1, 0, 1, 1),
    ((2, 3, 11), (4, 3, 3), 2, 1, 1, 1),
    ((2, 4, 10), (6, 2, 2), 3, 2, 2, 2),
    ((3, 8), (5, 3, 3), 1, "same", 2, 1),
    ((2, 3, 9, 7), (4, 3, 3, 2), (1, 2), (1, 0), 1, 1),
    ((2, 3, 8, 8), (5, 3, 3, 3), 1, "same", 1, 1),
    ((2, 3, 8, 8), (5, 3, 4, 2), 1, "same", (1, 2), 1),
    ((2, 3, 8, 8), (5, 3, 3, 3), 2, "valid", 1, 1),
    ((1, 4, 7, 9), (4, 2, 2, 3), (1, 2), 2, (2, 1), 2),
    ((2, 5, 9, 10), (5, 1, 3, 3), 1, 1, 1, 5),
    ((2, 5, 9, 10), (10, 1, 3, 2), 2, 1, 1, 5),
    ((2, 3, 9, 8), (15, 1, 2, 2), 1, 0, 2, 3),
    ((3, 6, 5, 5), (4, 6, 1, 1), 1, 0, 1, 1),
    ((3, 6, 5, 5), (4, 6, 1, 1), 2, 1, 1, 1),
    ((3, 12, 13), (4, 3, 3, 3), 1, 1, 1, 1),
    ((1, 2, 3, 3), (2, 2, 3, 3), 1, 3, 1, 1),
    ((4, 16, 14, 14), (32, 16, 3, 3), 1, 1, 1, 1),
    ((2, 3, 4, 5, 6), (4, 3, 2, 3, 3), 1, 1, 1, 1),
    ((2, 4, 5, 4, 7), (6, 2, 2, 1, 3), (2, 1, 3), (0, 1, 2), (1, 2, 1), 2),
    ((3, 3, 4, 5), (2, 3, 3, 2, 3), 1, "same", 1, 1),
]


def twice(v, n):
    return (v,) * n if isinstance(v, int) else tuple(v)


def padded(x, lo, hi, value=0.0):
    lead = x.ndim - len(lo)
    return np.pad(x, [(0, 0)] * lead + list(zip(lo, hi, strict=True)), constant_values=value)


def conv_reference(x, w, b, stride, padding, dilation, groups):
    n = w.ndim - 2
    unbatched = x.ndim == n + 1
    x = (x[None] if unbatched else x).astype(np.float64)
    w = w.astype(np.float64)
    stride, dilation = twice(stride, n), twice(dilation, n)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
        lo, hi = [t // 2 for t in total], [t - t // 2 for t in total]
    else:
        lo = hi = twice(0 if padding == "valid" else padding, n)
    x = padded(x, lo, hi)
    out = [(x.shape[2 + d] - dilation[d] * (w.shape[2 + d] - 1) - 1) // stride[d] + 1 for d in range(n)]
    y = np.zeros((x.shape[0], w.shape[0], *out))
    per = w.shape[0] // groups
    for o in range(w.shape[0]):
        channels = slice(o // per * w.shape[1], (o // per + 1) * w.shape[1])
        for at in itertools.product(*map(range, out)):
            window = tuple(
                slice(p * s, p * s + d * (k - 1) + 1, d)
                for p, s, d, k in zip(at, stride, dilation, w.shape[2:], strict=True)
            )
            y[(slice(None), o, *at)] = (x[(slice(None), channels, *window)] * w[o]).reshape(x.shape[0], -1).sum(1)
    if b is not None:
        y += b.reshape(1, -1, *[1] * n)
    return y[0] if unbatched else y


def close(got, want, scale=1e-5):
    got = got.detach().numpy()
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=scale, atol=scale * max(1.0, np.abs(want).max(initial=0.0)))


def conv(x, w, b, *args):
    return getattr(F, f"conv{w.ndim - 2}d")(x, w, b, *args)


@pytest.mark.parametrize("case", CONV, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_is_the_direct_sum(case, bias, run, rng):
    xs, ws, *args = case
    x, w = rng.standard_normal(xs, np.float32), rng.standard_normal(ws, np.float32)
    b = rng.standard_normal(ws[:1], np.float32) if bias else None
    got = run(lambda x, w: conv(x, w, None if b is None else torsh.tensor(b), *args), torsh.tensor(x), torsh.tensor(w))
    close(got, conv_reference(x, w, b, *args))


@pytest.mark.parametrize("case", CONV, ids=str)
def test_conv_gradients_are_those_of_the_sum(case, run, rng):
    """The loss is linear in x and in w: a difference of values is the derivative along a direction."""
    xs, ws, *args = case
    x, w, dx, dw = (rng.standard_normal(s) for s in (xs, ws, xs, ws))
    ct = rng.standard_normal(conv_reference(x, w, None, *args).shape)

    def grads(x, w, ct):
        x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
        return torsh.autograd.grad((conv(x, w, None, *args) * ct).sum(), (x, w))

    gx, gw = run(grads, torsh.tensor(x), torsh.tensor(w), torsh.tensor(ct))
    along = [(conv_reference(dx, w, None, *args) * ct).sum(), (conv_reference(x, dw, None, *args) * ct).sum()]
    np.testing.assert_allclose([(gx.numpy() * dx).sum(), (gw.numpy() * dw).sum()], along, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_conv_of_other_floats(dtype, rng):
    x, w = rng.standard_normal((2, 3, 6, 6)), rng.standard_normal((4, 3, 3, 3))
    x, w = (torsh.tensor(v).to(getattr(torsh, dtype)) for v in (x, w))
    y = F.conv2d(x, w, padding=1)
    assert y.dtype == x.dtype
    want = conv_reference(x.double().numpy(), w.double().numpy(), None, 1, 1, 1, 1)
    scale = {"float16": 1e-3, "bfloat16": 8e-3, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(y.double().numpy(), want, rtol=scale, atol=scale * np.abs(want).max())


def test_second_derivatives_of_a_convolution(rng):
    x = torsh.tensor(rng.standard_normal((2, 2, 5, 6)), requires_grad=True)
    w = torsh.tensor(rng.standard_normal((3, 2, 3, 2)), requires_grad=True)

    def loss(x, w):
        return F.conv2d(x, w, stride=(2, 1), padding=1).tanh().square().sum()

    (gx,) = torsh.autograd.grad(loss(x, w), x, create_graph=True)
    v = torsh.tensor(rng.standard_normal((2, 2, 5, 6)))
    hx, hw = torsh.autograd.grad((gx * v).sum(), (x, w))

    def slope(x, w):
        x = x.detach().requires_grad_()
        return (torsh.autograd.grad(loss(x, w), x)[0] * v).sum().item()

    h = 1e-5
    dx, dw = (torsh.tensor(rng.standard_normal(tuple(p.shape))) for p in (x, w))
    with torsh.no_grad():
        steps = [(x + h * dx, w), (x - h * dx, w), (x, w + h * dw), (x, w - h * dw)]
    up, down, wup, wdown = (slope(*s) for s in steps)
    assert (up - down) / (2 * h) == pytest.approx((hx * dx).sum().item(), rel=1e-6)
    assert (wup - wdown) / (2 * h) == pytest.approx((hw * dw).sum().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("xs", "ws", "kw"),
    [
        ((2, 3, 5), (3, 2, 3), {}),
        ((2, 4, 5), (4, 3, 3), {"stride": 3, "padding": 1, "output_padding": 2, "groups": 2}),
        ((3, 4), (3, 2, 2), {"dilation": 2, "stride": 2, "output_padding": 1}),
        ((2, 3, 4, 5), (3, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ((1, 2, 3, 4), (2, 1, 2, 3), {"stride": (1, 2), "padding": (1, 0), "dilation": (2, 1), "groups": 2}),
        ((1, 2, 2, 2), (2, 2, 2, 2), {"padding": 1}),
        ((2, 4, 2, 3, 4), (4, 3, 2, 3, 2), {"stride": 2, "padding": 1, "output_padding": (1, 0, 1), "groups": 2}),
    ],
    ids=str,
)
def test_transposed_convolutions_are_transposed(xs, ws, kw, run, rng):
    """<conv_transpose(x), y> = <x, conv(y)> for every y of the result's shape."""
    x, w = torsh.tensor(rng.standard_normal(xs)), torsh.tensor(rng.standard_normal(ws))
    n = len(ws) - 2
    up = run(lambda x, w: getattr(F, f"conv_transpose{n}d")(x, w, **kw), x, w)
    back = {k: v for k, v in kw.items() if k != "output_padding"}
    for _ in range(3):
        y = torsh.tensor(rng.standard_normal(tuple(up.shape)))
        down = conv(
            y, w, None, back.get("stride", 1), back.get("padding", 0), back.get("dilation", 1), back.get("groups", 1)
        )
        # Extra elements of the result are reached by no window but may add one: compare where x is.
        down = down[tuple(slice(0, s) for s in x.shape)]
        assert (up * y).sum().item() == pytest.approx((x * down).sum().item(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("expected input.* to have 3 channels, but got 4 channels", lambda: F.conv2d(T(1, 4, 5, 5), T(2, 3, 3, 3))),
        ("expected weight to be at least 2", lambda: F.conv2d(T(1, 4, 5, 5), T(3, 2, 3, 3), groups=2)),
        (
            r"Calculated padded input size per channel: \(3 x 2\). Kernel size: \(3 x 3\)",
            lambda: F.conv2d(T(1, 1, 3, 2), T(1, 1, 3, 3)),
        ),
        (r"Expected 3D \(unbatched\) or 4D \(batched\) input to conv2d", lambda: F.conv2d(T(5, 5), T(1, 1, 3, 3))),
        ("expected a weight of 4 dims", lambda: F.conv2d(T(1, 1, 5, 5), T(1, 1, 3))),
        ("non-positive stride", lambda: F.conv1d(T(1, 1, 5), T(1, 1, 3), stride=0)),
        ("negative padding", lambda: F.conv1d(T(1, 1, 5), T(1, 1, 3), padding=-1)),
        ("dilation must be at least 1", lambda: F.conv1d(T(1, 1, 5), T(1, 1, 3), dilation=0)),
        ("non-positive groups", lambda: F.conv1d(T(1, 1, 5), T(1, 1, 3), groups=0)),
        ("a list of 2 values", lambda: F.conv2d(T(1, 1, 5, 5), T(1, 1, 3, 3), stride=(1, 1, 1))),
        ("not supported for strided", lambda: F.conv1d(T(1, 1, 5), T(1, 1, 3), stride=2, padding="same")),
        ("padding must be an int", lambda: F.conv1d(T(1, 1, 5), T(1, 1, 3), padding="full")),
        ("expected bias to be 1-dimensional with 2", lambda: F.conv1d(T(1, 1, 5), T(2, 1, 3), T(3))),
        ("output padding must be smaller", lambda: F.conv_transpose1d(T(1, 1, 5), T(1, 1, 3), output_padding=1)),
        ("Output size is too small", lambda: F.conv_transpose1d(T(1, 1, 1), T(1, 1, 1), padding=1)),
        ("pad should be at least 0 and at most half", lambda: F.max_pool1d(T(1, 1, 5), 2, padding=2)),
        ("Kernel size can't be greater", lambda: F.max_pool2d(T(1, 1, 2, 2), 3)),
        ("non-empty spatial", lambda: F.avg_pool2d(T(1, 1, 0, 2), 1)),
        ("non-positive stride", lambda: F.avg_pool1d(T(1, 1, 4), 2, stride=0)),
        ("must be not zero", lambda: F.avg_pool2d(T(1, 1, 4, 4), 2, divisor_override=0)),
        ("should contain exactly 2", lambda: F.adaptive_avg_pool2d(T(1, 1, 4, 4), (1, 2, 3))),
        ("more than 1 value per channel", lambda: F.batch_norm(T(1, 3), None, None, training=True)),
        ("to be defined when training=False", lambda: F.batch_norm(T(2, 3), None, None)),
        ("weight should contain 3 elements", lambda: F.batch_norm(T(2, 3), None, None, T(4), training=True)),
        ("divisible by num_groups", lambda: F.group_norm(T(2, 3), 2)),
        ("maximum size for tensor at dimension 0 is 3", lambda: T(3).unfold(0, 4, 1)),
        ("expected 4D input", lambda: nn.BatchNorm2d(3)(T(2, 3))),
        ("divisible by groups", lambda: nn.Conv2d(3, 4, 3, groups=2)),
        ("padding_mode must be one of", lambda: nn.Conv1d(3, 4, 3, padding_mode="mirror")),
        ('Only "zeros" padding mode', lambda: nn.ConvTranspose1d(3, 4, 3, padding_mode="reflect")),
        ("at most half of kernel size", lambda: F.max_pool1d(T(1, 1, 9), 2, padding=2, dilation=3)),
        ("at most half of kernel size", lambda: F.max_pool2d(T(1, 1, 9, 9), 3, padding=(1, 2), dilation=2)),
        ("more than 1 value per channel", lambda: F.group_norm(T(1, 4), 4)),
        ("more than 1 value per channel", lambda: nn.GroupNorm(4, 4).eval()(T(1, 4, 1, 1))),
        ("at least 2 dimensions", lambda: F.dropout2d(T(3))),
        ("Expected 2D or 3D input", lambda: F.dropout1d(T(3))),
        ("valid sizes range from", lambda: nn.ConvTranspose1d(2, 3, 3, stride=2)(T(1, 2, 4), output_size=[11])),
        ("must have 1 or 3 elements", lambda: nn.ConvTranspose1d(2, 3, 3, stride=2)(T(1, 2, 4), output_size=[9, 9])),
        ("Output size is too small", lambda: F.conv_transpose2d(T(1, 2, 1, 3), T(2, 3, 2, 2), padding=(1, 0))),
        ("size should be less than", lambda: nn.Conv1d(2, 3, 3, padding=6, padding_mode="reflect")(T(1, 2, 6))),
        ("wrapping around more", lambda: nn.Conv1d(2, 3, 3, padding=7, padding_mode="circular")(T(1, 2, 6))),
        ("Padding size 2 is not supported for 1D", lambda: F.pad(T(4), (1, 1), mode="reflect")),
        ("doesn't take in value", lambda: F.pad(T(1, 4), (1, 1), mode="circular", value=1.0)),
        ("leaves nothing", lambda: F.pad(T(1, 4), (-3, -2), mode="replicate")),
        ("divisible by the product of kernel_size", lambda: F.fold(T(1, 17, 4), (4, 4), 3)),
        ("match the number of windows", lambda: F.fold(T(1, 18, 5), (4, 4), 3)),
        ("Expected 2D or 3D", lambda: F.fold(T(1, 1, 18, 4), (4, 4), 3)),
        ("at least one", lambda: F.unfold(T(1, 1, 2, 2), 3)),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
@pytest.mark.filterwarnings("ignore:dropout2d:UserWarning")
def test_wrong_calls_are_refused_where_they_are_made(message, call):
    with pytest.raises((ValueError, RuntimeError), match=message):
        call()


def T(*shape):
    return torsh.zeros(*shape)


def test_wrong_dtypes_are_refused():
    with pytest.raises(TypeError, match="should be the same"):
        F.conv1d(T(1, 1, 5), T(1, 1, 3).double())
    with pytest.raises(TypeError, match="floating point"):
        F.conv1d(T(1, 1, 5).long(), T(1, 1, 3).long())
    with pytest.raises(TypeError, match="'stride' must be int"):
        F.conv1d(T(1, 1, 5), T(1, 1, 3), stride=1.5)


def test_huge_sizes_are_limits_not_overflows():
    big = 2**62
    with pytest.raises((MemoryError, ValueError)):
        F.conv1d(T(1, 1, 5), T(1, 1, 3), padding=big)
    with pytest.raises((MemoryError, ValueError)):
        F.conv1d(T(1, 1, 5), T(1, 1, 3), dilation=big)
    assert F.conv1d(T(1, 1, 5), T(1, 1, 1), dilation=big, stride=big).shape == (1, 1, 1)
    with pytest.raises((MemoryError, ValueError)):
        F.avg_pool1d(T(1, 1, 5), big, stride=big, ceil_mode=True)
    with pytest.raises((MemoryError, ValueError)):
        F.max_pool1d(T(1, 1, 5), big, stride=big, padding=big // 2, ceil_mode=True)


POOL = [
    # shape, kernel, stride, padding, dilation, ceil_mode
    ((2, 3, 9), 2, None, 0, 1, False),
    ((2, 3, 9), 2, None, 0, 1, True),
    ((3, 9), 3, 1, 1, 1, False),
    ((2, 3, 10), 3, 2, 1, 2, True),
    ((2, 3, 8, 6), 2, None, 0, 1, False),
    ((2, 3, 9, 7), (2, 3), None, 1, 1, True),
    ((2, 3, 9, 7), 3, 2, 1, 1, False),
    ((2, 3, 9, 7), (3, 2), (1, 3), (1, 0), 1, True),
    ((1, 2, 12, 11), (9, 8), (2, 3), (4, 1), 1, False),
    ((2, 2, 10, 10), (10, 10), 1, 0, 1, False),
    ((2, 3, 4, 5, 6), (2, 3, 2), None, (0, 1, 1), 1, True),
    ((1, 2, 5, 4, 6), 2, (1, 2, 3), 0, (1, 2, 1), False),
]


def windows_of(shape, kernel, stride, padding, dilation, ceil):
    """For each window its index in the result, and the coordinates of its elements (padding included)."""
    n = len(shape)
    kernel, padding, dilation = twice(kernel, n), twice(padding, n), twice(dilation, n)
    stride = kernel if stride is None else twice(stride, n)
    out = []
    for d in range(n):
        room = shape[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1 + (stride[d] - 1 if ceil else 0)
        size = room // stride[d] + 1
        out.append(size - 1 if ceil and (size - 1) * stride[d] >= shape[d] + padding[d] else size)
    for at in itertools.product(*map(range, out)):
        begin = [a * s - p for a, s, p in zip(at, stride, padding, strict=True)]
        yield (
            at,
            [
                tuple(b + k * d for b, k, d in zip(begin, ks, dilation, strict=True))
                for ks in itertools.product(*map(range, kernel))
            ],
            out,
        )


def inside(point, shape):
    return all(0 <= p < s for p, s in zip(point, shape, strict=True))


@pytest.mark.parametrize("case", POOL, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_and_its_gradient(case, ties, run, rng):
    shape, *args = case
    n = max(1, len(shape) - 2)
    x = rng.standard_normal(shape)
    if ties:
        x = np.round(x)
        x[..., 0] = -np.inf
    space, planes = shape[-n:], x.reshape(-1, *shape[-n:])
    list_of = list(windows_of(space, *args))
    out = list_of[0][2]
    want, index = np.zeros((len(planes), *out)), np.zeros((len(planes), *out), np.int64)
    ct = rng.standard_normal(want.shape)
    grad = np.zeros_like(planes)
    for p, plane in enumerate(planes):
        for at, points, _ in list_of:
            valid = [q for q in points if inside(q, space)]
            best = valid[int(np.argmax([plane[q] for q in valid]))]
            want[(p, *at)] = plane[best]
            index[(p, *at)] = np.ravel_multi_index(best, space)
            grad[(p, *best)] += ct[(p, *at)]
    final = (*shape[:-n], *out)
    pool = getattr(F, f"max_pool{n}d")

    def both(x, ct):
        x = x.detach().requires_grad_()
        y, i = pool(x, *args, return_indices=True)
        # Not through a product with ct: 0 * inf would be no gradient.
        y.backward(ct)
        return y, i, x.grad

    y, i, g = run(both, torsh.tensor(x), torsh.tensor(ct.reshape(final)))
    np.testing.assert_array_equal(y.detach().numpy(), want.reshape(final))
    np.testing.assert_array_equal(i.numpy(), index.reshape(final))
    np.testing.assert_allclose(g.numpy(), grad.reshape(shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in POOL if c[4] == 1], ids=str)
@pytest.mark.parametrize(("include", "divisor"), [(True, None), (False, None), (True, 5)])
def test_avg_pool_and_its_gradient(case, include, divisor, run, rng):
    shape, kernel, stride, padding, _, ceil = case
    n = max(1, len(shape) - 2)
    if n == 1 and divisor is not None:
        pytest.skip("avg_pool1d has no divisor_override")
    x = rng.standard_normal(shape)
    space, planes = shape[-n:], x.reshape(-1, *shape[-n:])
    pads = twice(padding, n)
    list_of = list(windows_of(space, kernel, stride, padding, 1, ceil))
    want = np.zeros((len(planes), *list_of[0][2]))
    ct, grad = rng.standard_normal(want.shape), np.zeros_like(planes)
    for p, plane in enumerate(planes):
        for at, points, _ in list_of:
            valid = [q for q in points if inside(q, space)]
            reach = [q for q in points if all(c < s + w for c, s, w in zip(q, space, pads, strict=True))]
            by = divisor or len(reach if include else valid)
            want[(p, *at)] = sum(plane[q] for q in valid) / by
            for q in valid:
                grad[(p, *q)] += ct[(p, *at)] / by
    final = (*shape[:-n], *list_of[0][2])
    pool = getattr(F, f"avg_pool{n}d")
    extra = {} if n == 1 else {"divisor_override": divisor}

    def both(x, ct):
        x = x.detach().requires_grad_()
        y = pool(x, kernel, stride, padding, ceil, include, **extra)
        return y, *torsh.autograd.grad((y * ct).sum(), x)

    y, g = run(both, torsh.tensor(x), torsh.tensor(ct.reshape(final)))
    np.testing.assert_allclose(y.detach().numpy(), want.reshape(final), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(g.numpy(), grad.reshape(shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 3, 7), 3), ((3, 5), 8), ((2, 3, 8, 6), (4, 3)), ((2, 3, 7, 5), (3, None)), ((1, 2, 6, 6), 1)]
    + [((2, 2, 3, 7, 5), (2, 3, None)), ((1, 2, 4, 6, 2), 2)],
    ids=str,
)
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_pools(shape, size, kind, run, rng):
    n = max(1, len(shape) - 2)
    x = rng.standard_normal(shape)
    sizes = [
        shape[len(shape) - n + d] if s is None else s
        for d, s in enumerate(twice(size, n) if isinstance(size, int) else size)
    ]
    want = np.zeros((*shape[:-n], *sizes))
    for at in itertools.product(*map(range, sizes)):
        part = tuple(slice(a * e // s, -(-(a + 1) * e // s)) for a, s, e in zip(at, sizes, shape[-n:], strict=True))
        window = x[(..., *part)].reshape(*shape[:-n], -1)
        want[(..., *at)] = window.mean(-1) if kind == "avg" else window.max(-1)
    pool = getattr(F, f"adaptive_{kind}_pool{n}d")
    close(run(lambda x: pool(x, size), torsh.tensor(x)), want, 1e-12)
    if kind == "max":
        y, at = pool(torsh.tensor(x), size, return_indices=True)
        flat = x.reshape(*shape[: len(shape) - n], -1)
        picked = np.take_along_axis(flat, at.numpy().reshape(*flat.shape[:-1], -1), -1)
        np.testing.assert_array_equal(picked.reshape(y.shape), y.numpy())
    g = torsh.tensor(x, requires_grad=True)
    pool(g, size).sum().backward()
    assert g.grad.sum().item() == pytest.approx(want.size)


def batch_norm_reference(x, w, b, eps):
    dims = tuple(d for d in range(x.ndim) if d != 1)
    column = (1, -1) + (1,) * (x.ndim - 2)
    mean, var = x.mean(dims), x.var(dims)
    y = (x - mean.reshape(column)) / np.sqrt(var.reshape(column) + eps)
    return y * w.reshape(column) + b.reshape(column), mean, x.var(dims, ddof=1)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 5, 6), (2, 1, 3, 3)])
def test_batch_norm_in_training(shape, run, rng):
    # A mean far from 0: a one-pass variance in float32 would lose it.
    x = (rng.standard_normal(shape) + 300).astype(np.float32)
    w, b = rng.standard_normal(shape[1]), rng.standard_normal(shape[1])
    mean, var = torsh.tensor(rng.standard_normal(shape[1])).float(), torsh.rand(shape[1]) + 0.5
    before = mean.numpy().copy(), var.numpy().copy()
    want, batch_mean, batch_var = batch_norm_reference(x.astype(np.float64), w, b, 1e-5)
    tw, tb = torsh.tensor(w).float(), torsh.tensor(b).float()
    got = run(lambda x: F.batch_norm(x, mean, var, tw, tb, training=True, momentum=0.3), torsh.tensor(x))
    close(got, want, 1e-3)
    np.testing.assert_allclose(mean.numpy(), 0.7 * before[0] + 0.3 * batch_mean, rtol=1e-5)
    np.testing.assert_allclose(var.numpy(), 0.7 * before[1] + 0.3 * batch_var, rtol=1e-3)
    close(
        F.batch_norm(torsh.tensor(x), mean, var, tw, tb),
        (x - mean.numpy().reshape(1, -1, *[1] * (len(shape) - 2)))
        / np.sqrt(var.numpy().reshape(1, -1, *[1] * (len(shape) - 2)) + 1e-5)
        * w.reshape(1, -1, *[1] * (len(shape) - 2))
        + b.reshape(1, -1, *[1] * (len(shape) - 2)),
        1e-4,
    )


def test_batch_norm_layer_tracks_in_a_compiled_step(rng):
    x = [torsh.tensor(rng.standard_normal((8, 2, 3, 3))).float() for _ in range(3)]
    lazy, compiled, mean_of_all = nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None)
    step = torsh.compile(lambda v: compiled(v))
    for v in x:
        assert np.array_equal(lazy(v).detach().numpy(), step(v).detach().numpy())
        mean_of_all(v)
    assert list(lazy.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    for name, value in lazy.state_dict().items():
        assert np.array_equal(value.numpy(), compiled.state_dict()[name].numpy()), name
    assert compiled.num_batches_tracked.item() == 3
    all_means = np.mean([v.numpy().mean((0, 2, 3)) for v in x], axis=0)
    np.testing.assert_allclose(mean_of_all.running_mean.numpy(), all_means, rtol=1e-4, atol=1e-6)
    compiled.eval()
    before = compiled.running_mean.numpy().copy()
    y = step(x[0])
    assert np.array_equal(before, compiled.running_mean.numpy()) and not np.array_equal(
        y.detach().numpy(), lazy(x[0]).detach().numpy()
    )


def test_group_and_instance_norm(rng):
    x = rng.standard_normal((2, 6, 3, 4))
    w, b = rng.standard_normal(6), rng.standard_normal(6)
    groups = x.reshape(2, 3, -1)
    want = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    want = want.reshape(x.shape) * w.reshape(1, 6, 1, 1) + b.reshape(1, 6, 1, 1)
    close(F.group_norm(torsh.tensor(x), 3, torsh.tensor(w), torsh.tensor(b)), want, 1e-10)
    each = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 1e-5)
    close(F.instance_norm(torsh.tensor(x)), each, 1e-10)
    layer = nn.InstanceNorm2d(6, affine=True, track_running_stats=True, dtype=torsh.float64)
    close(layer(torsh.tensor(x)), each, 1e-10)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * x.mean((2, 3)).mean(0), rtol=1e-9)


def test_unfold_is_the_matrix_of_windows(rng):
    x = rng.standard_normal((2, 3, 6, 7))
    got = F.unfold(torsh.tensor(x), (2, 3), dilation=(2, 1), padding=1, stride=2)
    w = rng.standard_normal((4, 3, 2, 3))
    y = torsh.tensor(w.reshape(4, -1)) @ got
    close(y, conv_reference(x, w, None, 2, 1, (2, 1), 1).reshape(2, 4, -1), 1e-12)
    assert torsh.arange(7).unfold(0, 3, 2).tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]


def test_layers_start_and_are_named_as_in_pytorch():
    layer = nn.Conv2d(4, 6, (3, 5), groups=2)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {"weight": (6, 2, 3, 5), "bias": (6,)}
    bound = 1 / np.sqrt(2 * 15)
    for p in layer.parameters():
        assert np.abs(p.detach().numpy()).max() <= bound
    assert np.abs(layer.weight.detach().numpy()).max() > 0.9 * bound
    assert tuple(nn.ConvTranspose2d(4, 6, 3, groups=2).weight.shape) == (4, 3, 3, 3)
    assert repr(nn.Conv2d(1, 2, 3, padding="same")) == (
        "Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding='same')"
    )
    assert repr(nn.MaxPool2d(2)) == "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"
    assert repr(nn.BatchNorm2d(3)) == ("BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)")


def test_layers_of_volumes(rng):
    x = torsh.tensor(rng.standard_normal((2, 4, 4, 6, 5), np.float32))
    conv = nn.Conv3d(4, 6, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 1), groups=2)
    close(
        conv(x), conv_reference(*(t.detach().numpy() for t in (x, conv.weight, conv.bias)), (1, 2, 1), (1, 0, 1), 1, 2)
    )
    wrapped = nn.Conv3d(4, 2, 3, padding=1, padding_mode="circular", bias=False)
    round_about = np.pad(x.numpy(), [(0, 0)] * 2 + [(1, 1)] * 3, mode="wrap")
    close(wrapped(x), conv_reference(round_about, wrapped.weight.detach().numpy(), None, 1, 0, 1, 1))
    up = nn.ConvTranspose3d(4, 2, 3, stride=2)
    assert up(x, output_size=(10, 13, 12)).shape == (2, 2, 10, 13, 12)
    y, at = nn.MaxPool3d(2, return_indices=True)(x)
    assert y.shape == at.shape == (2, 4, 2, 3, 2) and "kernel_size=2" in repr(nn.MaxPool3d(2))
    np.testing.assert_allclose(nn.AvgPool3d((4, 6, 5))(x).numpy(), x.mean((2, 3, 4), keepdim=True).numpy(), atol=1e-6)
    np.testing.assert_array_equal(nn.AdaptiveMaxPool3d(1)(x).numpy(), x.amax((2, 3, 4), keepdim=True).numpy())
    assert nn.AdaptiveAvgPool3d((None, 2, 1))(x).shape == (2, 4, 4, 2, 1)
    with pytest.raises(ValueError, match="5D"):
        F.conv3d(torsh.ones(2, 4, 4), conv.weight)


def test_dropout2d_drops_whole_channels():
    torsh.manual_seed(0)
    y = F.dropout2d(torsh.ones(64, 32, 2, 3), 0.25).numpy().reshape(64 * 32, -1)
    assert (y == y[:, :1]).all()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y[:, 0] == 0).mean() - 0.25) < 0.04
    layer = nn.Dropout2d(0.5).eval()
    x = torsh.rand(2, 3, 4, 4)
    assert torsh.equal(layer(x), x)


@pytest.mark.compiled_only
def test_a_convolution_does_not_store_its_windows():
    """Peak memory of a 3x3 convolution stays near operand and result: the matrix of windows has 9 times the operand."""
    x, w = torsh.rand(4, 16, 64, 64), torsh.rand(16, 16, 3, 3)
    plain = torsh.compile(lambda x, w: F.conv2d(x, w))
    plain(x, w)
    (program,) = plain.explain()["programs"]
    assert program["peak_bytes"] < 3 * x.nbytes
