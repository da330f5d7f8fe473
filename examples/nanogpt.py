"""A small GPT on characters: 4 layers, 128 wide, 4 heads, 128 characters of context, trained on the text of
`pydoc_data.topics` (which ships with every CPython) through one compiled step, then sampled from.

Run: python examples/nanogpt.py [--quick] [--steps N] [--seed N]
"""

from __future__ import annotations

import argparse
import sys
import time
from pydoc_data.topics import topics

import numpy as np

import torsh
from torsh import nn
from torsh.nn import functional as F

LAYERS, WIDTH, HEADS, CONTEXT, BATCH = 4, 128, 4, 128, 8
PEAK, STEPS, QUICK_STEPS = 3e-3, 1200, 24


class Block(nn.Module):
    """Causal self-attention and two linear layers, each behind a layer norm and with a residual."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        batch, length, _ = x.shape
        heads = self.qkv(self.norm1(x)).reshape(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Scores of the next character at every position: int64 [batch, length] to float32 [batch, length, letters]."""

    def __init__(self, letters: int):
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                # Branches that are added up start smaller (Radford et al., GPT-2, 2019).
                small = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, 0.0, (WIDTH * (2 * LAYERS if small else 1)) ** -0.5)

    def forward(self, x):
        y = self.letter(x) + self.place.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(y)))


def main(words: list[str] | None = None) -> list[float]:
    """Trains, samples, and returns the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps, as a test")
    parser.add_argument("--steps", type=int, default=None, help=f"training steps ({STEPS}; {QUICK_STEPS} with --quick)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    steps = args.steps if args.steps is not None else QUICK_STEPS if args.quick else STEPS

    text = "\n".join(topics[k] for k in sorted(topics))
    letters = sorted(set(text))
    index = {c: i for i, c in enumerate(letters)}
    data = np.array([index[c] for c in text], dtype=np.int64)
    rng = np.random.default_rng(args.seed)
    torsh.manual_seed(args.seed)
    model = GPT(len(letters))
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

    window = np.arange(CONTEXT)
    losses, start = [], time.perf_counter()
    for i in range(steps):
        at = rng.integers(0, len(data) - CONTEXT - 1, BATCH)[:, None] + window
        losses.append(step(torsh.from_numpy(data[at]), torsh.from_numpy(data[at + 1])).item())
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
        for _ in range(40 if args.quick else 400):
            seen = out[-CONTEXT:]
            x = np.zeros((1, CONTEXT), dtype=np.int64)
            x[0, : len(seen)] = seen
            z = scores(torsh.from_numpy(x)).numpy()[0, len(seen) - 1].astype(np.float64) / 0.8
            p = np.exp(z - z.max())
            out.append(int(rng.choice(len(letters), p=p / p.sum())))
    print("".join(letters[i] for i in out))
    if not np.isfinite(losses).all() or (steps >= 12 and np.mean(tail[-4:]) >= losses[0]):
        sys.exit("the loss has not fallen")
    return losses


if __name__ == "__main__":
    main()
