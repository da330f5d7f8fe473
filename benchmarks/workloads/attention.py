"""Attention of 8 heads, 512 positions of 64, forward, without a mask and causal, by the library's function; and
written out with matmul and softmax."""

from __future__ import annotations

from benchmarks.workloads.base import Workload, need, normal

_HEADS, _LENGTH, _WIDTH = 8, 512, 64


def plain(lib, q, k, v, causal: bool):
    """Attention from its parts, for a library with PyTorch's interface."""
    score = lib.matmul(q, k.transpose(-2, -1)) * (q.shape[-1] ** -0.5)
    if causal:
        n = q.shape[-2]
        score = score.masked_fill(lib.ones(n, n, dtype=lib.bool).triu(1), float("-inf"))
    return lib.matmul(lib.nn.functional.softmax(score, dim=-1), v)


class Attention(Workload):
    """softmax(q k^T / 8) v. `form` is "", "masked" (causal) or "plain" (from its parts, no mask)."""

    def __init__(self, form: str):
        n = _HEADS * _LENGTH * _WIDTH
        scores = _HEADS * _LENGTH * _LENGTH
        if form == "masked":
            scores //= 2
        super().__init__(
            "attention" + ("-" + form if form else ""),
            bytes=16 * n,
            flops=scores * (4 * _WIDTH + 14),
            array=4 * n,
        )
        self.form, self.causal = form, form == "masked"

    def inputs(self, np, rng):
        return [normal(np, rng, 1, _HEADS, _LENGTH, _WIDTH) for _ in range(3)]

    def reference(self, np, q, k, v):
        s = q @ k.swapaxes(-1, -2) * q.dtype.type(0.125)
        if self.causal:
            s = np.where(np.tri(_LENGTH, dtype=bool), s, s.dtype.type(-np.inf))
        e = np.exp(s - s.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True) @ v

    def numpy(self, np, arrays):
        return (lambda q, k, v: self.reference(np, q, k, v)), arrays

    def torch(self, lib, arrays, peer):
        if self.form == "plain":
            return (lambda q, k, v: plain(lib, q, k, v, False)), arrays
        need(lib.nn.functional, "scaled_dot_product_attention")
        attend = lib.nn.functional.scaled_dot_product_attention
        if self.causal:
            return (lambda q, k, v: attend(q, k, v, is_causal=True)), arrays
        return (lambda q, k, v: attend(q, k, v)), arrays

    def jax(self, jax, arrays):
        return (lambda q, k, v: jax_attention(jax, q, k, v, self.causal)), arrays


def jax_attention(jax, q, k, v, causal: bool):
    """Attention in plain jax; [..., heads, length, width]."""
    jnp = jax.numpy
    s = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5)
    if causal:
        s = jnp.where(jnp.tri(q.shape[-2], dtype=bool), s, -jnp.inf)
    return jax.nn.softmax(s, axis=-1) @ v


def workloads():
    """This family."""
    for form in ("", "masked", "plain"):
        yield Attention(form)
