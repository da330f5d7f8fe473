"""What a run gives, as plain data that goes to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field


@dataclass
class Cell:
    """One peer on one workload: times in microseconds per call, or why there are none.

    `status` is "ok", "skipped" (not installed, not supported: nobody's fault), "wrong" (its result is not the
    float64 result) or "failed" (crashed, hung, answered garbage).
    """

    status: str = "ok"
    reason: str = ""
    us: list[float] = field(default_factory=list)
    peak_kib: int | None = None

    @property
    def best(self) -> float | None:
        """Least time."""
        return min(self.us) if self.status == "ok" and self.us else None

    @property
    def median(self) -> float | None:
        """Median time."""
        return statistics.median(self.us) if self.status == "ok" and self.us else None


@dataclass
class Row:
    """One workload at one thread count; `loaded` when every core had a competing process."""

    workload: str
    threads: int
    cells: dict[str, Cell]
    loaded: bool = False


@dataclass
class Figure:
    """A line of the start and growth tables: one value a peer, or a reason."""

    name: str
    unit: str
    values: dict[str, float | None]
    notes: dict[str, str] = field(default_factory=dict)


@dataclass
class Results:
    """A whole run."""

    environment: dict
    rows: list[Row] = field(default_factory=list)
    limits: dict | None = None
    limits_reason: str = ""
    start: list[Figure] = field(default_factory=list)
    growth: list[Figure] = field(default_factory=list)

    def row(self, workload: str, threads: int, loaded: bool = False) -> Row | None:
        """The row of a workload."""
        for row in self.rows:
            if (row.workload, row.threads, row.loaded) == (workload, threads, loaded):
                return row
        return None

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Results:
        """The reverse of `to_json`."""
        raw = json.loads(text)
        for row in raw["rows"]:
            row["cells"] = {k: Cell(**v) for k, v in row["cells"].items()}
        raw["rows"] = [Row(**row) for row in raw["rows"]]
        for part in ("start", "growth"):
            raw[part] = [Figure(**f) for f in raw[part]]
        return Results(**raw)
