"""The stage that finds its own pruning rate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator

from compression import classifier, closed_loop
from compression.architecture import layer_shapes
from compression.closed_loop import LoopSettings, Risen
from compression.distillation.objective import DistillationSettings
from compression.evaluation import batches, by_labels, mean_of
from compression.pruning import structured
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.stages.training import check_teachers, distil
from compression.teacher import true_labels
from compression.training import TrainingSettings

_REPORT_FILE = "closed_loop.json"
_VERDICT_FILE = "validation.json"


class ClosedLoopStage(Stage):
    """Prunes heads and FFN neurons of the first input further and further, each step followed by distillation
    from the others, as long as validation keeps `floor`: a share of the accuracy that the second input, its
    teacher, has on the same texts. A step that breaks it is undone and half of it tried.

    `heads` and `ffn` are the shares removed at sparsity 1, so that they say which of both goes faster. The
    stage's folder has a closed_loop.json with every try.
    """

    takes: ClassVar[tuple[str, ...]] = ("model", "model|linear")
    input_count: ClassVar[tuple[int, int]] = (2, 17)

    kind: Literal["closed-loop"]
    floor: float = Field(gt=0, le=1)
    heads: float = Field(default=0.5, ge=0, lt=1)
    ffn: float = Field(default=0.9, ge=0, lt=1)
    loop: LoopSettings = LoopSettings()
    importance_rows: int = Field(default=512, ge=1)
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings(epochs=0.5)

    @model_validator(mode="after")
    def _removes_something(self) -> ClosedLoopStage:
        if not self.heads and not self.ffn:
            raise ValueError(f"stage {self.name!r}: heads and ffn are both 0; nothing could be removed")
        return self

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs, and how many weights there are, to what the stage takes."""
        super().check_inputs(given)
        check_teachers(self.name, self.inputs[1:], given, self.distillation)
        if given[self.inputs[1]] != "model":
            raise ValueError(f"stage {self.name!r} holds its floor against a model; name one as second input")

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Raise sparsity as far as the floor allows; each try is kept on disk until the stage is done."""
        whole = inputs[0].folder
        shapes = layer_shapes(classifier.load(str(whole)).model)
        parts = sum(shape.heads for shape in shapes), sum(shape.ffn_width for shape in shapes)

        def further(state: Path, before: float, after: float) -> Path:
            target = folder / f"from-{before:.6f}-to-{after:.6f}"
            if not (target / classifier.WEIGHTS_FILE).is_file():
                self._prune(state, after, parts, inputs[1:], context, target)
            return target

        def validate(state: Path) -> float:
            return _validation(state, context)

        floor = self.floor * _accuracy(inputs[1].folder, context)
        found = closed_loop.rise(whole, further, validate, floor, self.loop)
        _write_report(found, floor, folder)
        classifier.save(classifier.load(str(found.state)), folder)

    def _prune(
        self,
        state: Path,
        sparsity: float,
        parts: tuple[int, int],
        teachers: Sequence[Input],
        context: Context,
        target: Path,
    ) -> None:
        model = classifier.load(str(state))
        labelled = read_by(model, context).training_rows()
        sample = batches(labelled, labelled.take(self.importance_rows), tokens=2048)
        scores = structured.importance(model.model, true_labels, sample)
        heads, neurons = (
            round(count * (1 - share * sparsity))
            for count, share in zip(parts, (self.heads, self.ffn), strict=True)
        )
        structured.remove(model.model, structured.choose(scores, heads, neurons))
        title = f"{self.name} at sparsity {sparsity:.3f}"
        distil(model, teachers, self.distillation, self.training, context, target, title)
        classifier.save(model, target)


def _validation(state: Path, context: Context) -> float:
    """Accuracy on validation, computed once for each state."""
    path = state / _VERDICT_FILE
    if not path.is_file():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"accuracy": _accuracy(state, context)}), encoding="utf-8")
        partial.replace(path)
    return float(json.loads(path.read_text(encoding="utf-8"))["accuracy"])


def _accuracy(folder: Path, context: Context) -> float:
    """The mean over the data sets, each counting the same."""
    model = classifier.load(str(folder))
    validation = read_by(model, context).validation_rows()
    with torch.inference_mode():
        scores = mean_of([by_labels(model.model, validation, part) for part in validation.parts()])
    return scores.accuracy or 0.0


def _write_report(found: Risen[Path], floor: float, folder: Path) -> None:
    told = {
        "floor": floor,
        "sparsity": found.sparsity,
        "ended": found.ended,
        "tries": [asdict(each) for each in found.tries],
    }
    (folder / _REPORT_FILE).write_text(json.dumps(told, indent=2), encoding="utf-8")
