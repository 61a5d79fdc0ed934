"""What a manifest says a build costs, by the threads a pass has. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set

from app.artifact import Cost, Manifest
from app.cost import Point
from app.hardware import FEATURES

Table = Mapping[Point, float]
"""Seconds of a pass by rows and tokens."""


def latencies(manifest: Manifest, build: str, threads: int) -> Table:
    """A build's published latencies: those of so many threads, or else of any; empty without any."""
    tables = [cost for cost in manifest.cost if cost.build == build]
    alike = [cost for cost in tables if cost.threads == threads]
    return _table((alike or tables)[-1]) if tables else {}


def comparable(manifest: Manifest, builds: Set[str], features: Set[str], threads: int) -> Mapping[str, Table]:
    """Latencies of all these builds on a CPU with these features and with one number of threads.

    So many threads if they were all measured so, or else another number; empty where there is none.
    """
    known = features & set(FEATURES)
    costs = [cost for cost in manifest.cost if set(cost.cpu_features) == known and cost.latency]
    for count in dict.fromkeys((threads, *(cost.threads for cost in costs))):
        tables = {cost.build: _table(cost) for cost in costs if cost.threads == count}
        if builds <= tables.keys():
            return {name: tables[name] for name in builds}
    return {}


def _table(cost: Cost) -> Table:
    return {(point.rows, point.tokens): point.median_ms / 1000 for point in cost.latency}
