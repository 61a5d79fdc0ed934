"""What the builds of a version answer on labelled texts, as its manifest states it.

The first build, the one that is served where nothing speaks against it, is judged on every row that was
asked for; each further one on a sample of them, with the teacher's answers on that sample beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.artifact import Head, Quality
from app.engines import Engine
from compression import classifier, parity
from compression.assessment import Assessment, assess
from compression.batches import Rows
from compression.candidates import Candidate
from compression.distillation.teacher_logits import teacher_logits
from compression.evaluation import Logits, accuracy, accuracy_interval, flip_rate
from compression.heads import slices
from compression.slices import all_slices
from compression.stages.base import Context, Corpora
from compression.training import Report

# Rows of each data set that a build after the first is judged on: an interval of about two points.
FURTHER_ROWS = 2000
_CHUNK_ROWS = 256


@dataclass(frozen=True)
class Asked:
    """A version's heads and builds, for each whether its answers depend on the batch, and its temperature."""

    heads: tuple[Head, ...]
    builds: tuple[tuple[Candidate, bool], ...]
    temperature: float


@dataclass(frozen=True)
class _Part:
    """Judged rows of one data set, how the teacher answered them, and the further columns' values."""

    name: str
    split: str
    rows: Rows
    teacher_heads: tuple[Head, ...]
    expected: Logits
    columns: dict[str, list[str]]


def judge(
    asked: Asked, own: Context, taught: Context, folder: Path, judged_rows: int | None
) -> tuple[Quality, ...]:
    """Judge every head of every build on each test part, or on validation where there is none.

    `own` and `taught` are the same texts as the builds and as the teacher read them. What more there is to
    say of the first head is left in `folder`: `assessment-DATA.json` of the first build,
    `build-NAME-DATA.json` of each further one.
    """
    found: list[Quality] = []
    for ours, theirs in zip(own.all_corpora, taught.all_corpora, strict=True):
        part = _part(ours, theirs, taught, judged_rows)
        for number, (candidate, invariant) in enumerate(asked.builds):
            chosen = part.rows.take(FURTHER_ROWS) if number else range(len(part.rows))
            report = taught.report(f"{candidate.build.name} on {part.name} {part.split}")
            logits = _answers(candidate.engine, part.rows, chosen, invariant, report)
            name = f"build-{candidate.build.name}" if number else "assessment"
            file = folder / f"{name}-{part.name}.json"
            found += _of_build(asked, candidate.build.name, part, chosen, logits, file)
    return tuple(found)


def _part(ours: Corpora, theirs: Corpora, context: Context, judged_rows: int | None) -> _Part:
    split = "validation" if ours.test is None else "test"
    corpora = ours.test or ours.validation, theirs.test or theirs.validation
    rows, teacher_rows = (Rows(each.sample(judged_rows) if judged_rows else each) for each in corpora)
    teacher = classifier.load(str(context.teacher.folder))
    report = context.report(f"teacher's logits on {ours.name} {split}")
    classes, cache = sum(len(head.labels) for head in teacher.heads), context.work / "logits"
    expected = teacher_logits(
        teacher.model, context.teacher.key, teacher_rows, classes, cache, report=report
    ).numpy()
    return _Part(ours.name, split, rows, teacher.heads, expected, columns_of(rows, context.heads))


def columns_of(rows: Rows, heads: Sequence[Head]) -> dict[str, list[str]]:
    """What kinds of texts there are by further columns: those that were asked for, and further heads' labels.

    A row without a value has an empty one.
    """
    return rows.columns | {
        head.name: ["" if label < 0 else head.labels[label] for label in rows.labels_of(number)]
        for number, head in enumerate(heads)
        if number
    }


def _of_build(
    asked: Asked, build: str, part: _Part, chosen: Sequence[int], logits: Logits, file: Path
) -> list[Quality]:
    """Figures of every head that the rows have labels for. Shapes: logits (len(chosen), C)."""
    taught = dict(zip(part.teacher_heads, slices(part.teacher_heads), strict=True))
    picked = np.asarray(chosen)
    judged = []
    for number, (head, ours) in enumerate(zip(asked.heads, slices(asked.heads), strict=True)):
        theirs = part.expected[picked][:, taught[head]] if head in taught else None
        labels = part.rows.labels_of(number)[picked]
        found = _figures(logits[:, ours], theirs, labels)
        if found is None:
            continue
        if number == 0:
            told = _assess(asked, build, part, picked, logits[:, ours], theirs)
            told.write(file)
            found |= _stated(told)
        judged.append(Quality(dataset=part.name, split=part.split, head=head.name, build=build, **found))
    return judged


def _assess(
    asked: Asked,
    build: str,
    part: _Part,
    picked: npt.NDArray[np.int64],
    logits: Logits,
    expected: Logits | None,
) -> Assessment:
    """All figures of the first head."""
    rows = part.rows
    labelled = rows.labels_of(0)[picked] >= 0
    kept = picked[labelled]
    whole = np.concatenate([np.diff(corpus.offsets) for corpus in rows.corpora])
    texts = rows.texts
    return assess(
        build,
        part.name,
        logits[labelled],
        rows.labels_of(0)[kept],
        asked.heads[0].labels,
        asked.temperature,
        None if expected is None else expected[labelled],
        all_slices(
            [texts[row] for row in kept],
            whole[kept],
            rows.corpora[0].settings.max_tokens,
            {name: [values[row] for row in kept] for name, values in part.columns.items()},
        ),
    )


def _stated(told: Assessment) -> dict[str, Any]:
    """What of an assessment stands in the manifest."""
    agreement, area = told.agreement, told.auc.value
    return {
        "f1": told.f1.value,
        "auc": None if np.isnan(area) else area,
        "calibration_error": told.calibration.error,
        "mcnemar_p": None if agreement is None else agreement.mcnemar.p_value,
    }


def _figures(logits: Logits, expected: Logits | None, labels: npt.NDArray[np.int64]) -> dict[str, Any] | None:
    """A head's figures on the rows that have a label for it; None where none has."""
    labelled = labels >= 0
    if not labelled.any():
        return None
    right = accuracy(logits[labelled], labels[labelled])
    figures: dict[str, Any] = {
        "n": int(labelled.sum()),
        "accuracy": right,
        "accuracy_interval_95": accuracy_interval(right, int(labelled.sum())),
    }
    if expected is not None:
        teacher_right = accuracy(expected[labelled], labels[labelled])
        figures["teacher_accuracy"] = teacher_right
        figures["retention"] = right / teacher_right if teacher_right else None
        figures["label_flip_rate"] = flip_rate(logits, expected)
    return figures


def _answers(engine: Engine, rows: Rows, chosen: Sequence[int], invariant: bool, report: Report) -> Logits:
    """Every row as it would be served: alone, unless company does not change the answer."""
    run = parity.in_shuffled_batches if invariant else parity.one_by_one
    parts = []
    for start in range(0, len(chosen), _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, len(chosen))
        parts.append(run(engine, rows, chosen[start:stop]))
        report(stop, len(chosen), "rows")
    return np.concatenate(parts)
