"""Stages of MobileBERT's way: the student, and what it is taught before the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from compression import bottleneck, classifier
from compression.distillation.mobilebert import ProgressiveTransfer, TransferWeights
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.stages.training import check_tokens
from compression.training import TrainingSettings, train


class BottleneckStage(Stage):
    """A student as deep as its teacher, with narrow blocks between states as wide as the teacher's.

    `width` is that of the blocks and of the word vectors: so many (a multiple of the heads), or a share of
    the teacher's. Each block has `feed_forward_parts`, one behind the other.
    """

    kind: Literal["bottleneck"]
    width: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 0.25
    feed_forward_parts: int = Field(default=4, ge=1)

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Make the student; embeddings and classifier start from the teacher's."""
        torch.manual_seed(0)
        teacher = classifier.load(str(inputs[0].folder))
        classifier.save(bottleneck.student_of(teacher, self.width, self.feed_forward_parts), folder)


class TransferStage(Stage):
    """Teaches the first input the feature maps and the attention of the second, one layer after the other.

    The classifier learns nothing here: a `distil` stage follows. `unlabelled_rows` texts without labels are
    added to the training rows (0: none, -1: all there are).
    """

    takes: ClassVar[tuple[str, ...]] = ("model", "model")
    input_count: ClassVar[tuple[int, int]] = (2, 2)

    kind: Literal["transfer"]
    weights: TransferWeights = TransferWeights()
    unlabelled_rows: int = Field(default=0, ge=-1)
    training: TrainingSettings = TrainingSettings(epochs=2)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Teach layer by layer."""
        student, teacher = (classifier.load(str(source.folder)) for source in inputs)
        check_tokens(student, teacher, context, self.name)
        nn.Module.to(teacher.model, "cuda" if torch.cuda.is_available() else "cpu")
        own = read_by(student, context)
        rows, validation = own.training_rows(self.unlabelled_rows), own.validation_rows()
        seen = round(len(rows) * self.training.epochs)
        objective = ProgressiveTransfer(self.weights, student.model, teacher.model, seen)
        report = context.report(self.name)
        with objective.attached():
            train(
                student.model,
                objective,
                rows,
                validation,
                self.training,
                folder / "training",
                report,
                objective.judge,
                context.tracking,
            )
        classifier.save(student, folder)
