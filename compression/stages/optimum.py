"""The stage that leaves export and quantization to Hugging Face Optimum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from compression import optimum_process
from compression.builds import CandidateBuild
from compression.optimum_process import OptimumSettings
from compression.stages.base import Context, Input, Stage


class OptimumStage(Stage):
    """A build as Optimum makes it: its own export, then ORTOptimizer, then ORTQuantizer (dynamic int8).

    `optimization` is Optimum's level, `quantization` its preset for a CPU, or `none` for a build in fp32.
    `reduced_range` takes seven bits for weights, right on every CPU; without it the preset of AVX-512 needs
    VNNI, as `avx512_vnni` does in any case. `python` is the interpreter of an environment that has Optimum
    (unset: this one).
    """

    gives: ClassVar[str] = "build"

    kind: Literal["optimum"]
    optimization: Literal["O1", "O2", "O3"] = "O2"
    quantization: Literal["none", "avx2", "avx512", "avx512_vnni"] = "avx512"
    reduced_range: bool = True
    per_channel: bool = True
    opset: int = Field(default=17, ge=17, le=20)
    python: str | None = None

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Have Optimum make the build."""
        quantized = self.quantization != "none"
        settings = OptimumSettings(
            optimization=self.optimization,
            quantization=None if self.quantization == "none" else self.quantization,
            reduced_range=self.reduced_range,
            per_channel=self.per_channel,
            opset=self.opset,
        )
        optimum_process.run(inputs[0].folder, folder / "model.onnx", settings, self.python)
        precision: Literal["int8", "fp32"] = "int8" if quantized else "fp32"
        # Unsigned weights, as the preset of AVX2 has them, do not saturate.
        eight_bits = self.quantization == "avx512" and not self.reduced_range
        needs = ("vnni",) if eight_bits or self.quantization == "avx512_vnni" else ()
        name = f"optimum-{precision}"
        CandidateBuild(name, "onnx", precision, "model.onnx", needs, inputs[0].folder).write(folder)
