"""Stages that train: the teacher's own fine-tuning, a student, its distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from app.errors import CompressionError, RecipeError
from compression import checkpoint, classifier
from compression.architecture import layer_shapes
from compression.batches import Rows
from compression.classifier import Classifier
from compression.distillation import ngram_teacher
from compression.distillation.ensemble import by_heads
from compression.distillation.objective import DistillationObjective, DistillationSettings
from compression.distillation.teacher_logits import teacher_logits
from compression.evaluation import Judge, by_labels
from compression.heads import weights_of
from compression.precision import Precision
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.students import keep_layers, narrow
from compression.teacher import FinetuningSettings, smoothed_labels
from compression.training import Objective, Report, TrainingSettings, train


class StudentStage(Stage):
    """A shallower or narrower model from another one's weights.

    `layers` names the layers kept (counted from 0), says how many or which share of them, evenly spread from
    the first to the last, or is `alternate`: every second one. `hidden_size` and `ffn` make it narrower, to
    so many or to a share; it keeps as many heads, and starts from evenly spaced elements of the weights.
    """

    kind: Literal["student"]
    layers: (
        Annotated[int, Field(ge=1)]
        | Annotated[float, Field(gt=0, lt=1)]
        | Annotated[tuple[int, ...], Field(min_length=1)]
        | Literal["alternate"]
        | None
    ) = None
    hidden_size: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    ffn: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _is_smaller(self) -> StudentStage:
        if self.layers is None and self.hidden_size is None and self.ffn is None:
            raise ValueError(f"stage {self.name!r}: say which layers stay, or how wide the student is")
        return self

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Keep some layers, and some of their width."""
        student = classifier.load(str(inputs[0].folder))
        if self.layers is not None:
            student = keep_layers(student, self.layers)
        if self.hidden_size is not None or self.ffn is not None:
            whole = int(student.model.config.hidden_size), layer_shapes(student.model)[0].ffn_width
            student = narrow(student, self.hidden_size or whole[0], self.ffn or whole[1])
        classifier.save(student, folder)


class DistilStage(Stage):
    """Trains the first input to answer as the others, its teachers: models, or a linear one.

    A teacher that is asked for its logits alone may be of any architecture.
    """

    takes: ClassVar[tuple[str, ...]] = ("model", "model|linear")
    input_count: ClassVar[tuple[int, int]] = (2, 17)

    kind: Literal["distil"]
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings()

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs, and how many weights there are, to what the stage takes."""
        super().check_inputs(given)
        check_teachers(self.name, self.inputs[1:], given, self.distillation)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Train the first input to answer as the others."""
        student = classifier.load(str(inputs[0].folder))
        distil(student, inputs[1:], self.distillation, self.training, context, folder, self.name)
        classifier.save(student, folder)


def check_teachers(
    name: str, teachers: Sequence[str], given: Mapping[str, str], distillation: DistillationSettings
) -> None:
    """What can be known of teachers before anything runs.

    Raises:
        ValueError: weights for another number of teachers, or a linear one where layers are compared.
    """
    weights = distillation.teacher_weights
    if weights and len(weights) != len(teachers):
        raise ValueError(f"stage {name!r} has {len(teachers)} teachers and {len(weights)} teacher_weights")
    if distillation.compares_tokens and given[teachers[0]] != "model":
        raise ValueError(
            f"stage {name!r} compares layers with its first teacher, and {teachers[0]!r} has none; name a "
            "model first"
        )


def finetune(backbone: str, settings: FinetuningSettings, context: Context, folder: Path) -> None:
    """Fine-tune a backbone on the true labels."""
    model = classifier.load(backbone, heads=context.heads, any_family=True)
    rows, validation = context.training_rows(), context.validation_rows()
    report, objective = (
        context.report("fine-tuning"),
        smoothed_labels(settings.label_smoothing, weights_of(model.heads, context.recipe.head_weights)),
    )
    work, tracking = folder / "training", context.tracking
    checkpoint.describe(model, work)
    train(model.model, objective, rows, validation, settings, work, report, tracking=tracking)
    classifier.save(model, folder)


def distil(
    student: Classifier,
    teachers: Sequence[Input],
    distillation: DistillationSettings,
    training: TrainingSettings,
    context: Context,
    folder: Path,
    title: str,
) -> None:
    """Train the student in place; every stage that recovers what it took away calls this.

    Every teacher reads the rows with its own tokenizer, the student with its own.

    Raises:
        RecipeError: a loss compares tokens, and student and teacher do not have the same ones.
        CompressionError: a teacher has other labels than the student.
    """
    lesson = lesson_of(student, teachers, distillation, training.precision, context, title)
    checkpoint.describe(student, folder / "training")
    lesson.learn(student.model, training, folder / "training", context, title)


@dataclass(frozen=True)
class Lesson:
    """What a student learns, on which rows, and how it is judged."""

    objective: Objective
    rows: Rows
    validation: Rows
    judge: Judge

    def learn(
        self, model: nn.Module, training: TrainingSettings, folder: Path, context: Context, title: str
    ) -> None:
        """Train a model on it, in place."""
        report, tracking = context.report(title), context.tracking
        train(
            model, self.objective, self.rows, self.validation, training, folder, report, self.judge, tracking
        )


def lesson_of(
    student: Classifier,
    teachers: Sequence[Input],
    distillation: DistillationSettings,
    precision: Precision,
    context: Context,
    title: str,
) -> Lesson:
    """The distillation of a student as its settings have it."""
    objective = objective_of(student, teachers, distillation, precision, context, title)
    own = read_by(student, context)
    judge = by_labels if distillation.teaches_labels else objective.judge
    return Lesson(objective, own.training_rows(distillation.unlabelled_rows), own.validation_rows(), judge)


def objective_of(
    student: Classifier,
    teachers: Sequence[Input],
    distillation: DistillationSettings,
    precision: Precision,
    context: Context,
    title: str,
) -> DistillationObjective:
    """What the student is to minimise on `context.training_rows(distillation.unlabelled_rows)`."""
    first = None
    if distillation.compares_tokens:
        first = classifier.load(str(teachers[0].folder))
        check_tokens(student, first, context, title)
        nn.Module.to(first.model, _device())
    logits = None
    if distillation.soft_weight > 0:
        report = context.report(f"{title}: teacher's logits")
        taught = [
            _answers(teacher, student, distillation, precision, context, report) for teacher in teachers
        ]
        weights = distillation.teacher_weights or (1.0,) * len(teachers)
        logits = by_heads(taught, weights, distillation.temperature, student.heads)
    head_weights = weights_of(student.heads, context.recipe.head_weights)
    compared = None if first is None else first.model
    return DistillationObjective(distillation, logits, compared, student.model, head_weights)


def _answers(
    teacher: Input,
    student: Classifier,
    distillation: DistillationSettings,
    precision: Precision,
    context: Context,
    report: Report,
) -> torch.Tensor:
    """A teacher's logits on every training row, read in its own way. Shape: (N, C)."""
    if ngram_teacher.is_in(teacher.folder):
        texts = context.training_rows(distillation.unlabelled_rows).texts
        return torch.from_numpy(ngram_teacher.load(teacher.folder).logits(texts))
    teaching = classifier.load(str(teacher.folder), any_family=True)
    if teaching.heads[0] != student.heads[0]:
        raise CompressionError(
            f"the student's labels are {', '.join(student.labels)}, those of its teacher "
            f"{', '.join(teaching.labels)}"
        )
    nn.Module.to(teaching.model, _device())
    rows = read_by(teaching, context).training_rows(distillation.unlabelled_rows)
    classes, cache = sum(len(head.labels) for head in teaching.heads), context.work / "logits"
    return teacher_logits(teaching.model, teacher.key, rows, classes, cache, precision, report)


def check_tokens(student: Classifier, teacher: Classifier, context: Context, title: str) -> None:
    """Hold student and teacher to the same tokens.

    Raises:
        RecipeError: they read a text as different ones.
    """
    ours, theirs = (read_by(model, context).training_rows() for model in (student, teacher))
    if ours.fingerprint != theirs.fingerprint:
        raise RecipeError(
            f"{title}: layers are compared token by token, and the student's tokenizer is not its teacher's; "
            "distil them before the vocabulary is pruned, or compare logits alone"
        )


def _device() -> str:
    """Where the teacher answers: beside the student, which accelerate puts there."""
    return "cuda" if torch.cuda.is_available() else "cpu"
