"""The stage that proves builds and publishes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from app.artifact import ModelName
from compression.parity import GateSettings
from compression.publish import publish
from compression.stages.base import Context, Input, Stage


class PublishStage(Stage):
    """One version of `model` out of the input builds, if every one of them passes the parity gate.

    The first build is the one whose quality and cost the manifest states. `judged_rows` is how many rows of
    each test part it is judged on, drawn by a fixed seed; all of them where it is not given.
    """

    takes: ClassVar[tuple[str, ...]] = ("build",)
    gives: ClassVar[str] = "version"
    input_count: ClassVar[tuple[int, int]] = (1, 16)

    kind: Literal["publish"]
    model: ModelName
    description: str = ""
    gate: GateSettings = GateSettings()
    judged_rows: int | None = Field(default=None, ge=1)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> Path:
        """Prove every input build and write the version."""
        return publish(self.model, self.description, self.gate, inputs, context, folder, self.judged_rows)
