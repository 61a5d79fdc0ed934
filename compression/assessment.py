"""Everything that is said of one model's answers on labelled rows, beside its teacher's on the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.calibration import Bin, expected_calibration_error, reliability
from compression.data import MAIN_HEAD
from compression.discrimination import confusion, f1, f1_by_class, mean_auc
from compression.evaluation import Logits, accuracy, accuracy_interval, flip_rate
from compression.resampling import McNemar, bootstrap_interval, mcnemar

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval by the bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SliceScore:
    """Accuracy on one kind of rows, with Wilson's 95 % interval, and the teacher's on the same ones."""

    name: str
    n: int
    accuracy: float
    interval_95: tuple[float, float]
    teacher_accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error as the logits are, and after the temperature; the bins are those after."""

    temperature: float
    error_before: float
    error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Agreement:
    """Beside the teacher on the same rows: accuracy over its accuracy, the difference of the two with an
    interval over rows drawn for both alike, and labels that are not the teacher's."""

    teacher_accuracy: float
    retention: float
    difference: Figure
    label_flip_rate: Figure
    mcnemar: McNemar


@dataclass(frozen=True)
class Assessment:
    """Figures of one head of a model on one data set; `confusion` has true labels down, predicted across."""

    name: str
    dataset: str
    n: int
    labels: tuple[str, ...]
    accuracy: Figure
    f1: Figure
    f1_by_class: tuple[float, ...]
    auc: Figure
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration
    slices: tuple[SliceScore, ...]
    agreement: Agreement | None
    head: str = MAIN_HEAD

    def write(self, path: Path) -> None:
        """Leave it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")


def assess(
    name: str,
    dataset: str,
    logits: Logits,
    labels: Labels,
    label_names: tuple[str, ...],
    temperature: float = 1.0,
    teacher: Logits | None = None,
    slices: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    resamples: int = 1000,
    head: str = MAIN_HEAD,
) -> Assessment:
    """Judge answers. Shapes: logits and teacher (N, C), labels (N,), every slice (N,)."""
    predicted, classes = logits.argmax(-1), logits.shape[1]
    given, right = _softmax(logits.astype(np.float64)), predicted == labels
    matrix = confusion(labels, predicted, classes)
    taught_right = None if teacher is None else teacher.argmax(-1) == labels

    def figure(value: float, statistic: Any) -> Figure:
        return Figure(value, *bootstrap_interval(statistic, len(labels), resamples))

    return Assessment(
        name=name,
        dataset=dataset,
        n=len(labels),
        labels=label_names,
        accuracy=figure(accuracy(logits, labels), lambda rows: right[rows].mean()),
        f1=figure(f1(labels, predicted, classes), lambda rows: f1(labels[rows], predicted[rows], classes)),
        f1_by_class=tuple(f1_by_class(matrix).tolist()),
        auc=figure(mean_auc(labels, given), lambda rows: mean_auc(labels[rows], given[rows])),
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
        calibration=_calibration(logits, labels, temperature),
        slices=tuple(_slice(each, rows, right, taught_right) for each, rows in (slices or {}).items()),
        agreement=None if teacher is None else _agreement(logits, teacher, labels, resamples),
        head=head,
    )


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """In double precision: sure answers must not become equals, which an order is asked of."""
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(-1, keepdims=True))


def _calibration(logits: Logits, labels: Labels, temperature: float) -> Calibration:
    bins = reliability(logits / np.float32(temperature), labels)
    before = expected_calibration_error(reliability(logits, labels))
    return Calibration(temperature, before, expected_calibration_error(bins), bins)


def _slice(
    name: str,
    rows: npt.NDArray[np.bool_],
    right: npt.NDArray[np.bool_],
    taught_right: npt.NDArray[np.bool_] | None,
) -> SliceScore:
    share = float(right[rows].mean())
    taught = None if taught_right is None else float(taught_right[rows].mean())
    n = int(rows.sum())
    return SliceScore(name, n, share, accuracy_interval(share, n), taught)


def _agreement(logits: Logits, teacher: Logits, labels: Labels, resamples: int) -> Agreement:
    ours, theirs = logits.argmax(-1) == labels, teacher.argmax(-1) == labels
    differs = logits.argmax(-1) != teacher.argmax(-1)
    gained = ours.astype(np.int64) - theirs

    def figure(value: float, of_row: npt.NDArray[Any]) -> Figure:
        interval = bootstrap_interval(lambda rows: float(of_row[rows].mean()), len(labels), resamples)
        return Figure(value, *interval)

    taught = float(theirs.mean())
    return Agreement(
        teacher_accuracy=taught,
        retention=float(ours.mean()) / taught if taught else float("nan"),
        difference=figure(float(gained.mean()), gained),
        label_flip_rate=figure(flip_rate(logits, teacher), differs),
        mcnemar=mcnemar(ours, theirs),
    )
