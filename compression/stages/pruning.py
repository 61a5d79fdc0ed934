"""Stages that take parts of a model away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from compression import classifier
from compression.architecture import layer_shapes
from compression.classifier import Classifier
from compression.distillation.objective import DistillationSettings
from compression.evaluation import batches
from compression.pruning import structured
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.stages.training import check_teachers, distil
from compression.teacher import true_labels
from compression.training import TrainingSettings


class PruneStage(Stage):
    """Removes whole attention heads and FFN neurons of the first input, in steps; the other inputs teach
    what is left to recover after each step. `heads` and `ffn` are the shares removed in the end."""

    takes: ClassVar[tuple[str, ...]] = ("model", "model|linear")
    input_count: ClassVar[tuple[int, int]] = (2, 17)

    kind: Literal["prune"]
    heads: float = Field(default=0.0, ge=0, lt=1)
    ffn: float = Field(default=0.0, ge=0, lt=1)
    steps: int = Field(default=2, ge=1)
    importance_rows: int = Field(default=512, ge=1)
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings(epochs=1)

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs, and how many weights there are, to what the stage takes."""
        super().check_inputs(given)
        check_teachers(self.name, self.inputs[1:], given, self.distillation)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Remove heads and FFN neurons in steps, each followed by distillation; each step is kept on disk."""
        model = classifier.load(str(inputs[0].folder))
        shapes = layer_shapes(model.model)
        heads, neurons = sum(shape.heads for shape in shapes), sum(shape.ffn_width for shape in shapes)
        for step in range(1, self.steps + 1):
            step_folder = folder / f"step-{step}"
            if not (step_folder / classifier.WEIGHTS_FILE).is_file():
                share = step / self.steps
                kept = (round(heads * (1 - self.heads * share)), round(neurons * (1 - self.ffn * share)))
                _remove_least_important(model, kept, self.importance_rows, context)
                title = f"{self.name} {step}/{self.steps}"
                distil(model, inputs[1:], self.distillation, self.training, context, step_folder, title)
                classifier.save(model, step_folder)
            model = classifier.load(str(step_folder))
        classifier.save(model, folder)


def _remove_least_important(model: Classifier, kept: tuple[int, int], rows: int, context: Context) -> None:
    labelled = read_by(model, context).training_rows()
    sample = batches(labelled, labelled.take(rows), tokens=2048)
    scores = structured.importance(model.model, true_labels, sample)
    structured.remove(model.model, structured.choose(scores, *kept))
