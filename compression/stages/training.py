"""Stages that train: the teacher's own fine-tuning, a student, its distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from app.errors import RecipeError
from compression import classifier
from compression.architecture import layer_shapes
from compression.classifier import Classifier
from compression.distillation.objective import DistillationObjective, DistillationSettings
from compression.distillation.teacher_logits import teacher_logits
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.students import keep_layers
from compression.teacher import true_labels
from compression.training import TrainingSettings, train


class StudentStage(Stage):
    """A shallower model from some layers of another, its weights kept.

    `layers` names them (counted from 0), or says how many, evenly spread from the first to the last.
    """

    kind: Literal["student"]
    layers: Annotated[int, Field(ge=1)] | Annotated[tuple[int, ...], Field(min_length=1)]

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Keep some layers."""
        classifier.save(keep_layers(classifier.load(str(inputs[0].folder)), self.layers), folder)


class DistilStage(Stage):
    """Trains the first input to answer as the second, its teacher."""

    input_count: ClassVar[tuple[int, int]] = (2, 2)

    kind: Literal["distil"]
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings()

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Train the first input to answer as the second."""
        student = classifier.load(str(inputs[0].folder))
        distil(student, inputs[1], self.distillation, self.training, context, folder, self.name)
        classifier.save(student, folder)


def finetune(backbone: str, settings: TrainingSettings, context: Context, folder: Path) -> None:
    """Fine-tune a backbone on the true labels."""
    model = classifier.load(backbone, label_names=context.datasets[0].label_names)
    rows, validation = context.training_rows(), context.validation_rows()
    report = context.report("fine-tuning the teacher")
    train(model.model, true_labels, rows, validation, settings, folder / "training", report)
    classifier.save(model, folder)


def distil(
    student: Classifier,
    teacher: Input,
    distillation: DistillationSettings,
    training: TrainingSettings,
    context: Context,
    folder: Path,
    title: str,
) -> None:
    """Train the student in place; every stage that recovers what it took away calls this.

    The teacher reads the rows with its tokenizer, the student with its own.

    Raises:
        RecipeError: a loss compares tokens, and the two do not have the same ones.
    """
    teaching = classifier.load(str(teacher.folder))
    own, theirs = read_by(student, context), read_by(teaching, context)
    own_rows = own.training_rows(distillation.unlabelled_rows)
    rows = theirs.training_rows(distillation.unlabelled_rows)
    if distillation.compares_tokens and own_rows.fingerprint != rows.fingerprint:
        raise RecipeError(
            f"{title}: hidden states are compared token by token, and the student's tokenizer is not its "
            "teacher's; distil them before the vocabulary is pruned, or set hidden_weight to 0"
        )
    taught_by = teaching.model
    nn.Module.to(taught_by, _device())
    report = context.report(f"{title}: teacher's logits")
    classes, cache = len(student.labels), context.work / "logits"
    logits = teacher_logits(taught_by, teacher.key, rows, classes, cache, training.precision, report)
    layers = (len(layer_shapes(student.model)), len(layer_shapes(taught_by)))
    objective = DistillationObjective(distillation, logits, taught_by, layers)
    validation, report = own.validation_rows(), context.report(title)
    train(student.model, objective, own_rows, validation, training, folder / "training", report)


def _device() -> str:
    """Where the teacher answers: beside the student, which accelerate puts there."""
    return "cuda" if torch.cuda.is_available() else "cpu"
