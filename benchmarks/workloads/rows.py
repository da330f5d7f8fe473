"""Reductions over rows and columns: softmax, layer norm, cross entropy, column sums and variance, transpose + add."""

from __future__ import annotations

from benchmarks.workloads.base import Workload, normal


class Softmax(Workload):
    """Softmax of each row of [rows, 1024]."""

    def __init__(self, rows: int):
        n = rows * 1024
        super().__init__(f"softmax-{rows}", bytes=8 * n, flops=14 * n, array=4 * n)
        self.rows = rows

    def inputs(self, np, rng):
        return [normal(np, rng, self.rows, 1024)]

    def reference(self, np, x):
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def numpy(self, np, arrays):
        return (lambda x: self.reference(np, x)), arrays

    def torch(self, lib, arrays, peer):
        return (lambda x: lib.nn.functional.softmax(x, dim=1)), arrays

    def jax(self, jax, arrays):
        return (lambda x: jax.nn.softmax(x, axis=1)), arrays


class LayerNorm(Workload):
    """Layer norm of each row of [rows, 1024] with gamma and beta."""

    def __init__(self, rows: int):
        n = rows * 1024
        super().__init__(f"layernorm-{rows}", bytes=8 * n, flops=8 * n, array=4 * n)
        self.rows = rows

    def inputs(self, np, rng):
        return [normal(np, rng, self.rows, 1024), normal(np, rng, 1024), normal(np, rng, 1024)]

    def reference(self, np, x, g, b):
        d = x - x.mean(1, keepdims=True)
        return d / np.sqrt((d * d).mean(1, keepdims=True) + 1e-5) * g + b

    def numpy(self, np, arrays):
        eps = np.float32(1e-5)

        def fn(x, g, b):
            d = x - x.mean(1, keepdims=True)
            return d / np.sqrt((d * d).mean(1, keepdims=True) + eps) * g + b

        return fn, arrays

    def torch(self, lib, arrays, peer):
        return (lambda x, g, b: lib.nn.functional.layer_norm(x, (1024,), g, b)), arrays

    def jax(self, jax, arrays):
        jnp = jax.numpy

        def fn(x, g, b):
            return (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-5) * g + b

        return fn, arrays


class CrossEntropy(Workload):
    """Mean cross entropy of [4096, 1000] logits and its gradient."""

    def __init__(self):
        n = 4096 * 1000
        super().__init__("cross-entropy", bytes=8 * n, flops=25 * n, array=4 * n)

    def inputs(self, np, rng):
        return [normal(np, rng, 4096, 1000), rng.integers(0, 1000, 4096)]

    def reference(self, np, x, y):
        y = y.astype(np.int64)
        rows = np.arange(len(y))
        x = x - x.max(1, keepdims=True)
        p = np.exp(x)
        s = p.sum(1, keepdims=True)
        loss = (np.log(s[:, 0]) - x[rows, y]).mean()
        p /= s
        p[rows, y] -= 1
        p /= x.dtype.type(len(y))
        return loss, p

    def numpy(self, np, arrays):
        return (lambda x, y: self.reference(np, x, y)), arrays

    def torch(self, lib, arrays, peer):
        loss_of = lib.nn.functional.cross_entropy
        if peer == "torch-compile":
            # A backward pass starts outside of what torch.compile compiles.
            loss_of = lib.compile(loss_of)

        def fn(x, y):
            x = x.detach().requires_grad_()
            loss = loss_of(x, y)
            return loss.detach(), lib.autograd.grad(loss, x)[0]

        fn.compiled = peer == "torch-compile"
        return fn, arrays

    def jax(self, jax, arrays):
        def loss(x, y):
            logp = jax.nn.log_softmax(x, axis=1)
            return -jax.numpy.take_along_axis(logp, y[:, None], axis=1).mean()

        return jax.value_and_grad(loss), arrays


class Columns(Workload):
    """Sum or variance of [4096, 1024] over its rows: one result a column."""

    reads = True

    def __init__(self, kind: str):
        n = 4096 * 1024
        super().__init__(f"column-{kind}", bytes=4 * n, flops=(1 if kind == "sum" else 4) * n, array=4 * n)
        self.op = kind

    def inputs(self, np, rng):
        return [normal(np, rng, 4096, 1024)]

    def reference(self, np, x):
        return x.sum(0) if self.op == "sum" else x.var(0)

    def numpy(self, np, arrays):
        return (lambda x: self.reference(np, x)), arrays

    def torch(self, lib, arrays, peer):
        if self.op == "sum":
            return (lambda x: x.sum(0)), arrays
        return (lambda x: x.var(0, unbiased=False)), arrays

    def jax(self, jax, arrays):
        return (lambda x: x.sum(0) if self.op == "sum" else x.var(0)), arrays


class TransposeAdd(Workload):
    """x.T + y of [2048, 2048]."""

    def __init__(self):
        n = 2048 * 2048
        super().__init__("transpose-add", bytes=12 * n, flops=n, array=4 * n)

    def inputs(self, np, rng):
        return [normal(np, rng, 2048, 2048), normal(np, rng, 2048, 2048)]

    def reference(self, np, x, y):
        return x.T + y

    def numpy(self, np, arrays):
        return (lambda x, y: x.T + y), arrays

    def torch(self, lib, arrays, peer):
        return (lambda x, y: x.t() + y), arrays

    def jax(self, jax, arrays):
        return (lambda x, y: x.T + y), arrays


def workloads():
    """This family."""
    for rows in (512, 4096):
        yield Softmax(rows)
    for rows in (512, 4096):
        yield LayerNorm(rows)
    yield CrossEntropy()
    yield Columns("sum")
    yield Columns("var")
    yield TransposeAdd()
