"""Training steps of dense networks: handwritten digits, 784-512-512-10 with Adam, 1024-4096-1024 with SGD."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

from benchmarks.workloads.base import Step, Unsupported, normal
from benchmarks.workloads.train import Optimizer, jax_cross_entropy, jax_step, load, torch_step

_C = 0.7978845608028654  # sqrt(2 / pi)


class Mlp(Step):
    """A step of a network with layers of the given sizes; cross entropy on classes or mean squared error."""

    def __init__(self, name, sizes, batch, activation, loss, optimizer):
        pairs = list(zip(sizes, sizes[1:], strict=False))
        params = sum(a * b + b for a, b in pairs)
        # Forward, and both gradients but that of the input.
        flops = 6 * batch * sum(a * b for a, b in pairs) - 2 * batch * sizes[0] * sizes[1]
        super().__init__(name, bytes=4 * params * optimizer.passes, flops=flops, array=4 * max(a * b for a, b in pairs))
        self.sizes, self.batch, self.activation = sizes, batch, activation
        self.loss, self.optimizer = loss, optimizer
        self.names = [f"{2 * i}.{part}" for i in range(len(pairs)) for part in ("weight", "bias")]

    def data(self, np, rng):
        """Inputs and targets."""
        x = normal(np, rng, self.batch, self.sizes[0])
        if self.loss == "mse":
            return x, normal(np, rng, self.batch, self.sizes[-1])
        return x, rng.integers(0, self.sizes[-1], self.batch)

    def inputs(self, np, rng):
        out = list(self.data(np, rng))
        for a, b in zip(self.sizes, self.sizes[1:], strict=False):
            out += [normal(np, rng, b, a, scale=a**-0.5), np.zeros(b, np.float32)]
        return out

    def reference(self, np, *arrays):
        return NumpyMlp(np, self, arrays)

    def numpy(self, np, arrays):
        return NumpyMlp(np, self, arrays), []

    def torch(self, lib, arrays, peer):
        nn, F = lib.nn, lib.nn.functional
        layers = []
        for a, b in zip(self.sizes, self.sizes[1:], strict=False):
            layers += [nn.Linear(a, b), nn.ReLU() if self.activation == "relu" else nn.GELU(approximate="tanh")]
        model = load(lib, nn.Sequential(*layers[:-1]), self.names, arrays[2:])
        loss = F.mse_loss if self.loss == "mse" else F.cross_entropy
        optimizer = self.optimizer.torch(lib, model.parameters())
        return torch_step(lib, model, optimizer, lambda m, x, y: loss(m(x), y)), arrays[:2]

    def jax(self, jax, arrays):
        jnp = jax.numpy
        # The layout that a jax user keeps: [in, out].
        params = {k: jnp.array(a.T) for k, a in zip(self.names, arrays[2:], strict=True)}
        last = len(self.sizes) - 2

        def loss_of(p, x, y):
            for i in range(last + 1):
                x = x @ p[f"{2 * i}.weight"] + p[f"{2 * i}.bias"]
                if i < last:
                    x = jax.nn.relu(x) if self.activation == "relu" else jax.nn.gelu(x, approximate=True)
            return ((x - y) ** 2).mean() if self.loss == "mse" else jax_cross_entropy(jax, x, y)

        return jax_step(jax, params, self.optimizer, loss_of), arrays[:2]


class NumpyMlp:
    """The step by hand, in the dtype of the arrays."""

    def __init__(self, np, spec: Mlp, arrays):
        self.np, self.spec = np, spec
        self.x, self.y = arrays[:2]
        if spec.loss != "mse":
            self.y = self.y.astype(np.int64)
        self.params = dict(zip(spec.names, arrays[2:], strict=True))
        self.state = spec.optimizer.init(self.params, np.zeros_like)

    def _act(self, z):
        """Activation and its derivative."""
        np = self.np
        if self.spec.activation == "relu":
            return np.maximum(z, 0), (z > 0).astype(z.dtype)
        t = np.tanh(_C * (z + 0.044715 * z * z * z))
        return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * (_C * (1 + 3 * 0.044715 * z * z))

    def _loss(self, z):
        """Loss and its gradient."""
        np, y = self.np, self.y
        if self.spec.loss == "mse":
            d = z - y
            return float((d * d).mean()), d * (2.0 / d.size)
        rows = np.arange(len(y))
        z = z - z.max(1, keepdims=True)
        p = np.exp(z)
        s = p.sum(1, keepdims=True)
        loss = float((np.log(s[:, 0]) - z[rows, y]).mean())
        p /= s
        p[rows, y] -= 1
        return loss, p / len(y)

    def __call__(self):
        np, p = self.np, self.params
        last = len(self.spec.sizes) - 2
        x, kept = self.x, []
        for i in range(last + 1):
            z = x @ p[f"{2 * i}.weight"].T + p[f"{2 * i}.bias"]
            kept.append((x, None))
            if i < last:
                x, slope = self._act(z)
                kept[-1] = (kept[-1][0], slope)
        loss, d = self._loss(z)
        grads = {}
        for i in reversed(range(last + 1)):
            if i < last:
                d = d * kept[i][1]
            grads[f"{2 * i}.weight"], grads[f"{2 * i}.bias"] = d.T @ kept[i][0], d.sum(0)
            if i:
                d = d @ p[f"{2 * i}.weight"]
        self.params, self.state = self.spec.optimizer.update(p, grads, self.state, np.sqrt)
        return loss


class Digits(Mlp):
    """The demo's step on scikit-learn's handwritten digits (read from its file: importing it costs memory)."""

    def __init__(self):
        sizes, optimizer = (64, 256, 256, 10), Optimizer("adamw", 2e-3, 1e-2)
        super().__init__("digits-step", sizes, 128, "gelu", "cross-entropy", optimizer)

    def data(self, np, rng):
        spec = importlib.util.find_spec("sklearn")
        if spec is None:
            raise Unsupported("scikit-learn, which holds the digits, is not installed")
        path = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", max_rows=self.batch)
        return (table[:, :64] / 16).astype(np.float32), table[:, 64].astype(np.int64)


def workloads():
    """This family."""
    yield Digits()
    yield Mlp("mlp-784", (784, 512, 512, 10), 128, "relu", "cross-entropy", Optimizer("adam", 1e-3))
    yield Mlp("mlp-1024", (1024, 4096, 1024), 256, "gelu", "mse", Optimizer("sgd", 1.0))
