"""Which numbers a build computes with: one object of settings, and the graph it makes of one in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from compression.batches import Rows
from compression.quantization import dynamic, embeddings, per_token, static, weight_only
from compression.quantization.calibration import Method, Observed, observe, ranges
from compression.quantization.editing import DensePart, GraphEditor
from compression.quantization.weights import Floats, QuantizedWeight, compensated, rounded
from compression.settings import Settings

# Rows a calibration runs at most: more change the ranges little.
_MOST_CALIBRATION_ROWS = 4096


class Quantization(Settings):
    """How the dense parts and the tables of a graph are quantized.

    `method`: `static` fixes the activations' scales by a calibration; `per-token` and `dynamic` compute them
    as they come, per token or per tensor (only the last makes answers depend on the batch); `weight-only` and
    `blocks` leave activations in fp32, the latter with a scale per `block` inputs of a channel.
    `reduced_range` keeps eight-bit weights to seven bits, right on CPUs without VNNI.
    `rounding`: `compensated` (GPTQ) looks at calibration rows, `nearest` does not.
    """

    method: Literal["static", "per-token", "dynamic", "weight-only", "blocks"] = "static"
    weight_bits: Literal[4, 8] = 8
    reduced_range: bool = True
    rounding: Literal["nearest", "compensated"] = "nearest"
    activations: Method = "min-max"
    outliers: int = Field(default=4, ge=0, le=64)
    block: Literal[16, 32, 64, 128] = 32
    embeddings: Literal[4, 8, 32] = 8
    keep_fp32: tuple[str, ...] = ()
    calibration_rows: int = Field(default=128, ge=1, le=_MOST_CALIBRATION_ROWS)

    @model_validator(mode="after")
    def _settings_fit_the_method(self) -> Quantization:
        if self.activations != "min-max" and self.outliers and "outliers" in self.model_fields_set:
            raise ValueError(f"outliers are kept with min-max only; activations is {self.activations!r}")
        if self.weight_bits == 4 and self.rounds_inputs:
            raise ValueError(f"method {self.method!r} computes with 8-bit weights; 4 bits need 'blocks'")
        return self

    @property
    def rounds_inputs(self) -> bool:
        """Whether activations are quantized as well as weights."""
        return self.method in ("static", "per-token", "dynamic")

    @property
    def needs_vnni(self) -> bool:
        """Whether products overflow silently on a CPU without VNNI."""
        return self.rounds_inputs and not self.reduced_range

    @property
    def label(self) -> str:
        """What a build of this kind is called: `int8` is static, others name their method."""
        width = "" if self.method in ("weight-only", "blocks") or not self.reduced_range else "-reduced"
        method = "" if self.method == "static" else f"-{self.method}"
        return f"int{self.weight_bits}{method}{width}"

    @property
    def looks_at_data(self) -> bool:
        """Whether a calibration is needed."""
        return self.method == "static" or self.rounding == "compensated"


def quantize(settings: Quantization, source: Path, target: Path, rows: Rows, chosen: Sequence[int]) -> None:
    """Write the quantized version of a graph in fp32; the chosen rows are those of the calibration.

    Raises:
        RecipeError: an entry of `keep_fp32` that no part's name contains.
    """
    apply(settings, source, observed_by(settings, source, rows, chosen)).save(target)


def observed_by(
    settings: Quantization, source: Path, rows: Rows, chosen: Sequence[int]
) -> dict[str, Observed]:
    """What a calibration on the chosen rows sees; nothing where the settings need nothing."""
    if not settings.looks_at_data:
        return {}
    return observe(source, rows, chosen, moments=settings.rounding == "compensated")


def apply(settings: Quantization, source: Path, observed: dict[str, Observed]) -> GraphEditor:
    """The quantized version of a graph in fp32, made with what `observed_by` saw.

    Raises:
        RecipeError: an entry of `keep_fp32` that no part's name contains.
    """
    editor = GraphEditor.load(source)
    kept = editor.matching(settings.keep_fp32)
    rounding = partial(_rounding, settings, observed)
    if settings.method == "static":
        outliers = settings.outliers if settings.activations == "min-max" else 0
        static.quantize(editor, ranges(observed, settings.activations, outliers), rounding, kept)
    elif settings.method == "per-token":
        per_token.quantize(editor, rounding, kept)
    elif settings.method == "weight-only":
        weight_only.store(editor, rounding, kept)
    elif settings.method == "blocks":
        weight_only.in_blocks(editor, settings.weight_bits, settings.block, kept)
    else:
        editor = dynamic.quantize(editor, reduced_range=settings.reduced_range, kept=kept)
    if settings.embeddings != 32:
        embeddings.quantize(editor, settings.embeddings, kept)
    return editor


def _rounding(
    settings: Quantization, observed: dict[str, Observed], part: DensePart, weight: Floats
) -> QuantizedWeight:
    bits = 7 if settings.weight_bits == 8 and settings.reduced_range else settings.weight_bits
    if settings.rounding == "nearest":
        return rounded(weight, bits)
    moments = observed[part.input].second_moments
    return compensated(weight, bits, np.zeros((len(weight),) * 2, np.float32) if moments is None else moments)
