"""What a run leaves for its report: which stages there were, from what, and where their results are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from app.errors import CompressionError

RECORD_FILE = "run.json"
# Characters of a text that a record keeps, and a report shows unless told to show less.
LONGEST_TEXT = 240


@dataclass(frozen=True)
class StageRecord:
    """One stage as it was carried out; `folder` is relative to the run's."""

    name: str
    kind: str
    gives: str
    inputs: tuple[str, ...]
    folder: str
    seconds: float | None = None


@dataclass(frozen=True)
class Disagreement:
    """A validation text to which a build gives another label than the teacher."""

    row: int
    text: str
    label: str
    teacher: str
    teacher_score: float
    ours: str
    score: float


@dataclass(frozen=True)
class StageFigures:
    """What was measured of a stage's result on the same rows and in the same minutes as all others.

    Units: bytes of the weights or of the build; ms of one text of `tokens` tokens, median.
    """

    accuracy: float
    interval_95: tuple[float, float]
    flip_rate: float
    size_bytes: int
    latency_ms: float
    disagreements: tuple[Disagreement, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A run: its stages in order, and for those that were measured their figures by stage name."""

    recipe: str
    data: str
    reference: str
    stages: tuple[StageRecord, ...]
    versions: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    figures: Mapping[str, StageFigures] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def with_stage(self, stage: StageRecord) -> RunRecord:
        """The same run with one stage more."""
        return replace(self, stages=(*self.stages, stage))

    def write(self, work: Path) -> None:
        """Leave it in the run's folder, in one piece; figures of the same stages are kept."""
        told = self if self.figures else _with_earlier_figures(self, work)
        partial = work / f"{RECORD_FILE}.partial"
        partial.write_text(json.dumps(asdict(told), indent=2, ensure_ascii=False), encoding="utf-8")
        partial.replace(work / RECORD_FILE)


def read(work: Path) -> RunRecord:
    """The record of the last run in this folder.

    Raises:
        CompressionError: there is none, or it cannot be read.
    """
    path = work / RECORD_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return RunRecord(
            recipe=found["recipe"],
            data=found["data"],
            reference=found["reference"],
            stages=tuple(
                StageRecord(**stage | {"inputs": tuple(stage["inputs"])}) for stage in found["stages"]
            ),
            versions=tuple(found["versions"]),
            refused=tuple(found["refused"]),
            figures={name: _figures(each) for name, each in found["figures"].items()},
            measured=found["measured"],
        )
    except OSError as error:
        raise CompressionError(f"{work} holds no {RECORD_FILE}; give the --work folder of a run") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CompressionError(f"{path} is not the record of a run: {error!r}"[:300]) from error


def _with_earlier_figures(told: RunRecord, work: Path) -> RunRecord:
    try:
        before = read(work)
    except CompressionError:
        return told
    if before.stages != told.stages:
        return told
    return replace(told, figures=before.figures, measured=before.measured)


def _figures(found: dict[str, Any]) -> StageFigures:
    low, high = found.pop("interval_95")
    disagreements = tuple(Disagreement(**each) for each in found.pop("disagreements"))
    return StageFigures(**found, interval_95=(low, high), disagreements=disagreements)
