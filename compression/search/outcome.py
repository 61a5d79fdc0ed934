"""What a search found: the frontier, what is best, and what is nearest where not everything can be had."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from app import artifact
from compression.search.book import Entry
from compression.search.goals import Goals, Limit, frontier, ranked

# The exit code of a search whose limits no trial keeps; 1 is an error, 2 a wrong command line.
NOT_MET = 3


@dataclass(frozen=True)
class Outcome:
    """Every trial of a search; those in `full` were trained whole."""

    goals: Goals
    cheap: tuple[Entry, ...]
    full: tuple[Entry, ...]
    ended: str
    interrupted: bool
    repository: Path

    @property
    def found(self) -> list[Entry]:
        """Full trials with figures, the best first."""
        points = {entry.number: entry.values for entry in self.full if entry.values is not None}
        by_number = {entry.number: entry for entry in self.full}
        return [by_number[number] for number in ranked(points, self.goals)]

    @property
    def frontier(self) -> list[Entry]:
        """Full trials that keep every limit and that no other one beats on all axes, the first objective's
        best first."""
        keeping = {e.number: e.values for e in self.found if e.values and not self.goals.missed(e.values)}
        kept = set(frontier(keeping, self.goals.axes))
        return [entry for entry in self.found if entry.number in kept]

    @property
    def best(self) -> Entry | None:
        """What to take: the best of the frontier, else what is nearest to the limits."""
        return next(iter(self.found), None)

    @property
    def missed(self) -> tuple[Limit, ...]:
        """The limits that the best does not keep."""
        return self.goals.missed(self.best.values) if self.best and self.best.values else self.goals.limits

    @property
    def exit_code(self) -> int:
        """0 where every limit is kept by a published version."""
        if self.missed or self.best is None:
            return NOT_MET
        return 130 if self.interrupted else 0

    @property
    def published(self) -> list[Entry]:
        """Full trials that stand in the repository."""
        return [e for e in self.found if e.version and (self._folder(e) / artifact.MANIFEST_FILE).is_file()]

    def _folder(self, entry: Entry) -> Path:
        return self.repository / str(entry.version)


def verdict(outcome: Outcome) -> str:
    """In plain words: what was found, or what cannot be had and what is nearest."""
    tried = f"{len(outcome.cheap)} cheap and {len(outcome.full)} full trials; {outcome.ended}."
    best = outcome.best
    if best is None or best.values is None:
        return f"Nothing was published: no full trial succeeded. {tried}"
    name = best.version or "not published"
    told = ", ".join(f"{axis.name} {axis.text(best.values[axis.name])}" for axis in outcome.goals.axes)
    if not outcome.missed:
        return f"Found: {name} ({best.rates.text}): {told}. {len(outcome.frontier)} on the frontier. {tried}"
    limits = " and ".join(
        f"{limit.text} (the nearest has {limit.metric.text(best.values[limit.metric.name])})"
        for limit in outcome.missed
    )
    return f"Not met: {limits}. The nearest is {name} ({best.rates.text}): {told}. {tried}"


def table(outcome: Outcome) -> Table:
    """The full trials, the best first; a star marks the frontier."""
    shown = Table(title=f"search: {outcome.goals.text}")
    axes = outcome.goals.axes
    for column in ("", "version", "rates", *(axis.name for axis in axes), "retained on test", "keeps"):
        shown.add_column(column)
    frontier_numbers = {entry.number for entry in outcome.frontier}
    for entry in outcome.found:
        values = entry.values or {}
        missed = outcome.goals.missed(values)
        retained = values.get("published_retention")
        shown.add_row(
            "*" if entry.number in frontier_numbers else "",
            entry.version or "-",
            entry.rates.text,
            *(axis.text(values[axis.name]) for axis in axes),
            "-" if retained is None or values.get("published_split") != "test" else f"{retained:.2%}",
            "all limits" if not missed else f"not {', '.join(limit.metric.name for limit in missed)}",
        )
    return shown


def failures(outcome: Outcome) -> list[str]:
    """Trials that gave nothing, and why."""
    return [
        f"{entry.effort} trial {entry.number} ({entry.rates.text}): {entry.error}"
        for entry in (*outcome.cheap, *outcome.full)
        if entry.error
    ]


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything, for programs."""
    frontier_numbers = {entry.number for entry in outcome.frontier}
    best = outcome.best
    return {
        "goals": outcome.goals.text,
        "axes": [axis.name for axis in outcome.goals.axes],
        "verdict": verdict(outcome),
        "met": best is not None and not outcome.missed,
        "missed": [limit.text for limit in outcome.missed],
        "best": None if best is None else best.version,
        "frontier": [entry.number for entry in outcome.frontier],
        "full": [_entry(entry, entry.number in frontier_numbers) for entry in outcome.full],
        "cheap": [_entry(entry, False) for entry in outcome.cheap],
    }


def write_json(outcome: Outcome, path: Path) -> None:
    """The same as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(outcome), indent=2) + "\n", encoding="utf-8")


def _entry(entry: Entry, on_frontier: bool) -> dict[str, Any]:
    return {
        "number": entry.number,
        "rates": entry.rates.model_dump(mode="json"),
        "on_frontier": on_frontier,
        "version": entry.version,
        "seconds": entry.seconds,
        "error": entry.error,
        "values": None if entry.values is None else dict(entry.values),
    }
