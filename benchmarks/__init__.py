"""Benchmarks: torsh against its peers, as ratios measured in one run."""
