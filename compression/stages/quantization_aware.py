"""The stage that teaches a model to bear the rounding of its build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from compression import classifier
from compression.distillation.objective import DistillationSettings
from compression.evaluation import batches
from compression.quantization.aware import fake_quantized
from compression.quantization.scheme import Quantization
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.stages.training import check_teachers, distil
from compression.training import TrainingSettings


class QuantizationAwareStage(Stage):
    """Distils the first input again while it computes with the numbers of `quantization`, which should be
    those of the stage that quantizes its graph afterwards. The other inputs are its teachers."""

    takes: ClassVar[tuple[str, ...]] = ("model", "model|linear")
    input_count: ClassVar[tuple[int, int]] = (2, 17)

    kind: Literal["quantization-aware"]
    quantization: Quantization = Quantization()
    calibration_rows: int = Field(default=64, ge=1)
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings(epochs=1, learning_rate=2e-5)

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs, and how many weights there are, to what the stage takes."""
        super().check_inputs(given)
        check_teachers(self.name, self.inputs[1:], given, self.distillation)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Train under fake quantization; what is saved is the plain model."""
        student = classifier.load(str(inputs[0].folder))
        rows = read_by(student, context).training_rows()
        # One row at a time: padding must not be part of a range.
        sample = batches(rows, rows.take(self.calibration_rows), tokens=1)
        with fake_quantized(student.model, self.quantization, sample):
            distil(student, inputs[1:], self.distillation, self.training, context, folder, self.name)
        classifier.save(student, folder)
