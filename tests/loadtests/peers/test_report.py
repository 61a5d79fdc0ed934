from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import DataError
from loadtests.peers import report
from loadtests.peers.peer import Setting
from loadtests.peers.table import Table
from loadtests.peers.visit import Trial
from tests.loadtests.peers.fake import figures, visited

LENGTHS = ("short", "long")


def table() -> Table:
    one, other, never = Setting(), Setting(workers=2), Setting(workers=3)
    lengths = {"short": figures(200, failures={"wrong": 3, "503": 5}), "long": figures(50)}
    return Table(
        "same-build",
        trials=[
            Trial("bertpress", one, lengths),
            Trial("slow", other, lengths),
            Trial("absent", never, {}, "Traceback\nImportError: no engine"),
        ],
        chosen={"bertpress": one, "slow": other, "quick": one},
        equal_rates={"short": 100.0, "long": 25.0},
        visits=[
            visited("bertpress", 100),
            visited("slow", 50, p99_ms=None),
            visited("quick", 80),
            visited("bertpress", 300),
            visited("slow", 70, p99_ms=None),
        ],
        failures={"absent": "Traceback\nImportError: no engine"},
    )


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_holds_the_medians() -> None:
    text = report.markdown(table(), LENGTHS)

    assert row(text, "**bertpress**") == [
        "**bertpress**",
        *["200", "20 ms", "200/s, 100% (0%)"] * 2,
        "100 MB",
        "1.5 s",
    ]
    assert row(text, "slow")[2] == "over 1% failed"


def test_rows_are_as_long_as_their_header() -> None:
    grid = [line for line in report.markdown(table(), LENGTHS).splitlines() if line.startswith("| ")]

    assert {line.count(" |") for line in grid} == {9, 4}


def test_the_header_says_the_deadline_and_the_equal_rate() -> None:
    header = report.markdown(table(), LENGTHS).splitlines()[0]

    assert "short: req/s at p99 < 100 ms" in header
    assert "long: req/s at p99 < 500 ms" in header
    assert "long: p99 at 25/s" in header


def test_we_are_compared_with_the_best_other_for_better_or_worse() -> None:
    text = report.markdown(table(), LENGTHS)

    assert "short, sustained: 2.50 times the best other (quick)" in text
    assert "memory: 1.00 times the best other" in text
    worse = table()
    worse.visits.append(visited("quick", 1520))
    assert "long, sustained: 0.25 times the best other (quick)" in report.markdown(worse, LENGTHS)


def test_the_smaller_latency_is_the_better_one() -> None:
    slower = table()
    slower.visits = [visited("bertpress", 100, p99_ms=40.0), visited("quick", 100, p99_ms=10.0)]

    assert "short, p99 at equal rate: 0.25 times" in report.markdown(slower, LENGTHS)


def test_settings_tried_show_wrong_labels_and_failures_apart() -> None:
    text = report.markdown(table(), LENGTHS)

    assert "| slow | onnx, 2 workers, no batching (taken) | 200 (3.0%, 5.0%) | 50 (0.0%, 0.0%) |" in text
    assert "| absent | onnx, 3 workers, no batching | did not run: ImportError: no engine |" in text
    assert "absent was not measured: ImportError: no engine" in text


def test_alone_we_are_compared_with_nobody() -> None:
    alone = table()
    alone.visits = [visited("bertpress", 100)]

    assert "times the best other" not in report.markdown(alone, LENGTHS)


def test_a_page_gets_the_text_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n")

    for text in ("first", "second"):
        report.write(page, "a", text)

    assert page.read_text() == "before\n<!-- a: begin -->\nsecond\n<!-- a: end -->\nafter\n"
    with pytest.raises(DataError, match="no lines `<!-- b: begin -->`"):
        report.write(page, "b", "text")


def test_facts_are_a_list() -> None:
    assert report.facts({"date": "today", "machine": "this"}) == "- date: today\n- machine: this"
