"""Stages that make builds: exported from a model, or from another build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from compression import builds, classifier, export
from compression.builds import CandidateBuild
from compression.quantization import dynamic
from compression.stages.base import Context, Input, Stage


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


class QuantizeStage(Stage):
    """int8 weights per channel, activations quantized as they come. `reduced_range` keeps the weights to
    seven bits, which is right on CPUs without VNNI, where eight bits overflow silently."""

    takes: ClassVar[tuple[str, ...]] = ("build",)
    gives: ClassVar[str] = "build"

    kind: Literal["quantize"]
    reduced_range: bool = True
    keep_fp32: tuple[str, ...] = ()

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Write the build with int8 weights."""
        source = builds.read(inputs[0].folder)
        dynamic.quantize(
            inputs[0].folder / source.file,
            folder / "model.onnx",
            reduced_range=self.reduced_range,
            keep_fp32=self.keep_fp32,
        )
        name, needs = ("onnx-int8-reduced", ()) if self.reduced_range else ("onnx-int8", ("vnni",))
        CandidateBuild(name, "onnx", "int8", "model.onnx", needs, source.model_folder).write(folder)
