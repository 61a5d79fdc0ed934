"""Two recipes compared on a tiny teacher: one that gives two versions, and one that fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import CompressionError, RecipeError
from compression import comparison, comparison_report, pipeline
from compression.cli import main
from compression.comparison import LINEAR, TEACHER, Comparison
from compression.evaluation import accuracy_interval
from compression.pipeline import Request
from compression.recipe import Recipe, parse
from compression.stages.base import Stage
from tests.compression.finished import RECIPE, Finished, cheap_baseline, moved, quiet

IMPOSSIBLE = """
name = "impossible"
text = { max_tokens = 16 }

[[stages]]
name = "onnx"
kind = "export"
inputs = ["teacher"]

[[stages]]
name = "version"
kind = "publish"
inputs = ["onnx"]
model = "never"
gate.fp32_tolerance = 1e-12
"""


@pytest.fixture(scope="module")
def asked(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """On a copy of the finished run, so that its teacher is there."""
    return moved(finished, tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def recipes() -> tuple[Recipe, ...]:
    return parse(RECIPE, "tiny"), parse(IMPOSSIBLE, "impossible")


@pytest.fixture(scope="module")
def compared(asked: Request, recipes: tuple[Recipe, ...]) -> Comparison:
    with cheap_baseline():
        return comparison.compare(asked, recipes, quiet, rounds=2, texts=4)


def test_teacher_and_linear_model_are_rows_and_so_is_every_version(compared: Comparison) -> None:
    names = [row.figures.name for row in compared.rows]
    assert names == [TEACHER, LINEAR, "tiny: small/1 (onnx-int8-reduced)", "tiny: whole/1 (onnx-fp32)"]
    assert [row.recipe for row in compared.rows] == [None, None, "tiny", "tiny"]


def test_everything_is_against_the_one_teacher(compared: Comparison, finished: Finished) -> None:
    teacher, _, small, whole = (row.quality[0] for row in compared.rows)
    published = finished.manifest("small").quality[0]
    assert (teacher.accuracy, teacher.retention) == (published.teacher_accuracy, 1.0)
    assert (small.dataset, small.split, small.n) == ("reviews", "test", 160)
    assert small.retention == small.accuracy / teacher.accuracy
    assert whole.accuracy == teacher.accuracy
    assert small.interval_95 == accuracy_interval(small.accuracy, 160)


def test_all_were_measured(compared: Comparison) -> None:
    for row in compared.rows:
        assert set(row.figures.latency_ms) == {32, 128, 512}
        assert min(row.figures.latency_ms.values()) > 0
        assert row.figures.peak_bytes == 123_000_000


def test_a_recipe_that_fails_is_named_and_the_others_go_on(compared: Comparison) -> None:
    (reason,) = compared.refused
    assert reason.startswith("impossible: version: build onnx-fp32: logits differ from PyTorch's by")


def test_what_is_finished_is_not_done_again(
    asked: Request, recipes: tuple[Recipe, ...], compared: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    perform = pipeline._perform

    def noted(stage: Stage, *rest: Any) -> Path | None:
        done.append(stage.name)
        return perform(stage, *rest)

    monkeypatch.setattr(pipeline, "_perform", noted)
    with cheap_baseline():
        again = comparison.compare(asked, recipes, quiet, rounds=1, texts=2)
    assert done == ["version"]  # the one that failed is tried again
    assert [row.quality for row in again.rows] == [row.quality for row in compared.rows]


def test_without_any_version_there_is_nothing_to_compare(asked: Request) -> None:
    with cheap_baseline(), pytest.raises(CompressionError, match="no recipe gave anything to compare"):
        comparison.compare(asked, [parse(IMPOSSIBLE, "impossible")], quiet, rounds=1, texts=2)


def test_two_recipes_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(IMPOSSIBLE.replace("impossible", "default"))
    with pytest.raises(RecipeError, match="named 'default'; give one another name"):
        comparison.recipes_of(["default", str(tmp_path / "mine.toml")])


def test_optimum_is_compared_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr("compression.optimum_process.available", lambda _, there=there: there)
        names = comparison.default_recipes()
        assert ("optimum" in names) is there
        assert names[:2] == ("distilbert", "tinybert")
        assert {recipe.name for recipe in comparison.recipes_of(names)} == set(names)


def test_the_environment_of_optimum_is_told_to_its_stage() -> None:
    (chosen,) = comparison.recipes_of(["optimum"], "/elsewhere/bin/python")
    assert [getattr(stage, "python", None) for stage in chosen.stages] == ["/elsewhere/bin/python", None]


def test_a_subset_says_so(compared: Comparison) -> None:
    assert "All rows of the data were read. Judged on 160 of reviews test." in (
        comparison_report.caption(compared)
    )
    limited = comparison_report.caption(replace(compared, limit_rows=1000))
    assert limited.startswith("A subset: at most 1,000 rows of each split were read")


def test_the_table_as_markdown(compared: Comparison) -> None:
    heading, _, teacher, linear, *rest = comparison_report.markdown(compared).splitlines()
    assert heading.startswith("| model | size | reviews test accuracy (95 %) | retained | 32 tokens |")
    assert teacher.startswith(f"| {TEACHER} |")
    assert "100.00%" in teacher
    assert linear.startswith(f"| {LINEAR} |")
    assert rest[-1].startswith("Not in the table: impossible: version: build onnx-fp32")


def test_the_command(
    asked: Request, compared: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    files = tmp_path / "figures.json", tmp_path / "table.md"
    options = [
        *("compare", "--backbone", str(asked.backbone), "--data", *asked.data, "--work", str(asked.work)),
        *("--recipe", str(tmp_path / "tiny.toml"), "--output", str(asked.repository)),
        *("--rounds", "1", "--texts", "2", "--json", str(files[0]), "--markdown", str(files[1])),
    ]
    with cheap_baseline(), pytest.MonkeyPatch.context() as patched:
        patched.setattr("compression.recipe.load", lambda _: parse(RECIPE, "tiny"))
        assert main(options) == 0
    printed = capsys.readouterr().out
    assert "recipes on one teacher and the same data" in printed
    found = json.loads(files[0].read_text())
    assert [row["name"] for row in found["rows"]] == [row.figures.name for row in compared.rows]
    assert found["limit_rows"] is None
    assert files[1].read_text().startswith("| model | size |")
