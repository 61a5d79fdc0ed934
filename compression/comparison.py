"""Recipes on one teacher and the same data: what each gives, and what it costs, in one table.

Every recipe is carried out by the pipeline, so what an earlier run finished is not done again. Then all
models that came of it are measured together, taking turns, beside the teacher and a linear n-gram model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app import artifact
from app.artifact import Manifest
from app.errors import CompressionError, DataError, RecipeError
from app.hardware import usable_cores
from app.tokenizer import Tokenizer
from compression import baseline, benchmark, classifier, ngram, optimum_process, peak_memory, pipeline, recipe
from compression.batches import Rows
from compression.benchmark import Contender, Line
from compression.data import Dataset
from compression.distillation.teacher_logits import teacher_logits
from compression.evaluation import accuracy, accuracy_interval
from compression.pipeline import Request
from compression.recipe import Recipe
from compression.stages.base import Context
from compression.training import Report

# Compared where nothing else is asked for; of these, those that there are.
_RECIPES = ("distilbert", "tinybert", "mobilebert", "default")
_OPTIMUM = "optimum"
TEACHER = "teacher, PyTorch fp32"
LINEAR = "linear n-gram model"


@dataclass(frozen=True)
class Judged:
    """How good a model is on one data set; `retention` is its accuracy over the teacher's."""

    dataset: str
    split: str
    n: int
    accuracy: float
    interval_95: tuple[float, float]
    retention: float | None


@dataclass(frozen=True)
class Row:
    """One model of the comparison. `recipe` is None where no recipe made it."""

    recipe: str | None
    quality: tuple[Judged, ...]
    figures: Line


@dataclass(frozen=True)
class Comparison:
    """All rows, the slowest first; what no recipe gave, and why; how many rows of each split were read."""

    rows: tuple[Row, ...]
    refused: tuple[str, ...]
    limit_rows: int | None
    texts: int


@dataclass(frozen=True)
class _Entry:
    """A model to measure."""

    recipe: str | None
    quality: tuple[Judged, ...]
    contender: Contender


def compare(
    request: Request,
    recipes: Sequence[Recipe],
    report: Callable[[str], Report],
    rounds: int = 15,
    texts: int = 200,
) -> Comparison:
    """Carry the recipes out on the request's teacher and data, and measure what they give.

    A backbone is fine-tuned once, as the request's own recipe says, for all of them. A recipe that fails is
    left out with its reason; the others go on.

    Raises:
        CompressionError: teacher or data cannot be used, or no recipe gave anything.
    """
    if request.backbone is not None:
        finetuned = pipeline.prepare(request, report).teacher.folder
        request = replace(request, teacher=str(finetuned), backbone=None)
    context = pipeline.prepare(request, report)
    judged = _teacher_quality(context)
    versions, refused = _versions(request, recipes, report)
    entries = [_teacher(context, judged)]
    try:
        entries.append(_linear(context, judged))
    except DataError as error:
        refused.append(f"{LINEAR}: {error}")
    entries += [_version(name, folder, manifest, judged) for name, folder, manifest in versions]
    lines = _measured([entry.contender for entry in entries], context.datasets[0], rounds, texts)
    rows = [Row(entry.recipe, entry.quality, line) for entry, line in zip(entries, lines, strict=True)]
    return Comparison(tuple(rows), tuple(refused), request.data_settings.limit_rows, texts)


def _versions(
    request: Request, recipes: Sequence[Recipe], report: Callable[[str], Report]
) -> tuple[list[tuple[str, Path, Manifest]], list[str]]:
    versions, refused = [], []
    for chosen in recipes:
        asked = replace(request, recipe=chosen, repository=request.repository / chosen.name)
        try:
            outcome = pipeline.run(asked, _of_recipe(chosen.name, report))
        except CompressionError as error:
            refused.append(f"{chosen.name}: {error}")
            continue
        refused += [f"{chosen.name}: {reason}" for reason in outcome.refused]
        versions += [(chosen.name, found.folder, found.manifest) for found in outcome.published]
    if not versions:
        raise CompressionError(f"no recipe gave anything to compare: {'; '.join(refused)}")
    return versions, refused


def _of_recipe(name: str, report: Callable[[str], Report]) -> Callable[[str], Report]:
    return lambda title: report(f"{name}: {title}")


def _measured(contenders: Sequence[Contender], dataset: Dataset, rounds: int, texts: int) -> list[Line]:
    reviews = benchmark.sample(dataset, texts)
    lines = benchmark.measure(contenders, reviews, rounds)
    return benchmark.with_energy(lines, contenders, reviews, turns=min(4, rounds))


def _teacher_quality(context: Context) -> tuple[Judged, ...]:
    model = classifier.load(str(context.teacher.folder))
    judged = []
    for part in context.all_corpora:
        split = "validation" if part.test is None else "test"
        rows = Rows(part.test or part.validation)
        report = context.report(f"teacher's logits on {part.name} {split}")
        classes = sum(len(head.labels) for head in model.heads)
        logits = teacher_logits(
            model.model, context.teacher.key, rows, classes, context.work / "logits", report=report
        )
        right = accuracy(logits.numpy()[:, : len(model.labels)], rows.labels)
        judged.append(_judged(part.name, split, len(rows), right, right))
    return tuple(judged)


def _judged(dataset: str, split: str, n: int, right: float, teacher: float) -> Judged:
    retention = right / teacher if teacher else None
    return Judged(dataset, split, n, right, accuracy_interval(right, n), retention)


def _teacher(context: Context, judged: tuple[Judged, ...]) -> _Entry:
    """The teacher as PyTorch computes it in fp32, one text at a time."""
    folder, threads = context.teacher.folder, usable_cores()
    model = classifier.load(str(folder)).model
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, context.text)
    answer = benchmark.through(tokenizer, baseline.predictor(model, threads))
    memory = peak_memory.measure(peak_memory.CLASSIFIER, folder, context.text.max_tokens, threads)
    return _Entry(None, judged, Contender(TEACHER, answer, baseline.size_bytes(model), memory, ""))


def _linear(context: Context, teacher: Sequence[Judged]) -> _Entry:
    """What weighing words gives by itself, fitted on the training texts of all data sets."""
    texts = [text for dataset in context.datasets for text in dataset.train.texts]
    labels = [label for dataset in context.datasets for label in dataset.train.labels or ()]
    model = ngram.fit(texts, labels)
    judged = []
    for dataset, theirs in zip(context.datasets, teacher, strict=True):
        split = dataset.test or dataset.validation
        right = float((model.predict(split.texts) == np.asarray(split.labels)).mean())
        judged.append(_judged(theirs.dataset, theirs.split, theirs.n, right, theirs.accuracy))
    path = context.work / "ngram.npy"
    model.save(path)
    memory = peak_memory.measure(peak_memory.NGRAM, path, context.text.max_tokens, usable_cores())
    contender = Contender(LINEAR, lambda text: model.predict([text]), model.bytes, memory, "")
    return _Entry(None, tuple(judged), contender)


def _version(recipe_name: str, folder: Path, manifest: Manifest, teacher: Sequence[Judged]) -> _Entry:
    """A published version as it is served: its first build, judged when it was published."""
    first = manifest.heads[0].name
    served = manifest.builds[0].name
    accuracies = {
        quality.dataset: quality.accuracy
        for quality in manifest.quality
        if (quality.head, quality.build) == (first, served)
    }
    judged = [
        _judged(each.dataset, each.split, each.n, accuracies[each.dataset], each.accuracy) for each in teacher
    ]
    contender = benchmark.variant(folder, manifest, usable_cores())
    named = replace(contender, name=f"{recipe_name}: {contender.name}")
    return _Entry(recipe_name, tuple(judged), named)


def default_recipes(python: str | None = None) -> tuple[str, ...]:
    """The papers' recipes, our own, and Optimum's where this interpreter or the named one has it."""
    there = [name for name in _RECIPES if name in recipe.shipped()]
    return (*there, *([_OPTIMUM] if optimum_process.available(python) else []))


def recipes_of(names: Sequence[str], python: str | None = None) -> tuple[Recipe, ...]:
    """The recipes of these names or files; `python` runs Optimum where a recipe has it.

    Raises:
        RecipeError: one of them cannot be read, or two have the same name.
    """
    loaded = tuple(recipe.with_optimum(recipe.load(name), python) for name in names)
    found = [each.name for each in loaded]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"two of the recipes to compare are named {twice!r}; give one another name")
    return loaded
