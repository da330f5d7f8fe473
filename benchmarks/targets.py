"""What each workload has to reach, as data: one `Goal` a workload, in the order of the target table.

A ratio is the peer's time over torsh's. `None` means that the row names no figure against that peer.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """Least ratios of one workload."""

    workload: str
    torch_compile: float | None
    jax: float | None
    best: float | None  # against the fastest of all peers

    def items(self):
        """(peer, least ratio) of each figure; the peer is "best" for the fastest of all."""
        pairs = (("torch-compile", self.torch_compile), ("jax", self.jax), ("best", self.best))
        return [(peer, ratio) for peer, ratio in pairs if ratio is not None]


def _goals(names, torch_compile, jax, best):
    return [Goal(name, torch_compile, jax, best) for name in names.split()]


GOALS: tuple[Goal, ...] = (
    *_goals("dispatch", 8, 4, 1),
    *_goals("gelu-4K gelu-16K", 12, 6, 4),
    *_goals("gelu-64K gelu-256K", 6, 2.2, 2.2),
    *_goals("gelu-1M gelu-4M", 3.5, 1.4, 1.4),
    *_goals("gelu-16M", 2.3, 1.0, 1.0),
    *_goals("gelu-64M", 3.5, 2.0, 2.0),
    *_goals("chain-64K chain-1M chain-16M", 2, 1.2, 1.2),
    *_goals("softmax-4096", 1.9, 2, 1.5),
    *_goals("softmax-512", 2.8, 3, 2.5),
    *_goals("layernorm-4096", 1.6, 1.9, 1.35),
    *_goals("layernorm-512", 2.2, 3, 2),
    *_goals("cross-entropy", 1.8, 1.8, 1.4),
    *_goals("column-sum column-var", 1.5, 1.5, 1.2),
    *_goals("transpose-add", 1.5, 1.5, 1.2),
    *_goals("matmul-128 matmul-256 matmul-512 matmul-1024 matmul-2048", 0.95, 1.1, 0.95),
    *_goals("skinny-1x1024x1024 skinny-32x4096x1024", 1.2, 1.5, 1.2),
    *_goals("linear-gelu", 1.05, 1.2, 1.05),
    *_goals("attention attention-masked", 1.3, 1.8, 1.2),
    *_goals("digits-step mlp-784", 2, 1.3, 1.3),
    *_goals("mlp-1024", 1.15, 1.5, 1.15),
    *_goals("gpt", 1.3, 1.5, 1.3),
    *_goals("conv", 1.2, 1.3, 1.0),
)

# Two threads against one, where arrays exceed 1 MiB and DRAM is not the limit.
SCALING = 1.7
# No workload may be slower compiled than lazy, or fused than unfused; differences below this are noise.
NOISE = 1.10
# Beside a competing process on each core, a fair share is half of each: twice the time is nobody's fault.
FAIR_SHARE = 2.0


@dataclass(frozen=True)
class StartGoal:
    """A figure of the start table: at most `limit` in `unit`, or at most that much over a peer."""

    name: str
    limit: float
    unit: str
    over: str | None = None


START_GOALS: tuple[StartGoal, ...] = (
    StartGoal("cold compile of a 4-op function", 5, "ms"),
    StartGoal("one further kernel", 0.5, "ms"),
    StartGoal("MLP train step, cold", 50, "ms"),
    StartGoal("GPT step (4 layers), cold", 200, "ms"),
    StartGoal("second process", 20, "ms"),
    StartGoal("exported model (MLP forward), without weights", 64, "kB"),
    StartGoal("export of the GPT step, beyond compile", 200, "ms"),
    StartGoal("MLP forward, load to first result", 5, "ms"),
    StartGoal("import over a bare interpreter", 30, "ms", over="numpy"),
    StartGoal("memory after import", 35, "MB"),
    StartGoal("peak memory of the MLP loop", 90, "MB"),
    StartGoal("wheel", 15, "MB"),
)

# Graphs of the growth table, and what is asked of them.
GROWTH_NODES = (1_000, 3_000, 10_000)
GROWTH_LIMIT_S = 2.0  # for the largest graph
TRACE_LIMIT_US = 10.0  # per op, from Python
