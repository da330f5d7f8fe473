"""Matrix products: square, skinny with constant weights, and linear + bias + gelu."""

from __future__ import annotations

from benchmarks.workloads.base import Workload, normal

_C = 0.7978845608028654  # sqrt(2 / pi)


class Matmul(Workload):
    """[n, n] times [n, n]."""

    def __init__(self, n: int):
        super().__init__(f"matmul-{n}", bytes=12 * n * n, flops=2 * n**3, array=4 * n * n)
        self.n = n

    def inputs(self, np, rng):
        return [normal(np, rng, self.n, self.n), normal(np, rng, self.n, self.n)]

    def reference(self, np, x, y):
        return x @ y

    def numpy(self, np, arrays):
        return (lambda x, y: x @ y), arrays

    def torch(self, lib, arrays, peer):
        return (lambda x, y: lib.matmul(x, y)), arrays

    def jax(self, jax, arrays):
        return jax.numpy.matmul, arrays


class Skinny(Workload):
    """[m, k] times constant weights [k, n]: the weights are captured where a library can, so that it may pack
    them once."""

    reads = True

    def __init__(self, m: int, k: int, n: int):
        super().__init__(f"skinny-{m}x{k}x{n}", bytes=4 * (m * k + k * n + m * n), flops=2 * m * k * n, array=4 * k * n)
        self.m, self.k, self.n = m, k, n

    def inputs(self, np, rng):
        return [normal(np, rng, self.m, self.k), normal(np, rng, self.k, self.n)]

    def reference(self, np, x, w):
        return x @ w

    def numpy(self, np, arrays):
        return (lambda x, w: x @ w), arrays

    def torch(self, lib, arrays, peer):
        x, w = arrays
        return (lambda x: lib.matmul(x, w)), [x]

    def jax(self, jax, arrays):
        return jax.numpy.matmul, arrays


class LinearGelu(Workload):
    """gelu(x @ w.T + b): [512, 1024], [4096, 1024], [4096]."""

    def __init__(self):
        m, k, n = 512, 1024, 4096
        super().__init__(
            "linear-gelu", bytes=4 * (m * k + k * n + m * n), flops=2 * m * k * n + 19 * m * n, array=4 * k * n
        )

    def inputs(self, np, rng):
        return [normal(np, rng, 512, 1024), normal(np, rng, 4096, 1024, scale=1 / 32), normal(np, rng, 4096)]

    def reference(self, np, x, w, b):
        v = x @ w.T + b
        return 0.5 * v * (1 + np.tanh(_C * (v + 0.044715 * v**3)))

    def numpy(self, np, arrays):
        half, c, k = np.float32(0.5), np.float32(_C), np.float32(0.044715)

        def fn(x, w, b):
            v = x @ w.T + b
            return half * v * (1 + np.tanh(c * (v + k * v * v * v)))

        return fn, arrays

    def torch(self, lib, arrays, peer):
        F = lib.nn.functional
        return (lambda x, w, b: F.gelu(F.linear(x, w, b), approximate="tanh")), arrays

    def jax(self, jax, arrays):
        x, w, b = arrays
        # The layout that a jax user keeps: [in, out].
        return (lambda x, w, b: jax.nn.gelu(x @ w + b, approximate=True)), [x, jax.numpy.array(w.T), b]


def workloads():
    """This family."""
    for n in (128, 256, 512, 1024, 2048):
        yield Matmul(n)
    yield Skinny(1, 1024, 1024)
    yield Skinny(32, 4096, 1024)
    yield LinearGelu()
