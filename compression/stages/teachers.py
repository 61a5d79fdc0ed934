"""Stages that make a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from compression.distillation import ngram_teacher
from compression.evaluation import accuracy
from compression.stages.base import Context, Input, Stage


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
