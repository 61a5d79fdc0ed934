"""What a person sees while a run goes on, and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from transformers.utils import logging

from app.artifact import Manifest
from compression import cost
from compression.assessment import Assessment
from compression.cleaning import CleaningReport
from compression.data import Dataset
from compression.publish import Published
from compression.training import Report

_LOG_EVERY_SECONDS = 30.0
# A log has no width of its own; the summary table needs this much.
_LOG_WIDTH = 190


def terminal(*, error: bool = False) -> Console:
    """Where a command writes: the terminal as wide as it is, or a log; `error`: standard error."""
    console = Console(stderr=error)
    return console if console.is_terminal else Console(stderr=error, width=_LOG_WIDTH)


def quiet() -> None:
    """Progress is ours to show: transformers' own bars and load reports would tear it."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def reports(console: Console) -> Iterator[Callable[[str], Report]]:
    """Progress bars on a terminal; a line now and then in a log."""
    if not console.is_terminal:
        yield lambda title: _log_lines(console, title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield lambda title: _bar(progress, title)


def _bar(progress: Progress, title: str) -> Report:
    task = progress.add_task(title, total=None, note="")

    def report(done: int, total: int, note: str) -> None:
        progress.update(task, completed=done, total=total, note=note)

    return report


def _log_lines(console: Console, title: str) -> Report:
    told = 0.0

    def report(done: int, total: int, note: str) -> None:
        nonlocal told
        if done >= total or time.monotonic() - told >= _LOG_EVERY_SECONDS:
            told = time.monotonic()
            console.print(f"{title}: {done}/{total} {note}", highlight=False, markup=False, soft_wrap=True)

    return report


def data_line(dataset: Dataset) -> str:
    """What was read and what was left out, in one line."""
    sizes = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    counted = [f"{len(split):,} {name}" for name, split in sizes.items() if split is not None]
    if dataset.unlabelled is not None:
        counted.append(f"{len(dataset.unlabelled):,} unlabelled")
    return f"data {dataset.name}: {', '.join(counted)}; left out: {_left_out(dataset.report)}"


def _left_out(report: CleaningReport) -> str:
    other = f", {report.in_other_data} that another data set holds out" if report.in_other_data else ""
    return (
        f"{report.train_duplicates} duplicates in train, {report.conflicting_labels} texts with two labels, "
        f"{report.train_in_test} train texts that stand in test, {report.unlabelled_duplicates} duplicates "
        f"and {report.unlabelled_in_test} test texts in unlabelled{other}"
    )


def summary(published: tuple[Published, ...]) -> Table:
    """One row for each version."""
    table = Table(title="published")
    for column in (
        "version",
        "build",
        "size",
        "accuracy (95 %)",
        "retained",
        "labels changed",
        "128 tokens",
        "against BERT-base",
    ):
        table.add_column(column)
    for version in published:
        table.add_row(*_row(version))
    return table


def _row(version: Published) -> list[str]:
    manifest = version.manifest
    build, quality = manifest.builds[0], manifest.quality[0]
    low, high = quality.accuracy_interval_95
    return [
        f"{manifest.name}/{manifest.version}",
        build.name,
        f"{manifest.bytes / 1e6:.1f} MB",
        f"{quality.accuracy:.2%} ({low:.2%} to {high:.2%}), n={quality.n:,}",
        "-" if quality.retention is None else f"{quality.retention:.2%}",
        "-" if quality.label_flip_rate is None else f"{quality.label_flip_rate:.2%}",
        *_speed(manifest, build.name),
    ]


def _speed(manifest: Manifest, build: str) -> tuple[str, str]:
    """Milliseconds of one text, and times faster than BERT-base; dashes for what this CPU does not run."""
    measured = next((each for each in manifest.cost if each.build == build), None)
    if measured is None:
        return "-", "-"
    baseline = cost.of_baseline(manifest.cost) or measured
    ours, theirs = (
        {point.tokens: point.median_ms for point in each.latency} for each in (measured, baseline)
    )
    length = 128 if 128 in ours else max(ours)
    return f"{ours[length]:.2f} ms", f"{theirs[length] / ours[length]:.1f}x faster"


def kinds_of_texts(found: Assessment) -> Table:
    """Accuracy on each kind of texts."""
    table = Table(title=f"{found.name} on {found.dataset}, kinds of texts")
    for column in ("texts", "how many", "accuracy (95 %)", "teacher"):
        table.add_column(column)
    for each in found.slices:
        low, high = each.interval_95
        taught = "-" if each.teacher_accuracy is None else f"{each.teacher_accuracy:.2%}"
        table.add_row(each.name, f"{each.n:,}", f"{each.accuracy:.2%} ({low:.2%} to {high:.2%})", taught)
    return table


def assessments(found: Sequence[Assessment]) -> Table:
    """One row for each head on each data set."""
    table = Table(title=found[0].name)
    several = len({each.head for each in found}) > 1
    for column in (
        "data",
        "texts",
        "accuracy (95 %)",
        "F1",
        "AUC",
        "calibration error",
        "retained",
        "changed",
    ):
        table.add_column(column)
    for each in found:
        beside = each.agreement
        table.add_row(
            f"{each.dataset}, {each.head}" if several else each.dataset,
            f"{each.n:,}",
            f"{each.accuracy.value:.2%} ({each.accuracy.low:.2%} to {each.accuracy.high:.2%})",
            f"{each.f1.value:.4f}",
            f"{each.auc.value:.4f}",
            f"{each.calibration.error:.4f}",
            "-" if beside is None else f"{beside.retention:.2%}",
            "-" if beside is None else f"{beside.label_flip_rate.value:.2%}",
        )
    return table
