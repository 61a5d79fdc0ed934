from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from app.errors import CompressionError
from compression import cli, training_arm, training_benchmark, training_table
from compression.evaluation import Scores
from compression.training_arm import Evaluation, Job, Moment, Result, Stopwatch
from compression.training_benchmark import OURS, PLAIN, Request, changed, ingredients, measure, seconds_to
from tests.compression.finished import backbone
from tests.compression.tiny import rows_of, tiny_model, training, write_data


def request(tmp_path: Path, **overrides: Any) -> Request:
    backbone(tmp_path / "backbone")
    write_data(tmp_path / "data")
    plain: dict[str, Any] = {
        "backbone": str(tmp_path / "backbone"),
        "data": str(tmp_path / "data"),
        "reviews": 64,
        "validation_reviews": 20,
        "epochs": 1.0,
        "rows_per_step": 8,
        "max_tokens": 32,
        "steps": 2,
        "ingredients": True,
    }
    return Request(**{**plain, **overrides})


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Every arm runs here, and its job is remembered; compilation does not go as far as C++."""
    jobs: list[Job] = []

    def run(job: Job, work: Path) -> Result:
        jobs.append(job)
        folder = work / str(len(jobs))
        folder.mkdir()
        return training_arm.run(job, folder)

    monkeypatch.setattr(training_benchmark, "run_apart", run)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setenv("CXX", "sh")  # the eager backend calls no compiler, so any program will do
    return jobs


def test_all_arms(tmp_path: Path, in_this_process: list[Job]) -> None:
    found = measure(request(tmp_path))
    assert found.failed == {}
    names = [job.name for job in in_this_process]
    assert names[:2] == [PLAIN, OURS]
    assert names[2:] == [arm.name for arm in found.ingredients]
    assert found.target_loss == min(each.loss for each in found.plain.evaluations)
    assert found.plain.steps == found.plain.steps_per_epoch == 8
    assert len(found.plain.evaluations) == 5
    for arm in (found.plain, found.ours, *found.ingredients):
        assert arm.tokens_per_second > 0
        assert arm.peak_bytes > 50e6
        assert arm.cpu_utilisation > 0
    if found.ours.reached_target:
        assert found.ours.evaluations[-1].loss <= found.target_loss
        assert found.time_saved < 1
    short = [arm for arm in found.ingredients if arm.steps == 2]
    assert len(short) >= 6, "an arm that shows its speed takes two steps"
    found.write(tmp_path / "figures.json")
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["request"]["reviews"] == 64
    assert written["memory_saved"] == found.memory_saved
    printed = text_of(found)
    assert all(arm.name in printed for arm in found.ingredients)
    assert "64 reviews of at most 32 tokens" in printed


def text_of(found: training_benchmark.Comparison) -> str:
    console = Console(width=200, record=True)
    console.print(training_table.comparison_table(found))
    console.print(training_table.ingredients_table(found))
    console.print(training_table.footnote(found))
    return console.export_text()


def test_each_arm_differs_in_one_thing(tmp_path: Path) -> None:
    asked = request(tmp_path, max_tokens=512)
    ours = Job(
        name=OURS,
        loop="ours",
        training=training(precision="bf16", micro_batch_tokens=1024),
        max_tokens=512,
        target_loss=0.5,
        backbone="b",
        reviews=tmp_path,
    )
    found = ingredients(asked, "bf16")
    assert len({ingredient.name for ingredient in found}) == len(found) == 9
    aims = {"name", "target_loss", "training"}
    for ingredient in found:
        job = changed(ours, ingredient, asked)
        before, after = ours.model_dump(), job.model_dump()
        differing = {key for key in before if before[key] != after[key] and key not in aims}
        for key in ("epochs", "evaluations_per_epoch", "validation_rows"):
            before["training"].pop(key)
            after["training"].pop(key)
        differing |= {key for key in before["training"] if before["training"][key] != after["training"][key]}
        assert len(differing) == 1, ingredient.name
        assert (job.target_loss is not None) == ingredient.to_target
    assert not any("fp32" in ingredient.name for ingredient in ingredients(asked, "no"))


def test_a_fresh_process(tmp_path: Path) -> None:
    asked = request(tmp_path, ingredients=False, reviews=16)
    found = measure(asked)
    assert found.ingredients == ()
    assert (found.plain.name, found.ours.name) == (PLAIN, OURS)
    assert found.plain.steps == 2


def test_an_arm_that_fails_says_how(tmp_path: Path) -> None:
    job = Job(
        name="ours",
        loop="ours",
        training=training(),
        max_tokens=16,
        backbone=str(tmp_path / "nothing"),
        reviews=write_data(tmp_path / "data"),
    )
    with pytest.raises(CompressionError, match=r"ours: .*has no tokenizer to load"):
        training_benchmark.run_apart(job, tmp_path)


def test_an_ingredient_that_fails_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: Job, _: Path) -> Result:
        if "compiled" in job.name:
            raise CompressionError("no compiler")
        evaluations = (Evaluation(2.0, 4, 0.6, 0.7), Evaluation(4.0, 8, 0.5, 0.8))
        seconds = 4.0 if job.loop == "plain" else 1.0
        size = int(1000 * seconds)
        return Result(job.name, seconds, 100.0, size, None, 0.9, 8, 8, 1.0, seconds, True, evaluations)

    monkeypatch.setattr(training_benchmark, "run_apart", run)
    found = measure(request(tmp_path))
    assert found.failed == {"compiled": "no compiler"}
    assert (found.target_loss, found.time_saved, found.memory_saved) == (0.5, 0.75, 0.75)
    printed = text_of(found)
    assert printed.count("75% less") == 3
    assert "failed: no compiler" in printed


def test_seconds_to_a_loss() -> None:
    evaluations = [
        Evaluation(1.0, 1, 0.7, None),
        Evaluation(2.0, 2, 0.4, None),
        Evaluation(3.0, 3, 0.5, None),
    ]
    assert seconds_to(evaluations, 0.5) == 2.0
    assert seconds_to(evaluations, 0.1) == float("inf")


def test_evaluations_are_nobodys_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    monkeypatch.setattr("time.process_time", lambda: now / 2)
    rows, model = rows_of(8, tmp_path), tiny_model()
    watch = Stopwatch(target_loss=None)

    def judged(*_: object) -> object:
        nonlocal now
        now += 100
        return Scores(1.0, 0.25, 8)

    monkeypatch.setattr(training_arm, "by_labels", judged)
    for step in (1, 2):
        now += 3
        watch.objective(model, rows.batch([0, 1]))
        watch.report(step, 2, "")
        watch.judge(model, rows, [0])
    tokens = int(rows.lengths[:2].sum())
    assert watch.after_first == Moment(3.0, 1.5, tokens, 1)
    assert watch.last == Moment(6.0, 3.0, 2 * tokens, 2)
    assert [each.seconds for each in watch.evaluations] == [3.0, 6.0]
    stopping = Stopwatch(target_loss=0.25)
    with pytest.raises(training_arm.Reached):
        stopping.judge(model, rows, [0])


def test_the_command(tmp_path: Path, in_this_process: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    asked = request(tmp_path)
    arguments = ["benchmark", "training", "--backbone", asked.backbone, "--data", asked.data]
    sizes = ["--reviews", "32", "--validation", "10", "--rows", "8", "--max-tokens", "16", "--no-ingredients"]
    assert cli.main([*arguments, *sizes, "--json", str(tmp_path / "figures.json")]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["request"]["reviews"] == 32
    assert "plain loop" in capsys.readouterr().out
