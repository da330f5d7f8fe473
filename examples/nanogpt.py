"""A small GPT on characters: 4 layers, 128 wide, 4 heads, 128 characters of context, trained on the text of
`pydoc_data.topics` (which ships with every CPython) through one compiled step, then sampled from.

Run: python examples/nanogpt.py [--quick | --tiny] [--steps N] [--seed N] [--device cuda]
"""

from __future__ import annotations

import argparse
import sys
import time
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np

import torsh
from torsh import nn
from torsh.nn import functional as F

PEAK, STEPS, QUICK_STEPS = 3e-3, 1200, 24


class Size(NamedTuple):
    """Layers, width, heads, characters of context, and sequences of a step."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 128
    batch: int = 8


# What a simulated device can do in seconds.
TINY = Size(layers=1, width=32, heads=2, context=64, batch=2)


class Block(nn.Module):
    """Causal self-attention and two linear layers, each behind a layer norm and with a residual."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        heads = parts.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Scores of the next character at every position: int64 [batch, length] to float32 [batch, length, letters]."""

    def __init__(self, letters: int, size: Size):
        super().__init__()
        width = size.width
        self.letter, self.place = nn.Embedding(letters, width), nn.Embedding(size.context, width)
        self.blocks = nn.Sequential(*(Block(width, size.heads) for _ in range(size.layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                # Branches that are added up start smaller (Radford et al., GPT-2, 2019).
                small = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, 0.0, (width * (2 * size.layers if small else 1)) ** -0.5)

    def forward(self, x):
        y = self.letter(x) + self.place.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(y)))


def main(words: list[str] | None = None) -> list[float]:
    """Trains, samples, and returns the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    short = parser.add_mutually_exclusive_group()
    short.add_argument("--quick", action="store_true", help="a few steps, as a test")
    short.add_argument("--tiny", action="store_true", help="a few steps of a model that a simulated device can train")
    parser.add_argument("--steps", type=int, default=None, help=f"training steps ({STEPS}; {QUICK_STEPS} if short)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    args = parser.parse_args(words)
    short, size, device = args.quick or args.tiny, TINY if args.tiny else Size(), torsh.device(args.device)
    steps = args.steps if args.steps is not None else QUICK_STEPS if short else STEPS

    text = "\n".join(topics[k] for k in sorted(topics))
    letters = sorted(set(text))
    index = {c: i for i, c in enumerate(letters)}
    data = np.array([index[c] for c in text], dtype=np.int64)
    rng = np.random.default_rng(args.seed)
    torsh.manual_seed(args.seed)
    model = GPT(len(letters), size).to(device)
    opt = torsh.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.1)
    # A warm-up over a tenth of the steps, then a cosine down to nearly nothing.
    schedule = torsh.optim.lr_scheduler.OneCycleLR(opt, max_lr=PEAK, total_steps=steps + 1, pct_start=0.1)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e6:.2f} M parameters, {len(data)} characters, {len(letters)} different ones")

    @torsh.compile
    def step(x, y):
        loss = F.cross_entropy(model(x).reshape(-1, len(letters)), y.reshape(-1))
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    window = np.arange(size.context)
    losses, start = [], time.perf_counter()
    for i in range(steps):
        at = rng.integers(0, len(data) - size.context - 1, size.batch)[:, None] + window
        x, y = (torsh.from_numpy(data[i]).to(device) for i in (at, at + 1))
        losses.append(step(x, y).item())
        schedule.step()
        if i % max(steps // 12, 1) == 0 or i == steps - 1:
            print(f"step {i:4d}  loss {losses[-1]:.3f}  {time.perf_counter() - start:6.1f} s", flush=True)
    took = time.perf_counter() - start
    tail = losses[-20:]
    guessing = np.log(len(letters))
    print(f"{steps} steps in {took:.1f} s; loss {losses[0]:.2f} -> {np.mean(tail):.2f} (guessing: {guessing:.2f})")

    @torsh.compile
    def scores(x):
        return model(x)

    # The context is filled from the left: causal attention does not see what stands behind the last character.
    out = [index[c] for c in "The "]
    with torsh.no_grad():
        for _ in range(4 if args.tiny else 40 if args.quick else 400):
            seen = out[-size.context :]
            x = np.zeros((1, size.context), dtype=np.int64)
            x[0, : len(seen)] = seen
            z = scores(torsh.from_numpy(x).to(device)).cpu().numpy()[0, len(seen) - 1].astype(np.float64) / 0.8
            p = np.exp(z - z.max())
            out.append(int(rng.choice(len(letters), p=p / p.sum())))
    print("".join(letters[i] for i in out))
    if not np.isfinite(losses).all() or (steps >= 12 and np.mean(tail[-4:]) >= losses[0]):
        sys.exit("the loss has not fallen")
    return losses


if __name__ == "__main__":
    main()
