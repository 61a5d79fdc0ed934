"""Mixed precision by measurement: which parts change the answers when they are quantized, and which stay.

The scan quantizes one part at a time and compares logits with those in fp32. The choice starts from
everything quantized and keeps, one after the other, the part whose error is largest for the bytes it takes
in fp32, until few enough labels change.

Source: Wu et al. 2020, Integer Quantization for Deep Learning Inference, section 5 (sensitivity analysis and
partial quantization).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from app.engines import load_engine
from app.hardware import usable_cores
from compression import parity
from compression.batches import Rows
from compression.evaluation import Logits, flip_rate
from compression.quantization.calibration import Observed
from compression.quantization.editing import GraphEditor
from compression.quantization.scheme import Quantization, apply
from compression.settings import Settings
from compression.training import Report, silent

# Bytes of a weight in fp32 beyond those of its integers.
_EXTRA_BYTES = 3


class MixedPrecision(Settings):
    """Keep parts in fp32 until at most `max_label_flip_rate` of `rows` texts change their label, or
    `most_parts` are kept."""

    max_label_flip_rate: float = Field(default=0.005, ge=0, le=1)
    rows: int = Field(default=300, ge=1)
    most_parts: int = Field(default=6, ge=1)


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one part alone does. `bytes_kept` is what keeping it in fp32 adds to the graph."""

    part: str
    logit_error: float
    flip_rate: float
    bytes_kept: int

    @property
    def error_per_byte(self) -> float:
        """Squared error that a kept byte saves: errors of independent parts add up squared."""
        return self.logit_error**2 / self.bytes_kept


@dataclass(frozen=True)
class Step:
    """The whole graph quantized but for the parts kept so far."""

    kept: tuple[str, ...]
    logit_error: float
    flip_rate: float


@dataclass(frozen=True)
class MixedChoice:
    """What the scan found, the most sensitive part first, and the steps that led to the choice."""

    ranking: tuple[Sensitivity, ...]
    steps: tuple[Step, ...]

    @property
    def kept(self) -> tuple[str, ...]:
        """The parts that stay in fp32."""
        return self.steps[-1].kept


def measure(
    mixed: MixedPrecision,
    settings: Quantization,
    source: Path,
    observed: Mapping[str, Observed],
    rows: Rows,
    classes: int,
    report: Report = silent,
) -> MixedChoice:
    """Scan every part of a graph in fp32 and choose which of them are not quantized.

    The first so many `classes` are those whose label may change: the first head's.
    """
    chosen = rows.take(mixed.rows)
    ranking = scan(settings, source, observed, rows, chosen, classes, report)
    steps = choose(mixed, settings, source, observed, rows, chosen, classes, ranking)
    return MixedChoice(tuple(ranking), tuple(steps))


def scan(
    settings: Quantization,
    source: Path,
    observed: Mapping[str, Observed],
    rows: Rows,
    chosen: Sequence[int],
    classes: int,
    report: Report = silent,
) -> list[Sensitivity]:
    """Every part quantized alone, the most sensitive for its bytes first; parts kept anyway are left out."""
    sizes = part_sizes(GraphEditor.load(source))
    open_parts = [part for part in sizes if not any(entry in part for entry in settings.keep_fp32)]
    exact = _logits(None, source, observed, rows, chosen)
    found = []
    for number, part in enumerate(open_parts, start=1):
        others = tuple(name for name in sizes if name != part)
        logits = _logits(settings.model_copy(update={"keep_fp32": others}), source, observed, rows, chosen)
        found.append(
            Sensitivity(
                part, _error(logits, exact), _flips(logits, exact, classes), sizes[part] * _EXTRA_BYTES
            )
        )
        report(number, len(open_parts), part)
    return sorted(found, key=lambda each: -each.error_per_byte)


def choose(
    mixed: MixedPrecision,
    settings: Quantization,
    source: Path,
    observed: Mapping[str, Observed],
    rows: Rows,
    chosen: Sequence[int],
    classes: int,
    ranking: Sequence[Sensitivity],
) -> list[Step]:
    """Steps from everything quantized to the parts kept in the end; the last step is the choice."""
    exact = _logits(None, source, observed, rows, chosen)
    steps: list[Step] = []
    for count in range(mixed.most_parts + 1):
        kept = (*settings.keep_fp32, *(each.part for each in ranking[:count]))
        logits = _logits(settings.model_copy(update={"keep_fp32": kept}), source, observed, rows, chosen)
        steps.append(Step(kept, _error(logits, exact), _flips(logits, exact, classes)))
        if steps[-1].flip_rate <= mixed.max_label_flip_rate or count >= len(ranking):
            break
    # More parts may change more labels by chance: the step with fewest is taken.
    best = min(range(len(steps)), key=lambda index: (steps[index].flip_rate, index))
    return steps[: best + 1]


def part_sizes(editor: GraphEditor) -> dict[str, int]:
    """Weights of every part that can be kept, by its name."""
    dense = {part.name: int(editor.weight(part.weight).size) for part in editor.dense_parts()}
    tables = {
        str(node.input[0]).removesuffix(".weight"): int(editor.weight(node.input[0]).size)
        for node in editor.lookups()
    }
    return dense | tables


def _logits(
    settings: Quantization | None,
    source: Path,
    observed: Mapping[str, Observed],
    rows: Rows,
    chosen: Sequence[int],
) -> Logits:
    if settings is None:
        return parity.one_by_one(load_engine("onnx", source, usable_cores()), rows, chosen)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "quantized.onnx"
        apply(settings, source, dict(observed)).save(path)
        return parity.one_by_one(load_engine("onnx", path, usable_cores()), rows, chosen)


def _flips(logits: Logits, exact: Logits, classes: int) -> float:
    return flip_rate(logits[:, :classes], exact[:, :classes])


def _error(logits: Logits, exact: Logits) -> float:
    return float(np.sqrt(np.square(logits - exact).mean()))
