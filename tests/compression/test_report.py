from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from app.errors import CompressionError
from compression import cli
from compression.reporting import page, record, report, svg
from compression.reporting.figures import disagreements
from tests.compression.finished import Finished


class Tags(HTMLParser):
    """Every tag that opens, and whether all that must close do."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.seen.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def told(finished: Finished) -> Finished:
    """The finished run with its report."""
    assert finished.outcome.context is not None
    assert report.tell(finished.outcome, finished.outcome.context) == finished.request.work / "report.html"
    return finished


def test_a_finished_run_has_its_report(told: Finished) -> None:
    finished = told
    page = (finished.request.work / "report.html").read_text(encoding="utf-8")
    found = Tags(page)
    assert found.open == []
    assert found.seen.count("svg") >= 4
    assert not re.search(r"https?://|<script|<link|<img|url\(", page), "nothing from elsewhere"
    run = record.read(finished.request.work)
    names = [stage.name for stage in run.stages]
    assert names == ["teacher", *(stage.name for stage in finished.request.recipe.stages)]
    assert set(run.figures) == {stage.name for stage in run.stages if stage.gives != "version"}
    for name, figures in run.figures.items():
        assert name in page
        assert 0 <= figures.interval_95[0] <= figures.accuracy <= figures.interval_95[1] <= 1
        assert figures.latency_ms > 0
    assert run.figures["teacher"].flip_rate == 0
    assert run.figures["student"].size_bytes < run.figures["teacher"].size_bytes
    assert "pruned step-2" in page, "training curves of every step"
    for version in finished.outcome.published:
        assert f"{version.manifest.name}/{version.manifest.version}" in page
        assert f"{version.manifest.quality[0].accuracy:.2%}" in page


def test_the_command_writes_it_elsewhere(
    told: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "page.html"
    assert cli.main(["report", str(told.request.work), "--output", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"holds no run\.json; give the --work folder of a run"):
        report.write(tmp_path)
    (tmp_path / "run.json").write_text('{"recipe": 3}')
    with pytest.raises(CompressionError, match="is not the record of a run"):
        report.write(tmp_path)


@pytest.mark.parametrize(("longest", "shown"), [(0, "…"), (1, "…"), (5, "wort…"), (40, "worth every minute")])
def test_a_text_is_shown_as_far_as_it_may_be(longest: int, shown: str) -> None:
    assert page.shortened("worth every minute", longest) == shown


def test_disagreements_are_the_flipped_rows_the_surest_first() -> None:
    reference = np.array([[2.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    logits = np.array([[0.0, 0.5], [0.0, 2.0], [0.0, 4.0], [0.0, 1.0]], dtype=np.float32)
    texts = ["a", "b", "c" * 500, "d"]
    found = disagreements(logits, reference, np.array([1, 1, 0, 0]), [0, 1, 2, 3], texts, ("no", "yes"))
    assert [(each.row, each.teacher, each.ours, each.label) for each in found] == [
        (2, "no", "yes", "no"),
        (0, "no", "yes", "yes"),
    ]
    assert found[0].text == "c" * 240
    assert found[0].score > found[1].score


def test_text_in_a_chart_is_escaped() -> None:
    chart = svg.scatter([svg.Point(1.0, 0.5, "<b>&")], "x", "y", str)
    assert "&lt;b&gt;&amp;" in chart
    assert "<b>" not in chart
    assert Tags(chart).open == []


def test_points_lie_where_their_values_say() -> None:
    chart = svg.scatter([svg.Point(10.0, 0.5, "a"), svg.Point(20.0, 0.9, "b")], "x", "y", str)
    places = [tuple(map(float, found)) for found in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart)]
    (left, low), (right, high) = places
    assert left < right
    assert low > high, "better is higher up"
    # x starts at zero: twice the value is twice as far from the axis.
    assert right - 62 == pytest.approx(2 * (left - 62), abs=0.2)


def test_bars_are_as_high_as_their_values() -> None:
    chart = svg.bars({"a": [2.0, 4.0], "b": [1.0]}, ["one", "two"], "y")
    heights = [float(found) for found in re.findall(r'height="([\d.]+)" rx', chart)]
    assert heights[2] == pytest.approx(2 * heights[0], abs=0.2)
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    assert len(heights) == 3
