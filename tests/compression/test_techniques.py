"""The arms of the recipe `techniques`, and a smaller recipe carried out in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compression import recipe, techniques
from compression.cli import main
from compression.recipe import parse
from tests.compression.finished import Finished

SMALL = """
name = "techniques"
text = { max_tokens = 16 }

[[stages]]
name = "student"
kind = "student"
inputs = ["teacher"]
layers = 2

[[stages]]
name = "soft-labels"
kind = "distil"
inputs = ["student", "teacher"]
training = { epochs = 1, precision = "fp32" }

[[stages]]
name = "onnx"
kind = "export"
inputs = ["soft-labels"]

[[stages]]
name = "aware-int8"
kind = "quantize"
inputs = ["onnx"]

[[stages]]
name = "techniques"
kind = "publish"
inputs = ["aware-int8"]
model = "never-made"
"""


def test_every_arm_is_a_stage_that_answers() -> None:
    stages = {stage.name: stage for stage in recipe.load(techniques.RECIPE).stages}
    arms = [stages[name] for name in techniques.ARMS if name != "teacher"]
    assert {arm.gives for arm in arms} == {"model", "build"}
    ways = {"student", "distil", "prune", "sparsify", "tokens", "branch", "vocabulary", "quantize"}
    assert ways | {"quantization-aware"} == {arm.kind for arm in arms}


def test_arms_are_made_and_judged_beside_their_teacher(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recipe, "load", lambda _: parse(SMALL, "techniques"))
    teacher = str(finished.outcome.results["teacher"].folder)
    told = tmp_path / "told.json"
    page = tmp_path / "page.md"
    asked = ["benchmark", "techniques", "--teacher", teacher, "--data", finished.request.data[0]]
    asked += ["--work", str(tmp_path / "work"), "--json", str(told), "--markdown", str(page)]

    assert main(asked) == 0

    found = json.loads(told.read_text())
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert list(arms) == ["teacher", "student", "soft-labels", "aware-int8"]
    assert arms["teacher"]["retained"] == 1
    for arm in arms.values():
        assert arm["accuracy"]["low"] <= arm["accuracy"]["value"] <= arm["accuracy"]["high"]
        right = arm["accuracy"]["value"] * found["rows"]
        assert right == pytest.approx(round(right))
        assert arm["retained"] == arm["accuracy"]["value"] / arms["teacher"]["accuracy"]["value"]
    assert (
        arms["aware-int8"]["size_bytes"] < arms["soft-labels"]["size_bytes"] < arms["teacher"]["size_bytes"]
    )
    assert arms["soft-labels"]["seconds"] > 0
    assert page.read_text().count("\n| ") == len(arms) + 1
    assert "soft labels" in capsys.readouterr().out
    assert not (tmp_path / "work" / "techniques").exists()
