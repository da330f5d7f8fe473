"""A small convolutional network on scikit-learn's handwritten digits (1,797 images of 8 x 8, 80/20 split).

Two blocks of convolution, batch norm and ReLU with max pooling between them, and a linear head; forward, cross entropy,
backward, AdamW and the running statistics are one compiled step. Training images are shifted by up to a pixel.
The number of epochs is the one that is best on a fifth of the training images held out, the smaller one of equals;
the network is then trained anew on all of them, and the test images are looked at once.

Run: python examples/digits_cnn.py [--quick | --tiny] [--device cuda]
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import torsh
from torsh import nn
from torsh.nn import functional as F

SEED = 0
BATCH = 64
EPOCHS = (15, 30, 45)
QUICK_EPOCHS = (3,)

# What a simulated device can do in seconds.
TINY_STEPS, TINY_CHANNELS, TINY_BATCH = 12, 4, 16


def digits():
    """(train images, train labels, test images, test labels): float32 [n, 1, 8, 8] in 0..1 and int64."""
    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    x = (data.images[order, None] / 16.0).astype(np.float32)
    y = data.target[order].astype(np.int64)
    cut = len(y) * 4 // 5
    return x[:cut], y[:cut], x[cut:], y[cut:]


def network(channels: int = 32) -> nn.Module:
    """The network: 8 x 8 pixels, then 4 x 4 after pooling, then ten scores."""

    def block(inner: int, outer: int) -> list[nn.Module]:
        return [nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]

    torsh.manual_seed(SEED)
    c = channels
    return nn.Sequential(
        *block(1, c), *block(c, c), nn.MaxPool2d(2), *block(c, 2 * c), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(8 * c, 10),
    )  # fmt: skip


def shifted(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by -1, 0 or 1 pixel in both directions, zeros coming in."""
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, cols = rng.integers(0, 3, (2, len(x), 1, 1))
    i, j = rows + np.arange(8)[:, None], cols + np.arange(8)
    return wide[np.arange(len(x))[:, None, None], 0, i, j][:, None]


def make_step(model: nn.Module, opt):
    """A compiled training step on a batch; returns the loss."""

    @torsh.compile
    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step


def train(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, epochs: int, device: str = "cpu"
) -> float:
    """Accuracy on the test images after so many epochs on the training images."""
    model = network().to(device)
    opt = torsh.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    steps = len(train_y) // BATCH
    schedule = torsh.optim.lr_scheduler.OneCycleLR(opt, max_lr=4e-3, total_steps=epochs * steps + 1)
    rng = np.random.default_rng(SEED)
    step = make_step(model, opt)
    scores = torsh.compile(lambda x: model(x))
    bar = tqdm(range(epochs), unit="epoch")
    for _ in bar:
        model.train()
        order = rng.permutation(len(train_y))
        total = 0.0
        for i in range(steps):
            at = order[i * BATCH : (i + 1) * BATCH]
            total += step(*(torsh.tensor(a, device=device) for a in (shifted(train_x[at], rng), train_y[at]))).item()
            schedule.step()
        bar.set_postfix(loss=f"{total / steps:.4f}")
    model.eval()
    with torsh.no_grad():
        best = scores(torsh.tensor(test_x, device=device)).argmax(1).cpu().numpy()
    return float((best == test_y).mean())


def run(choices: tuple[int, ...], device: str = "cpu") -> tuple[int, float]:
    """(epochs chosen by validation, accuracy on the test images)."""
    train_x, train_y, test_x, test_y = digits()
    cut = len(train_y) * 4 // 5
    held = {}
    for epochs in choices if len(choices) > 1 else ():
        held[epochs] = train(train_x[:cut], train_y[:cut], train_x[cut:], train_y[cut:], epochs, device)
        print(f"{epochs} epochs: validation accuracy {100 * held[epochs]:.2f} %")
    epochs = max(choices, key=lambda n: (held.get(n, 0.0), -n))
    return epochs, train(train_x, train_y, test_x, test_y, epochs, device)


def tiny(device: str = "cpu") -> list[float]:
    """The losses of a few steps of a small network on one batch of training images."""
    x, y, _, _ = digits()
    model = network(TINY_CHANNELS).to(device)
    step = make_step(model, torsh.optim.AdamW(model.parameters(), lr=1e-2))
    batch = [torsh.tensor(a[:TINY_BATCH], device=device) for a in (x, y)]
    losses = [step(*batch).item() for _ in range(TINY_STEPS)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {TINY_STEPS} steps on {TINY_BATCH} images")
    if not np.isfinite(losses).all() or losses[-1] >= losses[0]:
        sys.exit("the loss has not fallen")
    return losses


def main(words: list[str] | None = None) -> None:
    """Trains, and prints accuracy and time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    short = parser.add_mutually_exclusive_group()
    short.add_argument("--quick", action="store_true", help=f"{QUICK_EPOCHS[0]} epochs, without validation")
    short.add_argument("--tiny", action="store_true", help="a few steps of a network that a simulated device can train")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    args = parser.parse_args(words)
    if args.tiny:
        tiny(args.device)
        return
    start = time.perf_counter()
    epochs, accuracy = run(QUICK_EPOCHS if args.quick else EPOCHS, args.device)
    print(f"test accuracy {100 * accuracy:.2f} % after {epochs} epochs, {time.perf_counter() - start:.1f} s in all")


if __name__ == "__main__":
    main()
