from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from compression import console
from compression.cleaning import CleaningReport
from compression.data import Dataset, Split
from compression.publish import Published
from tests.compression.finished import Finished

TWO = Split(("a", "b"), (0, 1))
DATASET = Dataset(
    name="reviews",
    label_names=("no", "yes"),
    train=TWO,
    validation=TWO,
    test=None,
    unlabelled=None,
    report=CleaningReport(98, 1, 123, 201, 7, 266),
)


def printed(renderable: Any) -> str:
    output = Console(file=io.StringIO(), width=200)
    output.print(renderable)
    stream = output.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_the_data_in_one_line() -> None:
    line = console.data_line(DATASET)
    assert line.startswith("data reviews: 2 train, 2 validation; left out: 98 duplicates in train")
    assert "1 texts with two labels" in line
    assert "123 train texts that stand in test" in line
    assert "7 duplicates and 266 test texts in unlabelled" in line
    assert "another data set" not in line
    report = replace(DATASET.report, in_other_data=4)
    line = console.data_line(replace(DATASET, report=report))
    assert line.endswith("test texts in unlabelled, 4 that another data set holds out")
    whole = replace(DATASET, test=TWO, unlabelled=Split(("c",), None))
    assert "2 train, 2 validation, 2 test, 1 unlabelled;" in console.data_line(whole)


def test_the_summary_has_a_row_for_each_version(finished: Finished) -> None:
    table = printed(console.summary(finished.outcome.published))
    for version in finished.outcome.published:
        manifest = version.manifest
        (line,) = [line for line in table.splitlines() if f"{manifest.name}/1" in line]
        assert manifest.builds[0].name in line
        assert f"{manifest.quality[0].accuracy:.2%}" in line
        assert "n=160" in line
        assert "x faster" in line
        assert f"{manifest.bytes / 1e6:.1f} MB" in line


def test_a_version_without_a_teachers_figures(finished: Finished) -> None:
    version = finished.outcome.published[0]
    quality = version.manifest.quality[0].model_copy(update={"retention": None, "label_flip_rate": None})
    manifest = version.manifest.model_copy(update={"quality": (quality,)})
    assert " - " in printed(console.summary((Published(version.folder, manifest),)))


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stream = io.StringIO()
    with console.reports(Console(file=stream, width=200)) as reports:
        report = reports("distilled")
        for done in range(1, 100):
            now += 1
            report(done, 100, f"loss [{done}]")
        report(100, 100, "the end")
    lines = stream.getvalue().splitlines()
    assert lines == [
        "distilled: 1/100 loss [1]",
        "distilled: 31/100 loss [31]",
        "distilled: 61/100 loss [61]",
        "distilled: 91/100 loss [91]",
        "distilled: 100/100 the end",
    ]


def test_a_terminal_gets_a_bar() -> None:
    stream = io.StringIO()
    output = Console(file=stream, force_terminal=True, width=120)
    with console.reports(output) as reports:
        reports("teacher's logits")(40, 40, "rows")
    assert "teacher's logits" in stream.getvalue()
    assert "40/40" in stream.getvalue()


def test_a_build_that_was_not_timed_has_no_times(finished: Finished) -> None:
    """Those of another build are not its own; and nothing at all may have been timed."""
    for builds in ("others", "none"):
        version = finished.outcome.published[0]
        first = version.manifest.builds[0].name
        left = [cost for cost in version.manifest.cost if cost.build != first and builds == "others"]
        manifest = version.manifest.model_copy(update={"cost": tuple(left)})
        table = printed(console.summary((replace(version, manifest=manifest),)))
        assert "faster" not in table and " ms" not in table
