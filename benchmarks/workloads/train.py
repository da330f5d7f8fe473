"""What training steps share: loading parameters, the step of libraries with PyTorch's interface, and optimizers in
plain jax and in NumPy, with the mathematics of `torch.optim`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """SGD, Adam or AdamW with PyTorch's defaults."""

    kind: str
    lr: float
    decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    @property
    def passes(self) -> int:
        """Least reads and writes of memory of parameter size in a step: two reads in the forward and backward
        pass, one write, and both moments read and written."""
        return 3 if self.kind == "sgd" else 7

    def torch(self, lib, params):
        """The optimizer of a library with PyTorch's interface."""
        if self.kind == "sgd":
            return lib.optim.SGD(params, lr=self.lr)
        if self.kind == "adam":
            return lib.optim.Adam(params, lr=self.lr)
        return lib.optim.AdamW(params, lr=self.lr, weight_decay=self.decay)

    def init(self, params: dict, zeros_like) -> dict:
        """The state: step count and moments."""
        if self.kind == "sgd":
            return {}
        moments = {f"{part}:{k}": zeros_like(p) for k, p in params.items() for part in "mv"}
        return {"t": 0.0, **moments}

    def update(self, params: dict, grads: dict, state: dict, sqrt) -> tuple[dict, dict]:
        """(parameters, state) after a step; for jax and NumPy."""
        if self.kind == "sgd":
            return {k: p - self.lr * grads[k] for k, p in params.items()}, state
        t = state["t"] + 1.0
        c1, c2 = 1.0 - self.b1**t, 1.0 - self.b2**t
        fresh, out = {"t": t}, {}
        for k, p in params.items():
            m = self.b1 * state[f"m:{k}"] + (1 - self.b1) * grads[k]
            v = self.b2 * state[f"v:{k}"] + (1 - self.b2) * grads[k] * grads[k]
            fresh[f"m:{k}"], fresh[f"v:{k}"] = m, v
            if self.kind == "adamw":
                p = p * (1.0 - self.lr * self.decay)
            out[k] = p - (self.lr / c1) * m / (sqrt(v) / c2**0.5 + self.eps)
        return out, fresh


def load(lib, model, names, arrays):
    """Sets the model's parameters, all of them, from arrays in the order of the names."""
    model.load_state_dict(dict(zip(names, arrays, strict=True)))
    return model


def torch_step(lib, model, optimizer, loss_of):
    """The usual training step; `loss_of(model, x, y)`."""

    def step(x, y):
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def jax_step(jax, params: dict, optimizer: Optimizer, loss_of):
    """A step that keeps its state and donates it to each call; `loss_of(params, x, y)`."""

    def update(params, state, x, y):
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        params, state = optimizer.update(params, grads, state, jax.numpy.sqrt)
        return params, state, loss

    compiled = jax.jit(update, donate_argnums=(0, 1))
    held = [params, optimizer.init(params, jax.numpy.zeros_like)]

    def step(x, y):
        held[0], held[1], loss = compiled(held[0], held[1], x, y)
        return loss

    step.compiled = True
    return step


def jax_cross_entropy(jax, logits, y):
    """Mean cross entropy of [n, classes] logits."""
    logp = jax.nn.log_softmax(logits, axis=-1)
    return -jax.numpy.take_along_axis(logp, y[:, None], axis=-1).mean()
