"""One stage by itself, its inputs folders: what a recipe of this one stage would do.

The work is done in the work folder, under a key of everything that went in, as in a recipe: a command that
was stopped goes on where it was, and one that was finished is not done again. The result appears in the
output folder when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from app.artifact import Build, TokenizerSettings
from app.errors import RecipeError
from compression import builds, classifier, data, pipeline, publish, recipe
from compression.candidates import gather
from compression.data import DataSettings
from compression.disk import full_disk_named
from compression.distillation import ngram_teacher
from compression.ngrams.student import is_ngrams
from compression.parity import GateSettings
from compression.recipe import Recipe, TextSettings
from compression.stages.base import Context, Stage
from compression.stages.reading import corpora_of, read_by
from compression.teacher import check_labels
from compression.tracking import Tracking
from compression.training import Report

# What tells an output folder of ours, and whose result it is.
_MARK = "bertpress-stage.json"
# What the gate found of a build.
_PARITY = "parity.json"
# Left in the work folder: checkpoints, and what the pipeline itself keeps.
_KEPT_BACK = ("training", "stage.json", "stage.json.partial", "classifier.partial", "step-*")


@dataclass(frozen=True)
class StageRequest:
    """A stage, its inputs (folders or hub ids), and where its result goes. `settings` as in a recipe."""

    kind: str
    inputs: tuple[str, ...]
    output: Path
    settings: Mapping[str, Any]
    data: tuple[str, ...] = ()
    data_settings: DataSettings = field(default_factory=DataSettings)
    unlabelled: str | None = None
    text: TextSettings = field(default_factory=TextSettings)
    work: Path = Path(".bertpress")
    trackers: tuple[str, ...] = ()


def run(request: StageRequest, report: Callable[[str], Report]) -> Path:
    """Do the work; returns the output folder.

    A build is held to the parity gate where there are data; one that fails leaves no output.

    Raises:
        RecipeError: a setting that is unknown or out of range, inputs that the stage does not take, or an
            output folder that holds something else.
        ParityError: the build does not answer as its model does.
        CompressionError: whatever the stage itself meets.
    """
    _check_output(request.output)
    result, context = work_out(request, report)
    if (result / builds.FILE).is_file() and context.datasets:
        found = check(result, GateSettings(), context)
        (result / _PARITY).write_text(found.model_dump_json(indent=2), encoding="utf-8")
    return _published(result, request)


def work_out(request: StageRequest, report: Callable[[str], Report]) -> tuple[Path, Context]:
    """The result in the work folder, and what the stage was given to read."""
    Tracking(request.trackers, request.work).check()
    stage = _stage(request)
    given = {name: kind_of(source) for name, source in zip(stage.inputs, request.inputs, strict=True)}
    try:
        stage.check_inputs(given)
    except ValueError as error:
        raise RecipeError(_by_source(str(error), stage, request)) from error
    inputs = [pipeline.input_of(source) for source in request.inputs]
    context = context_of(request, stage, given, report)
    for source in request.inputs[1:]:  # a stage's first input is what it changes, the others teach
        if kind_of(source) == "model":
            teacher = classifier.load(source, any_family=True)
            check_labels(teacher.model, read_by(teacher, context).validation_rows())
    return pipeline.carry_out(stage, inputs, context), context


def check(build_folder: Path, gate: GateSettings, context: Context) -> Build:
    """Hold a build to the parity gate on the validation rows, as a publication does.

    Raises:
        ParityError: says which limit is broken, by how much.
    """
    source = classifier.load(str(builds.read(build_folder).model_folder))
    expected = publish.reference(source, gate, read_by(source, context))
    (candidate,) = gather([build_folder], context.work / "gate").builds
    return publish.prove(candidate, expected, gate)


def context_of(
    request: StageRequest, stage: Stage, given: Mapping[str, str], report: Callable[[str], Report]
) -> Context:
    """What the stage may read: its data, tokenized by the first input that is a model."""
    first = request.inputs[0]
    kind = given[stage.inputs[0]]
    folder = str(builds.read(Path(first)).model_folder) if kind == "build" else first
    model = classifier.load(
        folder,
        heads=(pipeline.ANY_HEAD,) if kind == "backbone" else None,
        any_family=stage.trains_any_family,
    )
    settings = request.data_settings
    if kind != "backbone":
        settings = data.with_heads(settings, model.heads)
    datasets = data.load_all(request.data, settings, request.unlabelled) if request.data else ()
    text = text_of(request.text, model.longest_input, model.pad_token_id)
    return Context(
        recipe=Recipe.model_construct(name=request.kind, text=request.text, stages=(cast(Any, stage),)),
        datasets=datasets,
        all_corpora=tuple(corpora_of(dataset, model, text, request.work) for dataset in datasets),
        text=text,
        teacher=pipeline.input_of(first),
        teacher_source=first,
        repository=request.output.parent,
        work=request.work,
        report=report,
        tracking=Tracking(request.trackers, request.work),
    )


def _stage(request: StageRequest) -> Stage:
    names = tuple(f"input-{number}" for number in range(1, len(request.inputs) + 1))
    described = {"name": request.kind, "kind": request.kind, "inputs": names, **request.settings}
    return recipe.stage(described, f"bertpress {request.kind}")


def kind_of(source: str) -> str:
    """What a folder holds, in the words of `Stage.takes`; a hub id is a model or a backbone.

    Raises:
        CompressionError: it holds nothing a stage can take.
    """
    folder = Path(source)
    if (folder / builds.FILE).is_file():
        return "build"
    if folder.is_dir() and ngram_teacher.is_in(folder):
        return "linear"
    config = classifier.config_of(source)
    if is_ngrams(config):
        return "ngrams"
    return "model" if classifier.is_classifier(config) else "backbone"


def _by_source(problem: str, stage: Stage, request: StageRequest) -> str:
    """The same words with the folders in place of the inputs' names."""
    for name, source in zip(stage.inputs, request.inputs, strict=True):
        problem = problem.replace(repr(name), source)
    return problem


def text_of(text: TextSettings, longest: int, pad_token_id: int) -> TokenizerSettings:
    """How much of a text a model reads.

    Raises:
        RecipeError: more than it can.
    """
    if text.max_tokens > longest:
        raise RecipeError(f"--max-tokens {text.max_tokens}: this model reads {longest}; lower it")
    return TokenizerSettings(
        max_tokens=text.max_tokens,
        truncation=text.truncation,
        head_tokens=text.head,
        pad_token_id=pad_token_id,
    )


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not _is_ours(output))):
        raise RecipeError(f"{output} is there and holds something else; name another folder or remove it")


def _is_ours(output: Path) -> bool:
    return (output / _MARK).is_file()


def _published(result: Path, request: StageRequest) -> Path:
    """Copy a finished stage to the output folder, whole or not at all."""
    with full_disk_named(request.output.parent):
        return _copied(result, request, request.output)


def _copied(result: Path, request: StageRequest, output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(result, partial, ignore=shutil.ignore_patterns(*_KEPT_BACK))
    mark = {
        "stage": request.kind,
        "inputs": [str(pipeline.input_of(source).folder) for source in request.inputs],
    }
    (partial / _MARK).write_text(json.dumps(mark, indent=2), encoding="utf-8")
    if output.exists():
        shutil.rmtree(output)
    partial.rename(output)
    return output


def files_of(folder: Path) -> dict[str, int]:
    """Bytes of every file of a result."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _MARK
    }


def told(folder: Path) -> dict[str, Any]:
    """What else is known of a result: the parity of a build that was proven."""
    path = folder / _PARITY
    if not path.is_file():
        return {}
    build = json.loads(path.read_text(encoding="utf-8"))
    return {name: build[name] for name in ("parity", "batch_invariant", "batch_variance")}
