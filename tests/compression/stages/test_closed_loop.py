from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import RecipeError
from compression import classifier, pipeline
from compression.architecture import layer_shapes
from compression.recipe import parse
from compression.stages import closed_loop
from compression.stages.base import Context, Input
from compression.stages.closed_loop import ClosedLoopStage
from compression.stages.training import distil
from compression.training import silent
from tests.compression.finished import RECIPE, Finished
from tests.compression.tiny import training


@pytest.fixture
def context(finished: Finished, tmp_path: Path) -> Context:
    """That of the finished run, with the teacher it trained, and an empty work folder."""
    trained = next((finished.request.work / "stages").glob("teacher-*"))
    prepared = pipeline._prepare(finished.request, lambda _: silent)
    return replace(prepared, work=tmp_path, teacher=Input(trained, "teacher"))


def _stage(**overrides: Any) -> ClosedLoopStage:
    plain: dict[str, Any] = {
        "name": "loop",
        "kind": "closed-loop",
        "inputs": ("teacher", "teacher"),
        "floor": 0.7,
        "heads": 0.5,
        "ffn": 0.75,
        "loop": {"step": 0.5, "smallest_step": 0.25, "most": 1.0},
        "importance_rows": 64,
        "training": training(),
    }
    return ClosedLoopStage(**{**plain, **overrides})


def _run(stage: ClosedLoopStage, context: Context, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    stage.run([context.teacher, context.teacher], context, folder)
    told: dict[str, Any] = json.loads((folder / "closed_loop.json").read_text())
    return told


def _parts(folder: Path) -> tuple[int, int]:
    shapes = layer_shapes(classifier.load(str(folder)).model)
    return sum(shape.heads for shape in shapes), sum(shape.ffn_width for shape in shapes)


def test_what_leaves_the_stage_holds_the_floor(context: Context, tmp_path: Path) -> None:
    told = _run(_stage(), context, tmp_path / "loop")
    held = [each for each in told["tries"] if each["held"]]
    assert told["sparsity"] == max(each["sparsity"] for each in held)
    assert closed_loop._accuracy(tmp_path / "loop", context) >= told["floor"]
    whole, left = _parts(context.teacher.folder), _parts(tmp_path / "loop")
    assert left[0] == pytest.approx(whole[0] * (1 - 0.5 * told["sparsity"]), abs=1)
    assert left[1] < whole[1]


def test_a_floor_that_cannot_be_held_leaves_the_model_whole(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = closed_loop._accuracy

    def worse(folder: Path, given: Context) -> float:
        return 0.1 if folder.name.startswith("from-") else validation(folder, given)

    monkeypatch.setattr(closed_loop, "_accuracy", worse)
    told = _run(_stage(), context, tmp_path / "loop")
    assert (told["sparsity"], told["ended"]) == (0.0, "the steps are too small")
    assert [each["sparsity"] for each in told["tries"]] == [0.5, 0.25]
    assert _parts(tmp_path / "loop") == _parts(context.teacher.folder)


def test_stopped_it_goes_on_at_the_step_it_was_at(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def counted(*given: Any) -> None:
        if len(trained) == 1:
            trained.append("stopped")
            raise KeyboardInterrupt
        trained.append(given[5].name)
        distil(*given)

    monkeypatch.setattr("compression.stages.closed_loop.distil", counted)
    stage = _stage(floor=0.01)  # everything holds: 0.5, then 1.0
    with pytest.raises(KeyboardInterrupt):
        _run(stage, context, tmp_path / "loop")
    told = _run(stage, context, tmp_path / "loop")
    assert trained == ["from-0.000000-to-0.500000", "stopped", "from-0.500000-to-1.000000"]
    assert (told["sparsity"], told["ended"]) == (1.0, "everything allowed is gone")


WRONG = {
    "floor = 1.2": "floor: Input should be less than or equal to 1",
    "floor = 0.9\nheads = 0.0\nffn = 0.0": "heads and ffn are both 0; nothing could be removed",
    "floor = 0.9\nloop = { step = 0.1, smallest_step = 0.2 }": "smallest_step 0.2 is above step 0.1",
    "floor = 0.9\nflor = 0.9": "unknown key; did you mean 'floor'?",
}


@pytest.mark.parametrize("lines", WRONG)
def test_a_recipe_that_makes_no_sense(lines: str) -> None:
    stage = f'[[stages]]\nname = "loop"\nkind = "closed-loop"\ninputs = ["distilled", "teacher"]\n{lines}\n'
    with pytest.raises(RecipeError) as found:
        parse(RECIPE + stage, "tiny")
    assert WRONG[lines] in str(found.value)
