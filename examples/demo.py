"""The main job: two models trained through compiled steps, with figures.

1. A classifier on scikit-learn's handwritten digits (1,797 images, 80/20 split): one compiled step holds forward,
   cross entropy, backward and AdamW. The same step runs lazily, and in NumPy written by hand, for comparison.
2. A character model on the text of `pydoc_data.topics`, which ships with every CPython.

Run: make demo, or python examples/demo.py [--tiny] [--device cuda]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import torsh
from torsh import nn
from torsh.nn import functional as F

SEED = 0
CONTEXT = 16


class Size(NamedTuple):
    """Widths of hidden layers, images and windows of a step, and how long to train and sample."""

    hidden: int = 256
    batch: int = 128
    epochs: int = 40
    char_hidden: int = 192
    windows: int = 256
    char_steps: int = 1500
    letters: int = 240
    rounds: int = 30
    accuracy: float = 0.97


# What a simulated device can do in seconds; nobody learns all digits in these steps.
TINY = Size(32, 32, 4, 32, 16, 40, 6, 2, 0.7)


# -- digits ------------------------------------------------------------------------------------------------


def digits():
    """(train images, train labels, test images, test labels): float32 in 0..1 and int64, split 80/20."""
    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    x = (data.data[order] / 16.0).astype(np.float32)
    y = data.target[order].astype(np.int64)
    cut = len(y) * 4 // 5
    return x[:cut], y[:cut], x[cut:], y[cut:]


def classifier(hidden: int) -> nn.Module:
    """The digit network: 64 - hidden - hidden - 10 with GELU."""
    torsh.manual_seed(SEED)
    return nn.Sequential(
        nn.Linear(64, hidden),
        nn.GELU(approximate="tanh"),
        nn.Linear(hidden, hidden),
        nn.GELU(approximate="tanh"),
        nn.Linear(hidden, 10),
    )


def make_step(model: nn.Module, opt):
    """A training step on a batch; returns the loss."""

    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step


class NumpyNet:
    """The same network and AdamW step, written by hand in NumPy."""

    def __init__(self, model: nn.Module, lr: float, wd: float):
        self.p = [p.detach().cpu().numpy().copy() for p in model.parameters()]
        self.m = [np.zeros_like(p) for p in self.p]
        self.v = [np.zeros_like(p) for p in self.p]
        self.lr, self.wd, self.t = lr, wd, 0

    @staticmethod
    def _gelu(x):
        t = np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x))
        return np.float32(0.5) * x * (1 + t), t

    @staticmethod
    def _gelu_grad(x, t):
        inner = np.float32(0.7978845608) * (1 + np.float32(3 * 0.044715) * x * x)
        return np.float32(0.5) * (1 + t) + np.float32(0.5) * x * (1 - t * t) * inner

    def step(self, x, y):
        w1, b1, w2, b2, w3, b3 = self.p
        z1 = x @ w1.T + b1
        h1, t1 = self._gelu(z1)
        z2 = h1 @ w2.T + b2
        h2, t2 = self._gelu(z2)
        z3 = h2 @ w3.T + b3
        z3 = z3 - z3.max(1, keepdims=True)
        e = np.exp(z3)
        s = e.sum(1, keepdims=True)
        rows = np.arange(len(y))
        loss = float(np.mean(np.log(s[:, 0]) - z3[rows, y]))
        d3 = e / s
        d3[rows, y] -= 1
        d3 /= np.float32(len(y))
        d2 = (d3 @ w3) * self._gelu_grad(z2, t2)
        d1 = (d2 @ w2) * self._gelu_grad(z1, t1)
        grads = [d1.T @ x, d1.sum(0), d2.T @ h1, d2.sum(0), d3.T @ h2, d3.sum(0)]
        self.t += 1
        c1, c2 = 1 - 0.9**self.t, 1 - 0.999**self.t
        for p, g, m, v in zip(self.p, grads, self.m, self.v, strict=False):
            m *= np.float32(0.9)
            m += np.float32(0.1) * g
            v *= np.float32(0.999)
            v += np.float32(0.001) * g * g
            p *= np.float32(1 - self.lr * self.wd)
            p -= np.float32(self.lr / c1) * m / (np.sqrt(v) / np.float32(np.sqrt(c2)) + np.float32(1e-8))
        return loss


def median_ms(fn, rounds: int) -> float:
    """Median time of a call in milliseconds, after three warm-up calls."""
    times = []
    for i in range(rounds + 3):
        start = time.perf_counter()
        fn()
        if i >= 3:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e3


def train_digits(size: Size, device):
    """Trains, prints figures, returns the losses of all steps."""

    def there(a: np.ndarray):
        return torsh.from_numpy(a).to(device)

    xs, ys, xt, yt = digits()
    lr, wd = 2e-3, 1e-2
    model = classifier(size.hidden).to(device)
    opt = torsh.optim.AdamW(model.parameters(), lr=lr, weight_decay=wd)
    step = torsh.compile(make_step(model, opt), name="digits_step")
    rng = np.random.default_rng(SEED)
    xb, yb = there(xs[: size.batch]), there(ys[: size.batch])

    hand = NumpyNet(model, lr, wd)
    start = time.perf_counter()
    first = step(xb, yb).item()
    cold = time.perf_counter() - start
    reference = hand.step(xs[: size.batch], ys[: size.batch])
    if abs(first - reference) > 1e-4 * max(1.0, abs(reference)):
        sys.exit(f"the compiled step's first loss {first} is not NumPy's {reference}")

    losses = []
    bar = tqdm(range(size.epochs), desc="digits", unit="epoch", disable=not sys.stderr.isatty())
    start = time.perf_counter()
    for _ in bar:
        order = rng.permutation(len(ys))
        for at in range(0, len(ys) - size.batch + 1, size.batch):
            i = order[at : at + size.batch]
            losses.append(step(there(xs[i]), there(ys[i])))
        bar.set_postfix(loss=f"{losses[-1].item():.4f}")
    took = time.perf_counter() - start
    with torsh.no_grad():
        accuracy = (model(there(xt)).argmax(1) == there(yt)).float().mean().item()

    compiled_ms = median_ms(lambda: step(xb, yb).item(), size.rounds)
    lazy = make_step(model, opt)
    lazy_ms = median_ms(lambda: lazy(xb, yb).item(), size.rounds)
    numpy_ms = median_ms(lambda: hand.step(xs[: size.batch], ys[: size.batch]), size.rounds)
    program = step.explain()["programs"][0]
    peak = torsh.memory_stats()["peak"] if device.type == "cpu" else torsh.cuda.max_memory_allocated(device)
    print(f"digits: {len(losses)} steps in {took:.2f} s, test accuracy {accuracy:.2%} on {len(yt)} images")
    print(f"  first call (trace, compile, run)   {cold * 1e3:8.1f} ms")
    print(f"  kernels before -> after fusion     {program['kernels_unfused']:5d} -> {program['kernels']}")
    print(f"  step compiled / lazy / NumPy       {compiled_ms:.3f} / {lazy_ms:.3f} / {numpy_ms:.3f} ms")
    print(f"  peak tensor memory                 {peak / 2**20:8.1f} MiB")
    if accuracy < size.accuracy:
        sys.exit(f"test accuracy {accuracy:.2%} is below {size.accuracy:.0%}")
    return [loss.item() for loss in losses]


# -- characters --------------------------------------------------------------------------------------------


class CharModel(nn.Module):
    """Predicts the next character from the last CONTEXT ones: embeddings, two hidden layers, layer norm."""

    def __init__(self, letters: int, hidden: int, width: int = 24):
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.body = nn.Sequential(
            nn.Linear(CONTEXT * width, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, letters),
        )

    def forward(self, x):
        return self.body(self.embed(x).flatten(1))


def train_characters(size: Size, device):
    """Trains on Python's help topics, prints a sample, returns the losses."""
    text = "\n".join(topics[k] for k in sorted(topics))[:400_000]
    letters = sorted(set(text))
    index = {c: i for i, c in enumerate(letters)}
    data = np.array([index[c] for c in text], dtype=np.int64)
    torsh.manual_seed(SEED)
    model = CharModel(len(letters), size.char_hidden).to(device)
    opt = torsh.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torsh.optim.lr_scheduler.CosineAnnealingLR(opt, size.char_steps, eta_min=2e-4)
    step = torsh.compile(make_step(model, opt), name="char_step")
    rng = np.random.default_rng(SEED)
    losses, window = [], np.arange(CONTEXT)
    bar = tqdm(range(size.char_steps), desc="characters", unit="step", disable=not sys.stderr.isatty())
    start = time.perf_counter()
    for i in bar:
        at = rng.integers(0, len(data) - CONTEXT - 1, size.windows)
        x, y = (torsh.from_numpy(data[j]).to(device) for j in (at[:, None] + window, at + CONTEXT))
        losses.append(step(x, y))
        schedule.step()
        if i % 100 == 99:
            bar.set_postfix(loss=f"{losses[-1].item():.3f}")
    took = time.perf_counter() - start
    info = step.cache_info()
    values = [loss.item() for loss in losses]
    print(
        f"characters: {size.char_steps} steps in {took:.1f} s, loss {values[0]:.2f} -> {sum(values[-50:]) / 50:.2f} "
        f"(guessing: {np.log(len(letters)):.2f}), {info['misses']} compilation"
    )

    @torsh.compile
    def next_letter(x):
        return F.softmax(model(x)[0] / 0.7, dim=0)

    model.eval()
    out = list(text[:CONTEXT])
    with torsh.no_grad():
        for _ in range(size.letters):
            x = torsh.tensor([[index[c] for c in out[-CONTEXT:]]], device=device)
            p = next_letter(x).cpu().numpy().astype(np.float64)
            out.append(letters[rng.choice(len(letters), p=p / p.sum())])
    print("  sample: " + "".join(out).replace("\n", "\n          "))
    return values


def plot(digit_losses, char_losses, path: Path) -> None:
    """Writes the two loss curves as a PNG (to a temporary file first)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for ax, losses, title in ((axes[0], digit_losses, "digits"), (axes[1], char_losses, "characters")):
        ax.plot(losses, linewidth=0.5, alpha=0.4)
        k = 25
        ax.plot(range(k - 1, len(losses)), np.convolve(losses, np.ones(k) / k, "valid"), linewidth=1.5)
        ax.set(title=title, xlabel="step", ylabel="cross entropy")
        ax.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + f".{os.getpid()}.part")
    figure.savefig(part, format="png", dpi=120)
    part.replace(path)


def main(words: list[str] | None = None) -> None:
    """Runs both trainings and writes the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="sizes that a simulated device can train; no plot")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    args = parser.parse_args(words)
    start, size, device = time.perf_counter(), TINY if args.tiny else Size(), torsh.device(args.device)
    digit_losses = train_digits(size, device)
    char_losses = train_characters(size, device)
    done = f"all done in {time.perf_counter() - start:.1f} s"
    if args.tiny:
        print(done)
        return
    path = Path(__file__).resolve().parent.parent / "out" / "loss.png"
    plot(digit_losses, char_losses, path)
    print(f"losses drawn in {path}; {done}")


if __name__ == "__main__":
    main()
