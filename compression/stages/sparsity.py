"""The stage that sets single weights to zero."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from compression import classifier
from compression.classifier import Classifier
from compression.distillation.objective import DistillationSettings
from compression.pruning import unstructured
from compression.pruning.compressed_size import compressed_bytes
from compression.pruning.movement import MovementObjective
from compression.pruning.unstructured import KeptSparse, Scope, cubic_sparsity
from compression.stages.base import Context, Input, Stage
from compression.stages.training import Lesson, check_teachers, lesson_of
from compression.training import TrainingSettings

REPORT_FILE = "sparsity.json"


class SparsifyStage(Stage):
    """Sets single weights of the first input's encoder to zero; the other inputs teach what is left.

    `sparsity` is the share of zeros in the end: over all dense parts together (`scope` `global`), or of each
    (`layer`). `magnitude` drops the smallest weights, in `steps` on a cubic schedule with a training after
    each; `movement` drops those that one training moves towards zero. The file is smaller only where it is
    compressed, and nothing runs faster: the stage's folder has a sparsity.json that says how much smaller.
    After a `prune` stage this is hybrid pruning; before one, its training would fill the zeros again.
    """

    takes: ClassVar[tuple[str, ...]] = ("model", "model|linear")
    input_count: ClassVar[tuple[int, int]] = (2, 17)

    kind: Literal["sparsify"]
    sparsity: float = Field(gt=0, lt=1)
    method: Literal["magnitude", "movement"] = "magnitude"
    scope: Scope = "global"
    steps: int = Field(default=3, ge=1)
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings(epochs=1)

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs, and how many weights there are, to what the stage takes."""
        super().check_inputs(given)
        check_teachers(self.name, self.inputs[1:], given, self.distillation)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Train with fewer and fewer weights, then say how large the file is."""
        model = classifier.load(str(inputs[0].folder))
        if self.method == "movement":
            self._by_movement(model, inputs[1:], context, folder)
        else:
            model = self._by_magnitude(model, inputs[1:], context, folder)
        nn.Module.to(model.model, "cpu")
        classifier.save(model, folder)
        told = {
            "sparsity": round(unstructured.sparsity(model.model), 5),
            "by_part": {
                name: round(share, 5) for name, share in unstructured.sparsities(model.model).items()
            },
            "bytes": compressed_bytes(folder / classifier.WEIGHTS_FILE),
        }
        (folder / REPORT_FILE).write_text(json.dumps(told, indent=2), encoding="utf-8")

    def _lesson(self, model: Classifier, teachers: Sequence[Input], context: Context, title: str) -> Lesson:
        return lesson_of(model, teachers, self.distillation, self.training.precision, context, title)

    def _by_magnitude(
        self, model: Classifier, teachers: Sequence[Input], context: Context, folder: Path
    ) -> Classifier:
        for step in range(1, self.steps + 1):
            step_folder = folder / f"step-{step}"
            if not (step_folder / classifier.WEIGHTS_FILE).is_file():
                share = cubic_sparsity(step / self.steps, self.sparsity)
                masks = unstructured.magnitude_masks(model.model, share, self.scope)
                title = f"{self.name} {step}/{self.steps}"
                lesson = self._lesson(model, teachers, context, title)
                kept = KeptSparse(lesson.objective, masks, model.model)
                lesson = replace(lesson, objective=kept, judge=kept.judge(lesson.judge))
                lesson.learn(model.model, self.training, step_folder / "training", context, title)
                nn.Module.to(model.model, "cpu")
                unstructured.apply(model.model, masks)
                classifier.save(model, step_folder)
            model = classifier.load(str(step_folder))
        return model

    def _by_movement(
        self, model: Classifier, teachers: Sequence[Input], context: Context, folder: Path
    ) -> None:
        lesson = self._lesson(model, teachers, context, self.name)
        rows = round(len(lesson.rows) * self.training.epochs)
        moving = MovementObjective(lesson.objective, model.model, self.sparsity, rows, self.scope)
        with moving.attached():
            lesson = replace(lesson, objective=moving, judge=moving.judge(lesson.judge))
            lesson.learn(model.model, self.training, folder / "training", context, self.name)
        nn.Module.to(model.model, "cpu")
        unstructured.apply(model.model, moving.masks)
