"""Builds as several machines, or one machine on several days, measured them: engine tables side by side."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from rich.table import Table

from compression import baseline
from compression.engine_benchmark import EngineTable, Entry
from compression.markdown import table as markdown_table


def table(found: Sequence[EngineTable]) -> Table:
    """A row for each build and table."""
    drawn = Table(title="one text: median ms; batches: rows a second", caption=caption(found))
    for column in columns(found):
        drawn.add_column(column, justify="left" if column in ("build", "in") else "right")
    for row in rows(found):
        drawn.add_row(*row)
    return drawn


def markdown(found: Sequence[EngineTable]) -> str:
    """The same for a page."""
    drawn = markdown_table(columns(found), rows(found))
    return f"{drawn}\n\n{caption(found)}\n"


def columns(found: Sequence[EngineTable]) -> list[str]:
    """Names of the columns; every length that one of the tables has."""
    timed = [f"{length} tokens" for length in _lengths(found)]
    batched = [f"{rows} x {tokens}" for rows, tokens in _batches(found)]
    return ["build", "in", "size", *timed, *batched, "peak memory", "energy per 1,000"]


def rows(found: Sequence[EngineTable]) -> list[list[str]]:
    """The builds in the order of the first table that has them, each as every table has it."""
    named = list(dict.fromkeys(_name(entry) for each in found for entry in each.entries))
    return [
        _cells(name, ascii_uppercase[number % 26], entry, each, found)
        for name in named
        for number, each in enumerate(found)
        for entry in each.entries
        if _name(entry) == name
    ]


def caption(found: Sequence[EngineTable]) -> str:
    """Which machine each table is of, and what the brackets say."""
    told = [
        f"{ascii_uppercase[number % 26]}: {each.cpu} ({', '.join(each.cpu_features)}), "
        f"{each.threads} threads, {each.runtime}, {each.measured_on}"
        for number, each in enumerate(found)
    ]
    estimated = any(entry.energy_source != "rapl" for each in found for entry in each.entries)
    energy = " Energy with ~ is estimated from CPU time." if estimated else ""
    return (
        f"{'; '.join(told)}. In brackets: how many times faster than {baseline.NAME} in the same table, the "
        f"only figure to be compared between machines or days.{energy}"
    )


def _cells(name: str, letter: str, entry: Entry, of: EngineTable, found: Sequence[EngineTable]) -> list[str]:
    base = next((each for each in of.entries if each.model == baseline.NAME), None)
    theirs = {} if base is None else {point.tokens: point.median_ms for point in base.latency}
    ours = {point.tokens: point.median_ms for point in entry.latency}
    rates = {(each.rows, each.tokens): each.rows_per_second for each in entry.throughput}
    mark = "" if entry.energy_source == "rapl" else "~"
    return [
        name,
        letter,
        f"{entry.size_bytes / 1e6:.1f} MB",
        *(_time(ours.get(length), theirs.get(length)) for length in _lengths(found)),
        *("-" if rates.get(batch) is None else f"{rates[batch]:.0f}/s" for batch in _batches(found)),
        f"{entry.peak_resident_bytes / 1e6:.0f} MB",
        f"{mark}{entry.joules_per_1000:.1f} J",
    ]


def _time(ours: float | None, theirs: float | None) -> str:
    if ours is None:
        return "-"
    return f"{ours:.2f}" if theirs is None else f"{ours:.2f} ({theirs / ours:.1f}x)"


def _name(entry: Entry) -> str:
    return f"{entry.model} {entry.build}"


def _lengths(found: Sequence[EngineTable]) -> list[int]:
    return sorted({point.tokens for each in found for entry in each.entries for point in entry.latency})


def _batches(found: Sequence[EngineTable]) -> list[tuple[int, int]]:
    return sorted(
        {(point.rows, point.tokens) for each in found for entry in each.entries for point in entry.throughput}
    )
