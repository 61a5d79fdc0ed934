"""The table of a comparison: on a terminal, as Markdown, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from app.hardware import cpu_features, cpu_model, usable_cores
from compression import energy
from compression.benchmark import LENGTHS
from compression.comparison import Comparison, Judged, Row
from compression.markdown import table as markdown_table


def table(comparison: Comparison) -> Table:
    """One row for each model."""
    drawn = Table(title="recipes on one teacher and the same data", caption=caption(comparison))
    for column in columns(comparison):
        drawn.add_column(column, justify="left" if column == "model" else "right")
    for row in comparison.rows:
        drawn.add_row(*cells(row, comparison.rows[0]))
    return drawn


def markdown(comparison: Comparison) -> str:
    """The same table for a page, what was measured and what was left out below it."""
    rows = [cells(row, comparison.rows[0]) for row in comparison.rows]
    drawn = markdown_table(columns(comparison), rows)
    left_out = "".join(f"\n\nNot in the table: {reason}." for reason in comparison.refused)
    return f"{drawn}\n\n{caption(comparison)}{left_out}\n"


def listed(comparison: Comparison) -> dict[str, Any]:
    """Everything in JSON's types."""
    rows = [
        {"recipe": row.recipe, "quality": [asdict(each) for each in row.quality], **asdict(row.figures)}
        for row in comparison.rows
    ]
    return {
        "rows": rows,
        "refused": list(comparison.refused),
        "limit_rows": comparison.limit_rows,
        "caption": caption(comparison),
    }


def columns(comparison: Comparison) -> list[str]:
    """Names of the columns; accuracy and what is retained for each data set."""
    judged = [
        name
        for each in comparison.rows[0].quality
        for name in (f"{each.dataset} {each.split} accuracy (95 %)", "retained")
    ]
    timed = [f"{length} tokens" for length in LENGTHS]
    return ["model", "size", *judged, *timed, "texts/s", "peak memory", "energy per 1,000"]


def cells(row: Row, teacher: Row) -> list[str]:
    """One row; latencies and throughput beside the teacher's in the same run."""
    ours, theirs = row.figures, teacher.figures
    times = [f"{ms:.2f} ms ({theirs.latency_ms[length] / ms:.1f}x)" for length, ms in ours.latency_ms.items()]
    rate = f"{ours.reviews_per_second:,.1f} ({ours.reviews_per_second / theirs.reviews_per_second:.1f}x)"
    used = "-" if ours.energy is None else ours.energy.text
    judged = [cell for each in row.quality for cell in _judged(each)]
    size, peak = f"{ours.size_bytes / 1e6:.1f} MB", f"{ours.peak_bytes / 1e6:.0f} MB"
    return [ours.name, size, *judged, *times, rate, peak, used]


def _judged(judged: Judged) -> Sequence[str]:
    low, high = judged.interval_95
    retained = "-" if judged.retention is None else f"{judged.retention:.2%}"
    return f"{judged.accuracy:.2%} ({low:.2%} to {high:.2%})", retained


def caption(comparison: Comparison) -> str:
    """What was measured, on what, and whether the data are a subset."""
    limit = comparison.limit_rows
    read = (
        "All rows of the data were read."
        if limit is None
        else f"A subset: at most {limit:,} rows of each split were read, to train on and to judge."
    )
    judged = "; ".join(f"{each.n:,} of {each.dataset} {each.split}" for each in comparison.rows[0].quality)
    used = energy.footnote([row.figures.energy for row in comparison.rows if row.figures.energy])
    return (
        f"{read} Judged on {judged}. From text to answer, one at a time, all models taking turns in one run, "
        f"medians, in brackets against the teacher; texts/s over {comparison.texts} texts. Peak memory: a "
        f"fresh process that loads the model and answers once. {cpu_model()} "
        f"({', '.join(sorted(cpu_features()))}), {usable_cores()} threads, {datetime.now(UTC).date()}. {used}"
    )
