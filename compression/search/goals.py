"""What a search is for: limits to keep, and what to make as good as can be within them.

A floor is never given up and a target is missed by as little as can be: where not everything can be had, the
nearest is what breaks the floors least, then misses the targets least, then is best by the first objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from app.errors import SearchError
from compression.search import metrics
from compression.search.metrics import METRICS, Metric

Values = Mapping[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Limit:
    """At most `value` of a cost, at least `value` of a quality."""

    metric: Metric
    value: float
    kind: Literal["target", "floor"]

    def missed_by(self, values: Values) -> float:
        """By which share of the limit it is missed; 0 or less where it is kept."""
        found = values[self.metric.name]
        return (found - self.value if self.metric.is_cost else self.value - found) / self.value

    @property
    def text(self) -> str:
        """As a person says it."""
        bound = "at most" if self.metric.is_cost else "at least"
        if self.metric.name == "latency":
            bound = "at least"
        return f"{self.metric.name} {bound} {self.metric.text(self.value)}"


@dataclass(frozen=True)
class Goals:
    """Limits, and the objectives in the order of their weight for choosing one among several."""

    limits: tuple[Limit, ...]
    objectives: tuple[Metric, ...]

    @property
    def axes(self) -> tuple[Metric, ...]:
        """What is traded against each other: every metric that was named."""
        named = [*self.objectives, *(limit.metric for limit in self.limits)]
        return tuple(dict.fromkeys(_of_share(metric) for metric in named))

    def missed(self, values: Values, kind: Literal["target", "floor"] | None = None) -> tuple[Limit, ...]:
        """The limits (of one kind) that these values do not keep."""
        return tuple(
            limit for limit in self.limits if kind in (None, limit.kind) and limit.missed_by(values) > 0
        )

    def distance(self, values: Values) -> tuple[float, float, float]:
        """Smaller is nearer: floors broken, targets missed, then the first objective."""
        first = self.objectives[0]
        return (
            sum(max(0.0, limit.missed_by(values)) for limit in self.limits if limit.kind == "floor"),
            sum(max(0.0, limit.missed_by(values)) for limit in self.limits if limit.kind == "target"),
            values[first.name] if first.is_cost else -values[first.name],
        )

    @property
    def text(self) -> str:
        """In one line."""
        aims = [f"{'minimise' if each.is_cost else 'maximise'} {each.name}" for each in self.objectives]
        return "; ".join([*(f"{limit.kind} {limit.text}" for limit in self.limits), *aims])


def goals(
    targets: Sequence[str], floors: Sequence[str], minimise: Sequence[str], maximise: Sequence[str]
) -> Goals:
    """From what stands at the command line; with no objective, latency is minimised.

    Raises:
        SearchError: something that is no limit, or an objective asked for in its bad direction.
    """
    limits: list[Limit] = [Limit(*metrics.parse(written), "target") for written in targets]
    limits += [Limit(*metrics.parse(written), "floor") for written in floors]
    for name, is_cost in [*((name, True) for name in minimise), *((name, False) for name in maximise)]:
        if metrics.metric(name).is_cost != is_cost:
            better = "minimise" if METRICS[name].is_cost else "maximise"
            raise SearchError(f"{name} is better the other way round; say --{better} {name}")
    objectives = tuple(METRICS[name] for name in dict.fromkeys([*minimise, *maximise]))
    return Goals(tuple(limits), objectives or (METRICS["latency"],))


def dominates(one: Values, other: Values, axes: Sequence[Metric]) -> bool:
    """No worse on every axis and better on one."""
    signed = [(one[axis.name], other[axis.name], 1 if axis.is_cost else -1) for axis in axes]
    return all(sign * a <= sign * b for a, b, sign in signed) and any(
        sign * a < sign * b for a, b, sign in signed
    )


def frontier(points: Mapping[T, Values], axes: Sequence[Metric]) -> list[T]:
    """The points that no other point dominates."""
    return [
        name
        for name, values in points.items()
        if not any(dominates(other, values, axes) for other in points.values())
    ]


def ranked(points: Mapping[T, Values], wanted: Goals) -> list[T]:
    """All points, the most promising first: those that keep every limit by how many fronts of the objectives
    lie before them (Deb et al. 2002, non-dominated sorting), then the others by their distance."""
    keeping = {name: values for name, values in points.items() if not wanted.missed(values)}
    order: list[T] = []
    while keeping:
        front = frontier(keeping, wanted.objectives)
        order += sorted(front, key=lambda name: wanted.distance(points[name]))
        keeping = {name: values for name, values in keeping.items() if name not in front}
    others = [name for name in points if name not in order]
    return order + sorted(others, key=lambda name: wanted.distance(points[name]))


def _of_share(named: Metric) -> Metric:
    """Milliseconds are the same axis as the share they are computed from."""
    return METRICS["latency"] if named.name == "latency-ms" else named
