"""What the tests of packages share."""

from __future__ import annotations

import torsh
from torsh.nn import functional as F


def load(path, **how):
    """`torsh.load`, to the device under test."""
    device = torsh.get_default_device()
    return torsh.load(path, None if device.type == "cpu" else device, **how)


def bits(x) -> list:
    """The bytes of a tensor, or of each of several."""
    if isinstance(x, torsh.Tensor):
        x = x.detach()
        return [x.dtype.name, tuple(x.shape), x.numpy().tobytes()]
    return [bits(v) for v in x]


def training_step(model, opt, loss_of=F.cross_entropy):
    def step(x, y):
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step
