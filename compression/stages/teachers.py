"""Stages that make a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from compression import classifier, pretraining
from compression.batches import Rows
from compression.distillation import ngram_teacher
from compression.evaluation import accuracy
from compression.pretraining import MaskedLanguageObjective, Masking
from compression.stages.base import Context, Input, Stage
from compression.stages.training import finetune
from compression.teacher import FinetuningSettings
from compression.training import TrainingSettings, train


class PretrainStage(Stage):
    """Masked-language modelling of a backbone on the training and unlabelled texts, whole, in pieces.

    Its result is a backbone again, to be fine-tuned. What is kept is the smallest loss on the validation
    texts.
    """

    takes: ClassVar[tuple[str, ...]] = ("backbone",)
    gives: ClassVar[str] = "backbone"

    kind: Literal["pretrain"]
    masked_share: float = Field(default=0.15, gt=0, lt=1)
    unlabelled_rows: int = Field(default=-1, ge=-1)
    training: TrainingSettings = TrainingSettings(epochs=1, learning_rate=1e-4)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Train the language model and keep its encoder."""
        source = str(inputs[0].folder)
        tokenizer = classifier.load_tokenizer(source)
        objective = MaskedLanguageObjective(Masking.by(tokenizer, self.masked_share))
        torch.manual_seed(self.training.seed)  # a head the backbone does not have begins at random
        model = pretraining.load(source)
        rows = _in_pieces(context.training_rows(self.unlabelled_rows))
        validation, report = _in_pieces(context.validation_rows()), context.report(self.name)
        work, judge = folder / "training", objective.judge
        train(
            model, objective, rows, validation, self.training, work, report, judge, tracking=context.tracking
        )
        pretraining.save_backbone(model, source, tokenizer, folder)


class FinetuneStage(Stage):
    """A classifier out of a backbone, from the true labels of the data; or a classifier taught further.

    A classifier of the data's labels keeps its classification layer. Any architecture is trained that
    transformers has a sequence classifier for; one that cannot be compressed can teach by its logits.
    """

    takes: ClassVar[tuple[str, ...]] = ("backbone|model",)
    trains_any_family: ClassVar[bool] = True

    kind: Literal["finetune"]
    training: FinetuningSettings = FinetuningSettings()

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Fine-tune it."""
        finetune(str(inputs[0].folder), self.training, context, folder)


class LinearTeacherStage(Stage):
    """A linear model on hashed uni-, bi- and trigrams as one of several teachers; two classes only.

    `parts` is how many models it consists of: a training text is answered by the one that never saw it.
    """

    gives: ClassVar[str] = "linear"
    input_count: ClassVar[tuple[int, int]] = (0, 0)

    kind: Literal["linear-teacher"]
    inputs: tuple[str, ...] = ()
    parts: int = Field(default=5, ge=2, le=20)

    def run(self, _: Sequence[Input], context: Context, folder: Path) -> None:
        """Fit it on the training texts of every data set."""
        rows = context.training_rows()
        report = context.report(self.name)
        teacher = ngram_teacher.fit(rows.texts, rows.labels.tolist(), self.parts, report=report)
        validation = context.validation_rows()
        right = accuracy(teacher.logits(validation.texts), np.asarray(validation.labels))
        report(self.parts, self.parts, f"{right:.4f} of the validation texts right")
        teacher.save(folder)


def _in_pieces(rows: Rows) -> Rows:
    return Rows(*(pretraining.pieces(corpus) for corpus in rows.corpora))
