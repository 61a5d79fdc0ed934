"""What range an activation has: observed over real rows, then cut by one of three rules.

- min-max keeps everything that was seen.
- percentile keeps a share of the absolute values (Wu et al. 2020, Integer Quantization for Deep Learning
  Inference, section 4.2).
- entropy keeps the part whose eight-bit version loses least information about the distribution (Migacz 2017,
  8-bit Inference with TensorRT: smallest Kullback-Leibler divergence).

A BERT's largest activations belong to the position the classifier reads ([CLS]), and cutting them off costs
accuracy. So with min-max a few columns that alone stretch the range can be taken out of it; `static` carries
what then sticks out in fp32 (after Dettmers et al. 2022, LLM.int8(), whose outlier columns are found at run
time; here they are fixed by the calibration).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from compression.batches import Rows
from compression.quantization.editing import GraphEditor

Method = Literal["min-max", "percentile", "entropy"]
Floats = npt.NDArray[np.float32]

_BINS = 2048
# Levels of an absolute value in eight bits.
_LEVELS = 128
_PERCENTILE = 0.9999


@dataclass
class Observed:
    """One activation over all calibration rows. Shapes: low, high (K,); counts (2048,) of absolute values up
    to the largest; second_moments (K, K), the sum of x x^T."""

    low: Floats
    high: Floats
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    second_moments: Floats | None = None

    @property
    def largest(self) -> float:
        """The largest absolute value seen."""
        return float(max(-self.low.min(), self.high.max(), 1e-9))


@dataclass(frozen=True)
class Range:
    """What eight bits are spent on; columns named in `outliers` may stick out of it."""

    low: float
    high: float
    outliers: tuple[int, ...] = ()

    @property
    def scale(self) -> float:
        """Width of one of the 255 steps. Zero always lies within the range."""
        return float(np.float32(max(self.high, 0) - min(self.low, 0)) / np.float32(255)) or 1.0

    @property
    def zero_point(self) -> int:
        """The integer that stands for zero."""
        return int(np.clip(np.rint(-min(self.low, 0) / self.scale), 0, 255))


def observe(path: Path, rows: Rows, chosen: Sequence[int], moments: bool = False) -> dict[str, Observed]:
    """Inputs of all dense parts of a graph, by name, over the chosen rows, each alone and unpadded.

    `moments` keeps second moments as well, for rounding that compensates its errors.
    """
    editor = GraphEditor.load(path)
    names = list(dict.fromkeys(part.input for part in editor.dense_parts()))
    found: dict[str, Observed] = {}
    for name, values in _activations(editor.model, names, rows, chosen):
        _widen(found, name, values, moments)
    for name, values in _activations(editor.model, names, rows, chosen):
        seen = found[name]
        seen.counts += np.histogram(np.abs(values), bins=_BINS, range=(0, seen.largest))[0]
    return found


def ranges(
    observed: Mapping[str, Observed], method: Method = "min-max", outliers: int = 0
) -> dict[str, Range]:
    """The range of each activation; at most so many outlier columns, with min-max only."""
    if method == "min-max":
        return {name: without_outliers(seen.low, seen.high, outliers) for name, seen in observed.items()}
    cut = percentile if method == "percentile" else entropy
    limits = {name: cut(seen.counts) / _BINS * seen.largest for name, seen in observed.items()}
    return {
        name: Range(max(float(seen.low.min()), -limits[name]), min(float(seen.high.max()), limits[name]))
        for name, seen in observed.items()
    }


def without_outliers(low: Floats, high: Floats, most: int, worthwhile: float = 0.9) -> Range:
    """Take out the column that stretches the range most, again and again, while that narrows it to at most
    `worthwhile` of what it was."""
    low, high = np.minimum(low, 0).astype(np.float32), np.maximum(high, 0).astype(np.float32)
    taken: list[int] = []
    while len(taken) < most:
        column = min(
            (int(low.argmin()), int(high.argmax())), key=lambda each: _width_without(low, high, each)
        )
        if _width_without(low, high, column) > worthwhile * (high.max() - low.min()):
            break
        taken.append(column)
        low[column] = high[column] = 0
    return Range(float(low.min()), float(high.max()), tuple(sorted(taken)))


def percentile(counts: npt.NDArray[np.int64], share: float = _PERCENTILE) -> int:
    """How many bins of the histogram hold the share. Shape: (bins,)."""
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum())) + 1


def entropy(counts: npt.NDArray[np.int64], levels: int = _LEVELS) -> int:
    """How many bins to keep so that quantizing them to `levels` loses least information. Shape: (bins,)."""
    if not counts.any():
        return len(counts)
    candidates = range(levels, len(counts) + 1, levels // 16 or 1)
    return min(candidates, key=lambda kept: _divergence(counts, kept, levels))


def _divergence(counts: npt.NDArray[np.int64], kept: int, levels: int) -> float:
    """Kullback-Leibler divergence of the cut and quantized distribution from the one that was cut."""
    reference = counts[:kept].astype(np.float64)
    filled = reference > 0
    level = np.arange(kept) * levels // kept
    totals = np.bincount(level, reference, minlength=levels)
    used = np.bincount(level, filled, minlength=levels)
    quantized = np.where(filled, (totals / np.maximum(used, 1))[level], 0)
    # What lies beyond the cut is clipped to its last bin.
    reference[-1] += counts[kept:].sum()
    both = (reference > 0) & (quantized > 0)
    lost = float(reference[(reference > 0) & ~both].sum())
    p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1)
    divergence = float((p[both] * np.log(p[both] / q[both])).sum())
    return divergence + lost / float(reference.sum()) * math.log(1e9)


def _width_without(low: Floats, high: Floats, column: int) -> float:
    rest = np.delete(np.arange(len(low)), column)
    return float(high[rest].max(initial=0) - low[rest].min(initial=0))


def _widen(found: dict[str, Observed], name: str, values: Floats, moments: bool) -> None:
    low, high = values.min(0), values.max(0)
    seen = found.setdefault(name, Observed(low, high))
    seen.low, seen.high = np.minimum(seen.low, low), np.maximum(seen.high, high)
    if moments:
        product = values.T @ values
        seen.second_moments = product if seen.second_moments is None else seen.second_moments + product


def _activations(
    model: onnx.ModelProto, names: Sequence[str], rows: Rows, chosen: Sequence[int]
) -> Iterator[tuple[str, Floats]]:
    """Every named activation of every row. Shape: (T, K)."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    session = _session(watched)
    for row in chosen:
        input_ids = rows.row(row)[None, :]
        feeds = {"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)}
        for name, values in zip(names, session.run(names, feeds), strict=True):
            yield name, np.asarray(values).reshape(-1, np.asarray(values).shape[-1])


def _session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Fused operators would hide what is looked at.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
