"""Writes the golden packages of this version: `python tests/golden/make_packages.py VERSION`. Those of a released
version are never written again: every later release must load them and give the same results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torsh
from torsh import nn


def linear():
    """x @ weight.T + bias, of small integers."""
    layer = nn.Linear(3, 2)
    weight, bias = torsh.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]]), torsh.tensor([0.0, -2.0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer, (torsh.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),), {}


def step():
    """A training step with dropout, AdamW and everything that is state."""
    torsh.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.25), nn.Linear(8, 3))
    opt = torsh.optim.AdamW(model.parameters(), lr=0.01)

    def step(x, y):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step, (torsh.arange(20).reshape(5, 4) * 0.1, torsh.tensor([0, 1, 2, 1, 0])), {}


def gradients():
    """Several inputs, structured results, gradients, a signature."""

    def f(pair, scale):
        x, y = pair
        return {"z": torsh.tanh(x @ y) * scale, "top": (x * 2).argmax(1)}

    args = ((torsh.arange(6).reshape(2, 3) * 0.25, torsh.arange(12).reshape(3, 4) * -0.125), 1.5)
    return f, args, {"include_grad": True, "sign": bytes(range(32)), "license": "Apache-2.0", "metadata": {"k": "v"}}


def sizes():
    """Two sizes that vary, one of them in a sum and a mean."""

    def f(x, y):
        return {"mean": (x * y).mean(0), "joined": torsh.cat([x, y], 1).reshape(-1), "count": x.sum(1) / x.shape[0]}

    args = (torsh.arange(6).reshape(2, 3) * 0.5, torsh.arange(6).reshape(2, 3) - 2.0)
    n, m = torsh.Dim("n", max=64), torsh.Dim("m", min=2)
    return f, args, {"dynamic": ({0: n, 1: m}, {0: n, 1: m})}


MAKERS = {"linear": linear, "step": step, "gradients": gradients, "sizes": sizes}


def plain(x):
    if isinstance(x, torsh.Tensor):
        return x.detach().tolist()
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    return x


def main(version: str) -> None:
    folder = Path(__file__).parent / "packages" / version
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, make in MAKERS.items():
        fn, args, options = make()
        path = folder / f"{name}.torsh"
        torsh.export(fn, args, path, name=name, **options)
        program = torsh.load(path)
        expected[name] = [plain(program(*args)) for _ in range(3)]
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
