"""From a run's folder to its report."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from app import artifact
from app.artifact import Manifest
from app.errors import ArtifactError
from compression.pipeline import Outcome, seconds_of
from compression.recipe import TEACHER
from compression.reporting import page, record
from compression.reporting.figures import histories, measure
from compression.reporting.page import Story
from compression.reporting.record import LONGEST_TEXT, RunRecord, StageRecord
from compression.stages.base import Context

REPORT_FILE = "report.html"


def write(work: Path, target: Path | None = None, longest_text: int = LONGEST_TEXT) -> Path:
    """Write the report of the run in `work`; returns the file.

    Raises:
        CompressionError: the folder holds no record of a run.
    """
    found = record.read(work)
    story = Story(
        record=found,
        manifests=tuple(_manifests(work, found.versions)),
        histories=histories(work, found),
        assessments=tuple(
            json.loads(path.read_text(encoding="utf-8"))
            for stage in found.stages
            for path in sorted((work / stage.folder).glob("assessment-*.json"))
        ),
        longest_text=longest_text,
    )
    path = target or work / REPORT_FILE
    path.write_text(page.html(story), encoding="utf-8")
    return path


def tell(outcome: Outcome, context: Context) -> Path:
    """Measure what the stages of a finished run left, and write its report.

    What an earlier report measured of the same stages stands: measuring takes minutes.
    """
    work = context.work
    recorded(outcome, context).write(work)
    found = record.read(work)
    if not found.figures:
        figures, measured = measure(found, context, work)
        replace(found, figures=figures, measured=measured).write(work)
    return write(work)


def recorded(outcome: Outcome, context: Context) -> RunRecord:
    """What the run did, in the order of its recipe; the teacher stands before it as a stage of its own."""
    work, results, recipe = context.work, outcome.results, context.recipe
    stages = []
    if TEACHER in results:
        beside = os.path.relpath(results[TEACHER].folder, work)
        stages.append(StageRecord(TEACHER, "teacher", "model", (), beside))
    for stage in recipe.stages:
        if stage.name not in results:
            continue
        folder = results[stage.name].folder
        kind = getattr(stage, "kind", type(stage).__name__)
        relative = os.path.relpath(folder, work)
        stages.append(StageRecord(stage.name, kind, stage.gives, stage.inputs, relative, seconds_of(folder)))
    return RunRecord(
        recipe=recipe.name,
        data=context.data_name,
        reference=recipe.reference,
        stages=tuple(stages),
        versions=tuple(os.path.relpath(each.folder, work) for each in outcome.published),
        refused=outcome.refused,
    )


def _manifests(work: Path, versions: tuple[str, ...]) -> list[Manifest]:
    """Of the versions that are still there."""
    found = []
    for version in versions:
        try:
            found.append(artifact.read(work / version))
        except ArtifactError:
            continue
    return found
