"""Stages that make builds: exported from a model, or from another build."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from compression import builds, classifier, export, openvino_ir
from compression.builds import CandidateBuild
from compression.quantization.scheme import Quantization, quantize
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by


class ExportStage(Stage):
    """A build in fp32: an ONNX graph of what the answer needs, or TorchScript."""

    gives: ClassVar[str] = "build"

    kind: Literal["export"]
    format: Literal["onnx", "torchscript"] = "onnx"
    opset: int = Field(default=17, ge=17, le=20)

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Write the model as a build in fp32."""
        source = inputs[0].folder
        model = classifier.load(str(source)).model
        if self.format == "torchscript":
            file = "model.torchscript.pt"
            export.to_torchscript(model, folder / file)
            CandidateBuild("torchscript-fp32", "torchscript", "fp32", file, (), source).write(folder)
            return
        export.to_onnx(model, folder / "model.onnx", self.opset)
        CandidateBuild("onnx-fp32", "onnx", "fp32", "model.onnx", (), source).write(folder)


class QuantizeStage(Stage, Quantization):
    """A build in fewer bits: see `quantization.scheme.Quantization` for what can be chosen."""

    takes: ClassVar[tuple[str, ...]] = ("build",)
    gives: ClassVar[str] = "build"

    kind: Literal["quantize"]

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Write the quantized build; what has to be calibrated is, on training rows."""
        source = builds.read(inputs[0].folder)
        rows = read_by(classifier.load(str(source.model_folder)), context).training_rows()
        chosen = rows.take(self.calibration_rows)
        quantize(self, inputs[0].folder / source.file, folder / "model.onnx", rows, chosen)
        needs = ("vnni",) if self.needs_vnni else ()
        CandidateBuild(f"onnx-{self.label}", "onnx", "int8", "model.onnx", needs, source.model_folder).write(
            folder
        )


class OpenVinoStage(Stage):
    """The same graph for OpenVINO, on the same file: it reads the standard operators ONNX Runtime reads.

    `precision`: what its floats are computed in; `int8` leaves that to the CPU and keeps the integers of the
    input. `bf16` runs on CPUs that have it. `form` `ir` writes OpenVINO's own format instead, which opens
    faster and needs a file of its own.
    """

    takes: ClassVar[tuple[str, ...]] = ("build",)
    gives: ClassVar[str] = "build"

    kind: Literal["openvino"]
    precision: Literal["fp32", "bf16", "int8"] = "int8"
    form: Literal["onnx", "ir"] = "onnx"

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Copy the graph, or convert it."""
        source = builds.read(inputs[0].folder)
        path = inputs[0].folder / source.file
        openvino_ir.check_readable(path)
        if self.form == "ir":
            written = openvino_ir.convert(path, folder)
        else:
            shutil.copyfile(path, folder / source.file)
            written = [folder / source.file]
        needs = (*source.needs, *(("bf16",) if self.precision == "bf16" else ()))
        file, *companions = (each.name for each in written)
        CandidateBuild(
            f"openvino-{self.precision}",
            "openvino",
            self.precision,
            file,
            needs,
            source.model_folder,
            tuple(companions),
        ).write(folder)
