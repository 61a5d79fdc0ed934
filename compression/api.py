"""bertpress in Python: every stage and every command as a function of the same name.

    from compression import api as bertpress

    bertpress.train("all-MiniLM-L6-v2", "teacher", data="imdb")

Folders go in, a folder comes out, and a stage that is finished is not done again. Settings are those of the
stage of that kind in a recipe, as a dictionary: `settings={"training": {"epochs": 3}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    from compression.assessment import Assessment
    from compression.benchmark import Line
    from compression.comparison import Comparison
    from compression.pipeline import Outcome
    from compression.training import Report

__all__ = [
    "benchmark",
    "compare",
    "compress",
    "distill",
    "evaluate",
    "export",
    "pretrain",
    "prune",
    "quantize",
    "train",
]

PathOrId = str | Path
# Stages that learn from labels or texts: without data they have nothing to do.
_LEARNING = ("finetune", "pretrain", "distil", "prune")


class Common(TypedDict, total=False):
    """What every stage takes: one data set or several, how they are read (`data_settings`: the fields of
    `DataSettings`; `text`: a recipe's `[text]`), where finished work is kept, which trackers are told of
    the figures (`wandb`, `tensorboard`, `mlflow`), and who is told of progress."""

    data: PathOrId | Sequence[PathOrId]
    unlabelled: PathOrId
    data_settings: Mapping[str, Any]
    text: Mapping[str, Any]
    work: PathOrId
    trackers: Sequence[str]
    report: Callable[[str], Report]


def train(
    backbone: PathOrId,
    output: PathOrId,
    settings: Mapping[str, Any] | None = None,
    **common: Unpack[Common],
) -> Path:
    """Fine-tune a backbone on the true labels: a classifier, the teacher of what follows.

    Raises:
        CompressionError: what was asked for cannot be; one line says why.
    """
    return _stage("finetune", [backbone], output, settings, common)


def pretrain(
    backbone: PathOrId,
    output: PathOrId,
    settings: Mapping[str, Any] | None = None,
    **common: Unpack[Common],
) -> Path:
    """Masked-language modelling of a backbone on the texts of the data, before it is fine-tuned."""
    return _stage("pretrain", [backbone], output, settings, common)


def distill(
    student: PathOrId | None,
    teachers: PathOrId | Sequence[PathOrId],
    output: PathOrId,
    settings: Mapping[str, Any] | None = None,
    layers: Any = None,
    **common: Unpack[Common],
) -> Path:
    """Train a student to answer as its teachers do; without one it is made of so many `layers` of the first
    teacher (a number, a share, a list, or `alternate`)."""
    taught_by = _several(teachers)
    if student is None:
        student = _student(taught_by[0], layers, common)
    return _stage("distil", [student, *taught_by], output, settings, common)


def prune(
    model: PathOrId,
    output: PathOrId,
    settings: Mapping[str, Any] | None = None,
    teachers: PathOrId | Sequence[PathOrId] | None = None,
    **common: Unpack[Common],
) -> Path:
    """Remove attention heads and FFN neurons in steps, each followed by distillation from the teachers, or
    from the model as it was."""
    taught_by = [model] if teachers is None else _several(teachers)
    return _stage("prune", [model, *taught_by], output, settings, common)


def export(
    model: PathOrId,
    output: PathOrId,
    settings: Mapping[str, Any] | None = None,
    exporter: str = "bertpress",
    **common: Unpack[Common],
) -> Path:
    """A build of a classifier: by bertpress, or by Hugging Face Optimum (`exporter="optimum"`).

    With data it is held to the parity gate, and there is no output if it fails.

    Raises:
        ParityError: it does not answer as the model does.
    """
    kind = {"bertpress": "export", "optimum": "optimum"}[exporter]
    return _stage(kind, [model], output, settings, common)


def quantize(
    build: PathOrId,
    output: PathOrId,
    settings: Mapping[str, Any] | None = None,
    **common: Unpack[Common],
) -> Path:
    """A build in fewer bits, held to the parity gate as `export` holds its own."""
    return _stage("quantize", [build], output, settings, common)


def evaluate(
    model: PathOrId, teacher: PathOrId | None = None, build: str | None = None, **common: Unpack[Common]
) -> list[Assessment]:
    """Judge a classifier, a build, a published version (its first build unless `build` names another) or the
    checkpoint of an unfinished training on every data set's test part."""
    from compression import judged

    request = _request("evaluate", [model], Path(), None, common)
    report = common.get("report", _nobody)
    taught_by = None if teacher is None else str(teacher)
    return judged.evaluate(
        str(model), request.data, request.data_settings, request.text, request.work, report, taught_by, build
    )


def benchmark(
    models: PathOrId, data: PathOrId | None = None, rounds: int = 15, texts: int = 200
) -> list[Line]:
    """Every variant of a repository beside BERT-base and a linear model, measured in one run."""
    from compression import benchmark as measuring

    return measuring.figures(Path(models), None if data is None else str(data), rounds, texts)


def compare(
    recipes: Sequence[PathOrId] | None = None,
    teacher: PathOrId | None = None,
    backbone: PathOrId | None = None,
    output: PathOrId | None = None,
    rounds: int = 15,
    texts: int = 200,
    **common: Unpack[Common],
) -> Comparison:
    """Recipes on one teacher and the same data; one of `teacher` and `backbone` is given."""
    from compression import comparison, recipe

    names = [str(name) for name in recipes] if recipes else comparison.default_recipes()
    request = _run_request(recipe.load(None), teacher, backbone, output, common)
    report = common.get("report", _nobody)
    return comparison.compare(request, comparison.recipes_of(names), report, rounds, texts)


def compress(
    output: PathOrId,
    teacher: PathOrId | None = None,
    backbone: PathOrId | None = None,
    recipe: str | None = None,
    **common: Unpack[Common],
) -> Outcome:
    """Carry a recipe out and publish its versions; one of `teacher` and `backbone` is given."""
    from compression import pipeline
    from compression import recipe as recipes

    request = _run_request(recipes.load(recipe), teacher, backbone, output, common)
    return pipeline.run(request, common.get("report", _nobody))


def _stage(
    kind: str,
    inputs: Sequence[PathOrId],
    output: PathOrId,
    settings: Mapping[str, Any] | None,
    common: Common,
) -> Path:
    from compression import single_stage

    request = _request(kind, inputs, output, settings, common)
    return single_stage.run(request, common.get("report", _nobody))


def _student(teacher: str, layers: Any, common: Common) -> Path:
    from compression import single_stage

    request = _request("student", [teacher], Path(), {"layers": layers}, common)
    return single_stage.work_out(request, common.get("report", _nobody))[0]


def _request(
    kind: str,
    inputs: Sequence[PathOrId],
    output: PathOrId,
    settings: Mapping[str, Any] | None,
    common: Common,
) -> Any:
    from app.errors import CompressionError
    from compression.data import DataSettings
    from compression.recipe import text_settings
    from compression.single_stage import StageRequest

    sources = tuple(_several(common.get("data", ())))
    if kind in (*_LEARNING, "evaluate") and not sources:
        raise CompressionError("no data were given: pass a file, a folder or the name of a data set")
    unlabelled = common.get("unlabelled")
    return StageRequest(
        kind=kind,
        inputs=tuple(str(source) for source in inputs),
        output=Path(output),
        settings=settings or {},
        data=sources,
        data_settings=DataSettings(**common.get("data_settings", {})),
        unlabelled=None if unlabelled is None else str(unlabelled),
        text=text_settings(common.get("text", {})),
        work=Path(common.get("work", ".bertpress")),
        trackers=tuple(common.get("trackers", ())),
    )


def _run_request(
    recipe: Any,
    teacher: PathOrId | None,
    backbone: PathOrId | None,
    output: PathOrId | None,
    common: Common,
) -> Any:
    from app.errors import CompressionError
    from compression.pipeline import Request

    if (teacher is None) == (backbone is None):
        raise CompressionError("give either a teacher or a backbone to fine-tune, and not both")
    staged = _request("evaluate", [], Path(), None, common)
    return Request(
        recipe=recipe,
        data=staged.data,
        data_settings=staged.data_settings,
        unlabelled=staged.unlabelled,
        teacher=None if teacher is None else str(teacher),
        backbone=None if backbone is None else str(backbone),
        repository=staged.work / "compared" if output is None else Path(output),
        work=staged.work,
        trackers=staged.trackers,
    )


def _several(given: PathOrId | Sequence[PathOrId]) -> list[str]:
    return [str(given)] if isinstance(given, str | Path) else [str(each) for each in given]


def _nobody(_: str) -> Report:
    """Progress that nobody reads."""
    from compression.training import silent

    return silent
