"""Stages that make builds: exported from a model, or from another build."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from app.errors import DataError, RecipeError
from compression import builds, classifier, export, openvino_ir
from compression.builds import CandidateBuild
from compression.quantization import half, sensitivity
from compression.quantization.scheme import Quantization, apply, observed_by
from compression.quantization.sensitivity import MixedPrecision
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by

# What the scan found and which parts stay, kept beside the build.
SENSITIVITY_FILE = "sensitivity.json"


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
    """A build in fewer bits: see `quantization.scheme.Quantization` for what can be chosen.

    With `mixed_precision` every part is quantized alone first, on validation rows, and the most sensitive
    ones stay in fp32; the stage's folder has a sensitivity.json that states what was measured and kept.
    """

    takes: ClassVar[tuple[str, ...]] = ("build",)
    gives: ClassVar[str] = "build"

    kind: Literal["quantize"]
    mixed_precision: MixedPrecision | None = None

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Write the quantized build; what has to be calibrated is, on training rows."""
        if not context.datasets and (self.looks_at_data or self.mixed_precision is not None):
            raise DataError(f"stage {self.name!r} calibrates on texts, and there are no data")
        source = builds.read(inputs[0].folder)
        model = classifier.load(str(source.model_folder))
        own = read_by(model, context)
        path, observed = inputs[0].folder / source.file, {}
        if self.looks_at_data:
            rows = own.training_rows()
            observed = observed_by(self, path, rows, rows.take(self.calibration_rows))
        chosen: Quantization = self
        if self.mixed_precision is not None:
            found = sensitivity.measure(
                self.mixed_precision,
                self,
                path,
                observed,
                own.validation_rows(),
                len(model.labels),
                context.report(f"{self.name}: sensitivity"),
            )
            (folder / SENSITIVITY_FILE).write_text(json.dumps(asdict(found), indent=2), encoding="utf-8")
            chosen = self.model_copy(update={"keep_fp32": found.kept})
        apply(chosen, path, observed).save(folder / "model.onnx")
        needs = ("vnni",) if self.needs_vnni else ()
        mixed = "" if chosen.keep_fp32 == self.keep_fp32 else "-mixed"
        name = f"onnx-{self.label}{mixed}"
        CandidateBuild(name, "onnx", "int8", "model.onnx", needs, source.model_folder).write(folder)


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


class CudaStage(Stage):
    """The same graph in fp16, for an NVIDIA GPU through ONNX Runtime (extra `cuda` of the service).

    Its input is a build in fp32. On a machine without CUDA its answers are proven by emulation on the CPU.
    """

    takes: ClassVar[tuple[str, ...]] = ("build",)
    gives: ClassVar[str] = "build"

    kind: Literal["cuda"]

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Convert the graph."""
        source = builds.read(inputs[0].folder)
        if (source.engine, source.precision) != ("onnx", "fp32"):
            raise RecipeError(
                f"stage {self.name!r} takes an ONNX build in fp32, and {source.name} is {source.engine} in "
                f"{source.precision}; give it the stage of kind 'export'"
            )
        half.convert(inputs[0].folder / source.file, folder / "model.onnx")
        CandidateBuild("cuda-fp16", "onnx", "fp16", "model.onnx", ("cuda",), source.model_folder).write(
            folder
        )
