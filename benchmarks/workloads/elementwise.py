"""Elementwise programs: dispatch cost, gelu(x*w+b)+r at sizes from first-level cache to DRAM, a chain of 20 ops."""

from __future__ import annotations

from benchmarks.workloads.base import Workload, normal

_C = 0.7978845608028654  # sqrt(2 / pi)


class Dispatch(Workload):
    """x * y + x of 16 floats: what a call costs."""

    def __init__(self):
        super().__init__("dispatch", bytes=16 * 12, flops=32, array=64)

    def inputs(self, np, rng):
        return [normal(np, rng, 16), normal(np, rng, 16)]

    def reference(self, np, x, y):
        return x * y + x

    def numpy(self, np, arrays):
        return (lambda x, y: x * y + x), arrays

    def torch(self, lib, arrays, peer):
        return (lambda x, y: x * y + x), arrays

    def jax(self, jax, arrays):
        return (lambda x, y: x * y + x), arrays


class Gelu(Workload):
    """gelu(x*w+b)+r with the tanh form; the name gives the bytes of each of the five arrays."""

    def __init__(self, label: str, size: int):
        # Two ops before, one after, eight cheap ones and a tanh within.
        super().__init__(f"gelu-{label}", bytes=5 * size, flops=size // 4 * 21, array=size)
        self.n = size // 4

    def inputs(self, np, rng):
        return [normal(np, rng, self.n) for _ in range(4)]

    def reference(self, np, x, w, b, r):
        v = x * w + b
        return 0.5 * v * (1 + np.tanh(_C * (v + 0.044715 * v**3))) + r

    def numpy(self, np, arrays):
        half, c, k = np.float32(0.5), np.float32(_C), np.float32(0.044715)

        def fn(x, w, b, r):
            v = x * w + b
            return half * v * (1 + np.tanh(c * (v + k * v * v * v))) + r

        return fn, arrays

    def torch(self, lib, arrays, peer):
        gelu = lib.nn.functional.gelu
        return (lambda x, w, b, r: gelu(x * w + b, approximate="tanh") + r), arrays

    def jax(self, jax, arrays):
        return (lambda x, w, b, r: jax.nn.gelu(x * w + b, approximate=True) + r), arrays


def _chain(clamp):
    def chain(x, y):
        for _ in range(10):
            x = clamp(x * 0.9 + y)
            y = y * x - 0.1
        return y

    return chain


class Chain(Workload):
    """x = clamp(x*.9+y, -3, 3); y = y*x-.1, ten times; the name gives the elements."""

    def __init__(self, label: str, n: int):
        # y may overflow no more than a product of threes allows: inputs are small.
        super().__init__(f"chain-{label}", bytes=12 * n, flops=60 * n, array=4 * n)
        self.n = n

    def inputs(self, np, rng):
        return [normal(np, rng, self.n, scale=0.1), normal(np, rng, self.n, scale=0.1)]

    def reference(self, np, x, y):
        return _chain(lambda v: np.clip(v, -3, 3))(x, y)

    def numpy(self, np, arrays):
        low, high = np.float32(-3), np.float32(3)
        return _chain(lambda v: np.clip(v, low, high)), arrays

    def torch(self, lib, arrays, peer):
        return _chain(lambda v: v.clamp(-3, 3)), arrays

    def jax(self, jax, arrays):
        return _chain(lambda v: jax.numpy.clip(v, -3, 3)), arrays


def workloads():
    """This family."""
    k = 1 << 10
    yield Dispatch()
    for label, size in (
        ("4K", 4 * k), ("16K", 16 * k), ("64K", 64 * k), ("256K", 256 * k),
        ("1M", k * k), ("4M", 4 * k * k), ("16M", 16 * k * k), ("64M", 64 * k * k),
    ):  # fmt: skip
        yield Gelu(label, size)
    for label, n in (("64K", 64 * k), ("1M", k * k), ("16M", 16 * k * k)):
        yield Chain(label, n)
