"""Exports some programs as libraries in C for both architectures: `python tools/c_libraries.py FOLDER`.

The files are the same on every machine with the same cross compilers; `tools/aarch64.sh python` compares them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torsh
import torsh.nn.functional as F
from torsh import nn

TARGETS = ("x86_64", "aarch64")


def rand(*shape: int):
    return torsh.sin(torsh.arange(torsh.Size(shape).numel()) * 0.7).reshape(shape)


def network():
    torsh.manual_seed(1)
    layers = nn.Conv2d(2, 4, 3), nn.GELU(), nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, 10), nn.Softmax(-1)
    return nn.Sequential(*layers), (rand(3, 2, 8, 8),), {}


def attention():
    def f(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True), torsh.argsort(q, -1), q.half().sum(1)

    return f, tuple(rand(1, 2, 70, 20) * (i + 1) for i in range(3)), {}


def step():
    """A training step with dropout."""
    torsh.manual_seed(2)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 5))
    opt = torsh.optim.AdamW(model.parameters(), lr=0.01)

    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step, (rand(8, 20), torsh.tensor([0, 1, 2, 3, 4, 0, 1, 2])), {"weights": "file"}


def gradients():
    torsh.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), (rand(4, 6),), {"include_grad": True}


def main(folder: str) -> None:
    for target in TARGETS:
        os.environ["CC"] = f"{target}-linux-gnu-gcc"
        place = Path(folder) / target
        place.mkdir(parents=True)
        for make in (network, attention, step, gradients):
            fn, args, options = make()
            torsh.export(fn, args, place / make.__name__, format="c", targets=(target,), **options)


if __name__ == "__main__":
    main(sys.argv[1])
