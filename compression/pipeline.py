"""A recipe carried out: every stage once, and never again while nothing that went into it has changed.

A stage's result is kept under a key: the hash of its settings, of its inputs' keys and of the data. A
stopped run finds what it finished and goes on; a changed stage re-runs itself and what follows it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app import artifact
from app.artifact import Head, TokenizerSettings
from app.errors import ParityError, RecipeError, UnsupportedModelError
from compression import checkpoint, classifier, data
from compression.classifier import Classifier
from compression.data import Dataset, DataSettings
from compression.disk import full_disk_named
from compression.identity import hashed, identity
from compression.locks import exclusive
from compression.publish import Published
from compression.recipe import BACKBONE, TEACHER, Recipe
from compression.run_folder import BEST_FILE
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import corpora_of
from compression.stages.training import finetune
from compression.teacher import check_labels
from compression.tracking import Tracking
from compression.training import Report

_DONE = "stage.json"
# A backbone is loaded before the data say what its labels will be.
ANY_HEAD = Head(name="label", labels=("negative", "positive"))


@dataclass(frozen=True)
class Request:
    """One call of `bertpress compress`. Either `teacher` or `backbone` is given."""

    recipe: Recipe
    data: tuple[str, ...]
    data_settings: DataSettings
    unlabelled: str | None
    teacher: str | None
    backbone: str | None
    repository: Path
    work: Path
    trackers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the versions it published, why others were refused, and what each stage gave."""

    published: tuple[Published, ...]
    refused: tuple[str, ...]
    datasets: tuple[Dataset, ...]
    results: Mapping[str, Input] = field(default_factory=dict)
    context: Context | None = None


def run(request: Request, report: Callable[[str], Report]) -> Outcome:
    """Carry a recipe out, going on where an earlier run of it was stopped.

    A version that fails its parity gate is refused and the others go on.

    Raises:
        CompressionError: what was asked for cannot be; or the disk is full.
    """
    with full_disk_named(request.work, request.repository):
        return run_stages(*start(request, report))


def start(request: Request, report: Callable[[str], Report]) -> tuple[Context, dict[str, Input]]:
    """What every stage may read, and what is there before the first one.

    Raises:
        CompressionError: teacher, data or recipe cannot be used.
    """
    return _with_teacher(request, _prepare(request, report))


def prepare(request: Request, report: Callable[[str], Report]) -> Context:
    """What a run has before its first stage: the data, and the teacher its recipe takes.

    Raises:
        CompressionError: teacher or data cannot be used; or the disk is full.
    """
    with full_disk_named(request.work, request.repository):
        context, _ = _with_teacher(request, _prepare(request, report))
        return context


def carry_out(stage: Stage, inputs: Sequence[Input], context: Context) -> Path:
    """One stage by itself, unless it is done; returns its folder in the work folder.

    Raises:
        CompressionError: whatever the stage meets; or the disk is full.
    """
    with full_disk_named(context.work):
        return _run_stage(stage, inputs, context)[0].folder


def input_of(source: str) -> Input:
    """A model or build folder, wherever it is called from; a hub id as it is."""
    folder = Path(source)
    return Input(folder.resolve() if folder.is_dir() else folder, identity(source))


def run_stages(context: Context, given: Mapping[str, Input], until: str | None = None) -> Outcome:
    """Run the stages of `context.recipe`; the last of them is `until` where that is given.

    A stage that another process is at is waited for, and its result is taken.

    Raises:
        CompressionError: a stage could not go on.
    """
    results, published, refused = dict(given), [], []
    for stage in context.recipe.stages:
        missing = [name for name in stage.inputs if name not in results]
        if missing:
            refused.append(f"{stage.name}: not made, because {missing[0]} was refused")
            continue
        inputs = [results[name] for name in stage.inputs]
        try:
            results[stage.name], outcome = _run_stage(stage, inputs, context)
        except ParityError as error:
            refused.append(f"{stage.name}: {error}")
            continue
        if outcome is not None:
            published.append(Published(outcome, artifact.read(outcome)))
        if stage.name == context.recipe.reference:
            context = replace(context, teacher=results[stage.name])
        if stage.name == until:
            break
    return Outcome(tuple(published), tuple(refused), context.datasets, results, context)


def _prepare(request: Request, report: Callable[[str], Report]) -> Context:
    source = request.teacher or request.backbone
    assert source is not None  # noqa: S101 - the command line requires one of them
    tracking = Tracking(request.trackers, request.work)
    tracking.check()
    # Loaded first: a teacher that cannot be compressed is refused before the data are read.
    model = classifier.load(source, heads=None if request.teacher else (ANY_HEAD,))
    settings = request.data_settings
    if request.teacher:
        settings = data.with_heads(settings, model.heads)
    datasets = data.load_all(request.data, settings, request.unlabelled)
    _check_heads(request.recipe, datasets[0])
    text = _text_settings(request.recipe, model)
    return Context(
        recipe=request.recipe,
        datasets=datasets,
        all_corpora=tuple(corpora_of(dataset, model, text, request.work) for dataset in datasets),
        text=text,
        teacher=Input(Path(source), identity(source)),
        teacher_source=source,
        repository=request.repository,
        work=request.work,
        report=report,
        tracking=tracking,
    )


def _check_heads(recipe: Recipe, dataset: Dataset) -> None:
    names = [head.name for head in dataset.heads]
    for name in recipe.head_weights:
        if name not in names:
            raise RecipeError(
                f"head_weights: there is no head {name[:40]!r}; the data have {', '.join(names)}"
            )
    for stage in recipe.stages:
        if stage.kind == "exits" and len(names) > 1:
            raise RecipeError(
                f"stage {stage.name!r}: exits decide by one head, and there are {len(names)} "
                f"({', '.join(names)}); leave the stage out, or train one head"
            )


def _with_teacher(request: Request, context: Context) -> tuple[Context, dict[str, Input]]:
    """What is there before the first stage; a teacher is fine-tuned only if the recipe takes it."""
    source = context.teacher_source
    results = {BACKBONE: Input(Path(source), identity(source))}
    if not request.recipe.uses_teacher:
        return context, results
    if request.backbone is None:
        teacher = _kept_teacher(source, context)
        check_labels(classifier.load(str(teacher.folder)).model, context.validation_rows())
    else:
        teacher = _finetuned_teacher(request.backbone, context)
    return replace(context, teacher=teacher), {**results, TEACHER: teacher}


def _text_settings(recipe: Recipe, model: Classifier) -> TokenizerSettings:
    text = recipe.text
    if text.max_tokens > model.longest_input:
        raise UnsupportedModelError(
            f"the recipe reads {text.max_tokens} tokens, this model {model.longest_input}; lower max_tokens"
        )
    return TokenizerSettings(
        max_tokens=text.max_tokens,
        truncation=text.truncation,
        head_tokens=text.head,
        pad_token_id=model.pad_token_id,
    )


def _kept_teacher(source: str, context: Context) -> Input:
    """The user's own classifier, copied once so that later stages do not depend on where it came from."""
    key = hashed("teacher", identity(source))
    folder = context.work / "stages" / f"teacher-{key[:12]}"
    return _once(folder, key, lambda: classifier.save(classifier.load(source), folder))


def _finetuned_teacher(backbone: str, context: Context) -> Input:
    settings = context.recipe.teacher
    key = hashed(
        "finetune",
        settings.model_dump(mode="json"),
        identity(backbone),
        context.data_fingerprint,
        _text(context),
    )
    folder = context.work / "stages" / f"teacher-{key[:12]}"
    return _once(folder, key, lambda: finetune(backbone, settings, context, folder))


def _perform(stage: Stage, inputs: Sequence[Input], context: Context, folder: Path) -> Path | None:
    """The one place where a stage does its work."""
    return stage.run(inputs, context, folder)


def _run_stage(stage: Stage, inputs: Sequence[Input], context: Context) -> tuple[Input, Path | None]:
    key = hashed(
        stage.described(), [source.key for source in inputs], context.data_fingerprint, _text(context)
    )
    folder = context.work / "stages" / f"{stage.name}-{key[:12]}"
    done = folder / _DONE
    if stage.gives == "version" and done.is_file() and not _outcome(done, context):
        done.unlink()  # the version was removed since: publish it again
    result = _once(folder, key, lambda: _perform(stage, inputs, context, folder))
    return result, _outcome(done, context) if stage.gives == "version" else None


def _once(folder: Path, key: str, work: Callable[[], Path | None]) -> Input:
    """Do the work unless its folder says that it is done; one process at a time."""
    if not (folder / _DONE).is_file():
        with exclusive(folder.parents[1] / "locks" / f"{folder.name}.lock"):
            if not (folder / _DONE).is_file():
                _do(folder, key, work)
    return Input(folder, key)


def _do(folder: Path, key: str, work: Callable[[], Path | None]) -> None:
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    produced = work()
    state = {
        "key": key,
        "seconds": round(time.monotonic() - started, 1),
        "version": None if produced is None else f"{produced.parent.name}/{produced.name}",
    }
    partial = folder / f"{_DONE}.partial"
    partial.write_text(json.dumps(state, indent=2), encoding="utf-8")
    partial.replace(folder / _DONE)
    _clear(folder)  # not before: without the note the stage would begin anew


def seconds_of(folder: Path) -> float:
    """How long a finished stage took to make what its folder holds."""
    return float(json.loads((folder / _DONE).read_text(encoding="utf-8"))["seconds"])


def _clear(folder: Path) -> None:
    """Drop what only an unfinished stage needs; what tells how a training went stays."""
    shutil.rmtree(folder / "files", ignore_errors=True)
    for training in folder.rglob("training"):
        (training / BEST_FILE).unlink(missing_ok=True)
        shutil.rmtree(training / checkpoint.DESCRIPTION, ignore_errors=True)
        for left in training.glob("checkpoint-*"):
            shutil.rmtree(left)


def _outcome(done: Path, context: Context) -> Path | None:
    """The folder of the version a finished publication wrote, if it is still there."""
    version = json.loads(done.read_text(encoding="utf-8"))["version"]
    folder = context.repository / str(version)
    return folder if (folder / artifact.MANIFEST_FILE).is_file() else None


def _text(context: Context) -> dict[str, Any]:
    """What decides how every stage reads and learns, beside its own settings."""
    weights = context.recipe.head_weights
    return context.text.model_dump(mode="json") | ({"head_weights": weights} if weights else {})
