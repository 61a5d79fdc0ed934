"""Stages that make builds: exported from a model, or from another build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from compression import builds, classifier, export, graph
from compression.architecture import head_size, layer_shapes
from compression.builds import CandidateBuild
from compression.quantization import dynamic
from compression.stages.base import Context, Input, Stage


class ExportStage(Stage):
    """A build in fp32: an ONNX graph with its transformer parts fused, or TorchScript."""

    gives: ClassVar[str] = "build"

    kind: Literal["export"]
    format: Literal["onnx", "torchscript"] = "onnx"
    opset: int = Field(default=17, ge=14, le=20)

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Write the model as a build in fp32."""
        source = inputs[0].folder
        model = classifier.load(str(source)).model
        if self.format == "torchscript":
            file = "model.torchscript.pt"
            export.to_torchscript(model, folder / file)
            CandidateBuild("torchscript-fp32", "torchscript", "fp32", file, (), source).write(folder)
            return
        export.to_onnx(model, folder / "unfused.onnx", self.opset)
        unfused, fused = folder / "unfused.onnx", folder / "model.onnx"
        graph.fuse(unfused, fused, layer_shapes(model), model.config.hidden_size, head_size(model))
        unfused.unlink()
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
