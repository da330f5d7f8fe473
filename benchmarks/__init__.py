"""Benchmarks: torsh against its peers, as ratios measured in one run and checked before they are timed.

>>> import benchmarks
>>> results = benchmarks.run(workloads=["dispatch"], peers=["torsh", "numpy"], threads=[1], rounds=2)  # doctest: +SKIP
>>> results.row("dispatch", 1).cells["torsh"].best  # doctest: +SKIP
"""

from benchmarks.peers import PEERS
from benchmarks.results import Cell, Figure, Results, Row
from benchmarks.runner import run
from benchmarks.targets import GOALS
from benchmarks.workloads import WORKLOADS, Workload, register

__all__ = ["GOALS", "PEERS", "WORKLOADS", "Cell", "Figure", "Results", "Row", "Workload", "register", "run"]
