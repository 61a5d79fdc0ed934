"""What can be a target, a floor or an objective of a search, how it is written and how it is told.

Costs are better when smaller: `size` (bytes of the published files), `latency` (share of the baseline's time
for the same text, both measured in the same minute), `memory` (peak resident bytes) and `energy` (joules per
1,000 predictions). Quality is better when larger: `accuracy`, and `retention`, the share of the teacher's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.errors import SearchError

_BYTES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SHARES = {"": 1.0, "%": 0.01}
_NUMBER = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*([a-z%]*)\s*$")


@dataclass(frozen=True)
class Metric:
    """`units` maps what may stand behind a number to what it is multiplied by."""

    name: str
    is_cost: bool
    units: Mapping[str, float] = field(compare=False)

    def text(self, value: float) -> str:
        """A value as a person reads it."""
        if self.name in ("size", "memory"):
            return f"{value / 1e6:.2f} MB" if value >= 1e5 else f"{value / 1e3:.2f} kB"
        if self.name == "latency":
            return f"{1 / value:.1f}x faster" if value > 0 else "-"
        if self.name == "latency-ms":
            return f"{value:.2f} ms"
        return f"{value:.2f} J" if self.name == "energy" else f"{value:.2%}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("size", True, _BYTES),
        Metric("latency", True, _SHARES),
        Metric("latency-ms", True, {"ms": 1.0, "s": 1e3}),
        Metric("memory", True, _BYTES),
        Metric("energy", True, {"": 1.0, "j": 1.0}),
        Metric("accuracy", False, _SHARES),
        Metric("retention", False, _SHARES),
    )
}
# A latency in milliseconds is a metric of its own: the share times what the baseline took at the first trial.
NAMES = tuple(name for name in METRICS if name != "latency-ms")


def metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        SearchError: there is none.
    """
    if name not in NAMES:
        raise SearchError(f"{name[:60]!r} is no metric of a search; expected one of {', '.join(NAMES)}")
    return METRICS[name]


def parse(written: str) -> tuple[Metric, float]:
    """`size=15MB`, `latency=20x` (20 times faster than the baseline), `latency=5ms`, `retention=0.98`.

    Raises:
        SearchError: no such metric, not a number, or a unit that is not its.
    """
    name, equals, value = written.partition("=")
    found = metric(name.strip())
    match = _NUMBER.match(value.lower())
    if not equals or match is None:
        raise SearchError(f"{written[:60]!r} is not METRIC=NUMBER, as in size=15MB or retention=0.98")
    number, unit = float(match[1]), match[2]
    if found.name == "latency":
        if unit == "x":
            return found, 1 / _positive(number, written)
        if unit in METRICS["latency-ms"].units:
            found = METRICS["latency-ms"]
    if unit not in found.units:
        known = [each for each in found.units if each] + (["x", "ms"] if found.name == "latency" else [])
        raise SearchError(f"{written[:60]!r}: unit {unit!r} is not one of {', '.join(known)}")
    number *= found.units[unit]
    if not found.is_cost and number > 1:
        raise SearchError(f"{written[:60]!r}: {found.name} is a share of at most 1 (or 100%), got {number:g}")
    return found, _positive(number, written)


def _positive(number: float, written: str) -> float:
    if number <= 0:
        raise SearchError(f"{written[:60]!r} must be above 0")
    return number
