"""The stage that brings in a model that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.errors import CompressionError
from compression import classifier
from compression.identity import identity
from compression.stages.base import Context, Input, Stage


class GivenStage(Stage):
    """A classifier from elsewhere: a student of one's own design, a teacher, or what an earlier run left.

    `model` is its folder or hub id; its labels must be those of the input, its teacher. A folder is
    identified by what is in it, so that a changed one runs what follows again. One that is to teach by its
    logits alone may be of any architecture.
    """

    takes: ClassVar[tuple[str, ...]] = ("model",)

    kind: Literal["given"]
    model: str = Field(min_length=1)

    def described(self) -> dict[str, Any]:
        """The model's identity beside its name."""
        return {**super().described(), "identity": identity(self.model)}

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Copy the model, once it is known to answer what the teacher answers."""
        given = classifier.load(self.model, any_family=True)
        teacher = classifier.load(str(inputs[0].folder))
        if given.heads[0] != teacher.heads[0]:
            raise CompressionError(
                f"stage {self.name!r}: the labels of {self.model} are {', '.join(given.labels)}, those of "
                f"its teacher {', '.join(teacher.labels)}; name a classifier of the same labels"
            )
        classifier.save(given, folder)
