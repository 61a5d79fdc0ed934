"""What each stage did to size, accuracy and latency: all results on the same rows, all taking turns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engines import load_engine
from app.hardware import cpu_model, usable_cores
from compression import baseline, builds, classifier, parity
from compression.classifier import WEIGHTS_FILE
from compression.distillation.teacher_logits import logits_of
from compression.evaluation import Logits, accuracy, accuracy_interval, flip_rate, probabilities
from compression.measurement import Predict, latency
from compression.ngrams.student import is_ngrams
from compression.reporting.record import LONGEST_TEXT, Disagreement, RunRecord, StageFigures
from compression.stages.base import Context
from compression.stages.reading import read_by

ROWS = 300
_ROUNDS = 10
_TOKENS = 128
_SHOWN = 8


def measure(
    record: RunRecord, context: Context, work: Path, rows: int = ROWS
) -> tuple[dict[str, StageFigures], dict[str, Any]]:
    """Figures of every model and build of the run, by stage name, and under what they were measured."""
    measurable = [stage for stage in record.stages if stage.gives in ("model", "build")]
    answers: dict[str, Logits] = {}
    predict: dict[str, Predict] = {}
    sizes: dict[str, int] = {}
    chosen = context.validation_rows().take(rows)
    labels = context.validation_rows().labels[chosen]
    tokens = min(_TOKENS, context.text.max_tokens)
    for stage in measurable:
        opened = _open(work / stage.folder, context, chosen)
        if opened is not None:
            answers[stage.name], predict[stage.name], sizes[stage.name] = opened
    taken = latency(predict, [tokens], _ROUNDS)
    expected = answers.get(record.reference)
    texts = context.validation_rows().texts
    figures = {}
    for name, logits in answers.items():
        reference = logits if expected is None else expected
        right = accuracy(logits, labels)
        figures[name] = StageFigures(
            accuracy=right,
            interval_95=accuracy_interval(right, len(chosen)),
            flip_rate=flip_rate(logits, reference),
            size_bytes=sizes[name],
            latency_ms=taken[name][0].median_ms,
            disagreements=disagreements(logits, reference, labels, chosen, texts, context.heads[0].labels),
        )
    return figures, {
        "rows": len(chosen),
        "tokens": tokens,
        "cpu": cpu_model(),
        "threads": usable_cores(),
        "on": datetime.now(UTC).date().isoformat(),
    }


def _open(folder: Path, context: Context, chosen: Sequence[int]) -> tuple[Logits, Predict, int] | None:
    """Answers on the chosen rows, a call to time, and bytes; None for what is no network."""
    if (folder / "build.json").is_file():
        build = builds.read(folder)
        own = read_by(classifier.load(str(build.model_folder)), context).validation_rows()
        engine = load_engine(build.engine, folder / build.file, usable_cores(), build.precision)
        classes = len(context.heads[0].labels)
        return parity.one_by_one(engine, own, chosen)[:, :classes], engine.logits, build.size_bytes(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        return None
    loaded = classifier.load(str(folder))
    if is_ngrams(loaded.model.config):
        return None
    logits = logits_of(loaded.model, read_by(loaded, context).validation_rows(), chosen)
    size = (folder / WEIGHTS_FILE).stat().st_size
    return (
        logits[:, : len(loaded.labels)],
        baseline.predictor(loaded.model, usable_cores()),
        size,
    )


def disagreements(
    logits: Logits,
    reference: Logits,
    labels: npt.NDArray[np.int64],
    chosen: Sequence[int],
    texts: Sequence[str],
    names: Sequence[str],
) -> tuple[Disagreement, ...]:
    """Texts that are given another label than by the reference, the surest first. Shapes: (N, C), (N,)."""
    ours, theirs = probabilities(logits), probabilities(reference)
    found = [
        Disagreement(
            row=int(row),
            text=texts[row][:LONGEST_TEXT],
            label=names[labels[index]],
            teacher=names[theirs[index].argmax()],
            teacher_score=round(float(theirs[index].max()), 4),
            ours=names[ours[index].argmax()],
            score=round(float(ours[index].max()), 4),
        )
        for index, row in enumerate(chosen)
        if ours[index].argmax() != theirs[index].argmax()
    ]
    return tuple(sorted(found, key=lambda each: -each.score)[:_SHOWN])


def histories(work: Path, record: RunRecord) -> dict[str, list[Mapping[str, float]]]:
    """Evaluations of every training of the run, by stage and step, as the trainings left them."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for stage in record.stages:
        for path in sorted((work / stage.folder).rglob("history.json")):
            step = path.parent.parent.name
            title = f"{stage.name} {step}" if step.startswith("step-") else stage.name
            entries = json.loads(path.read_text(encoding="utf-8")).get("history", [])
            if entries:
                found[title] = entries
    return found
