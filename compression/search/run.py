"""A whole search: prepared, worked at until its limits, and summed up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import AutoConfig

from app.errors import SearchError, UnsupportedModelError
from app.hardware import cpu_features, cpu_model, usable_cores
from compression import pipeline
from compression.architecture import family_of
from compression.data import DataSettings
from compression.disk import full_disk_named
from compression.parity import GateSettings
from compression.recipe import Recipe
from compression.search import recipes, subset
from compression.search.book import Book
from compression.search.goals import Goals
from compression.search.judging import Yardstick
from compression.search.outcome import Outcome
from compression.search.recipes import Effort, Template
from compression.search.space import Space
from compression.search.target_cpu import TargetCpu
from compression.search.worker import Bench, Limits, Worker
from compression.stages.base import Context
from compression.training import Report

CHEAP = Effort(name="cheap", rows=2000, epochs=0.5, recovery=0.25, judged_rows=500)
FULL = Effort(name="full", rows=0, epochs=1.0, recovery=1.0, judged_rows=2000)


def efforts(
    rows: int | None, epochs: float | None, recovery: float | None, judged_rows: int | None
) -> dict[str, Effort]:
    """The two efforts with what was asked for in the place of the defaults.

    Raises:
        SearchError: a number that cannot be.
    """
    asked = {"rows": rows, "epochs": epochs, "recovery": recovery}
    asked["judged_rows"] = None if judged_rows is None else max(1, judged_rows // 4)
    cheap = CHEAP.model_dump() | {name: value for name, value in asked.items() if value is not None}
    full = FULL.model_dump() | ({} if judged_rows is None else {"judged_rows": judged_rows})
    try:
        return {"cheap": Effort.model_validate(cheap), "full": Effort.model_validate(full)}
    except ValidationError as error:
        problem = error.errors()[0]
        raise SearchError(
            f"{problem['loc'][0]} of a trial: {problem['msg']}, got {problem['input']}"
        ) from error


@dataclass(frozen=True)
class Request:
    """One call of `bertpress search`. Either `teacher` or `backbone` is given."""

    goals: Goals
    space: Space
    recipe: Recipe
    model: str
    data: tuple[str, ...]
    data_settings: DataSettings
    unlabelled: str | None
    teacher: str | None
    backbone: str | None
    repository: Path
    work: Path
    limits: Limits
    cheap: Effort = CHEAP
    full: Effort = FULL
    seed: int = 0
    target: TargetCpu | None = None
    trackers: tuple[str, ...] = ()


def search(request: Request, report: Callable[[str], Report], tell: Callable[[str], None]) -> Outcome:
    """Work at a search until its limits; an earlier one on the same work folder is gone on with.

    Ctrl-C ends it as the limits do: what was found until then is summed up.

    Raises:
        SearchError: the space does not fit the teacher, or every trial failed.
        CompressionError: teacher, data or recipe cannot be used; or the disk is full.
    """
    with full_disk_named(request.work, request.repository):
        return _search(request, report, tell)


def _search(request: Request, report: Callable[[str], Report], tell: Callable[[str], None]) -> Outcome:
    layers = _layers_of(request.teacher or request.backbone or "")
    space = request.space.of_teacher(layers)
    if "vnni" not in (request.target.features if request.target else cpu_features()):
        space = space.without_vnni()
    if request.target is not None:
        tell(f"latency: {request.target.source}; memory and energy: of this machine")
        if request.target.builds is not None:
            space = space.measured_as(request.target.builds)
    common = recipes.template(request.recipe, layers, request.model)
    first = recipes.recipe_of(space.mildest(), request.full, common)
    context, given = pipeline.start(_pipeline_request(request, first), report)
    folder = request.work / "search"
    identity = _identity(context, common, request)
    book = Book(folder, identity, request.goals, space, (request.cheap.name, request.full.name), request.seed)
    cheap_bench, full_bench = (
        _bench(effort, context, common, request) for effort in (request.cheap, request.full)
    )
    worker = Worker(cheap_bench, full_bench, given, common, request.goals, space, book, request.limits, tell)
    try:
        ended, interrupted = worker.run(), False
    except KeyboardInterrupt:
        ended, interrupted = "it was stopped", True
    cheap, full = (book.entries(effort.name) for effort in (request.cheap, request.full))
    return Outcome(request.goals, tuple(cheap), tuple(full), ended, interrupted, request.repository)


def _pipeline_request(request: Request, recipe: Recipe) -> pipeline.Request:
    return pipeline.Request(
        recipe=recipe,
        data=request.data,
        data_settings=request.data_settings,
        unlabelled=request.unlabelled,
        teacher=request.teacher,
        backbone=request.backbone,
        repository=request.repository,
        work=request.work,
        trackers=request.trackers,
    )


def _bench(effort: Effort, context: Context, common: Template, request: Request) -> Bench:
    own = subset.of_effort(context, effort, request.seed)
    return Bench(effort, own, Yardstick(own, GateSettings.model_validate(common.gate), request.target))


def _identity(context: Context, common: Template, request: Request) -> str:
    """What figures belong to: the same data, teacher, settings and CPU give the same ones."""
    parts: list[Any] = [
        context.teacher.key,
        context.data_fingerprint,
        common.model_dump(mode="json", exclude={"model"}),
        [effort.model_dump(mode="json") for effort in (request.cheap, request.full)],
        [cpu_model(), usable_cores()] if request.target is None else _described(request.target),
        request.seed,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _described(target: TargetCpu) -> list[Any]:
    table = None if target.table is None else target.table.model_dump(mode="json")
    return [target.name, sorted(target.features), target.cores, table]


def _layers_of(source: str) -> int:
    """How many layers a model has, without loading it."""
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        told = str(error).partition("\n")[0]
        raise UnsupportedModelError(f"{source} is neither a model folder nor a hub id: {told}") from error
    return int(getattr(config, family_of(config).layers_setting))
