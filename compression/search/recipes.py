"""From rates to a recipe: a trial is nothing but a recipe, so its stages are shared with other trials.

The settings that are not searched (what is read of a text, epochs, learning rates, the parity gate) are
those of the recipe the search was given: of its first distillation, its first pruning, its first publication.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from compression.distillation.objective import DistillationSettings
from compression.recipe import TEACHER, Recipe, TextSettings
from compression.search.space import SCHEMES, Rates
from compression.settings import Settings
from compression.stages.pruning import PruneStage
from compression.stages.publishing import PublishStage
from compression.stages.training import DistilStage
from compression.teacher import FinetuningSettings
from compression.training import TrainingSettings

# The stage whose result is measured, and the one that publishes it.
BUILT, PUBLISHED = "build", "published"


class Effort(Settings):
    """How much a trial may cost: labelled `rows` it learns from (0: all), shares of the recipe's epochs for
    distillation and, after a pruning, for recovery (0: none), and validation rows it is judged on."""

    name: str
    rows: int = Field(ge=0)
    epochs: float = Field(gt=0)
    recovery: float = Field(ge=0)
    judged_rows: int = Field(ge=1)


class Template(Settings):
    """What every trial has in common."""

    text: TextSettings
    teacher: FinetuningSettings
    head_weights: dict[str, float]
    distillation: DistillationSettings
    training: TrainingSettings
    pruning_steps: int
    importance_rows: int
    recovery: TrainingSettings
    gate: dict[str, Any]
    teacher_layers: int
    model: str


def template(recipe: Recipe, teacher_layers: int, model: str) -> Template:
    """The settings of a recipe that a search keeps."""
    distil = next((stage for stage in recipe.stages if isinstance(stage, DistilStage)), None)
    prune = next((stage for stage in recipe.stages if isinstance(stage, PruneStage)), None)
    publish = next(stage for stage in recipe.stages if isinstance(stage, PublishStage))
    distillation = distil.distillation if distil else DistillationSettings()
    return Template(
        text=recipe.text,
        teacher=recipe.teacher,
        head_weights=recipe.head_weights,
        distillation=distillation.model_copy(update={"teacher_weights": (), "layer_map": None}),
        training=distil.training if distil else TrainingSettings(),
        pruning_steps=prune.steps if prune else 2,
        importance_rows=prune.importance_rows if prune else 512,
        recovery=prune.training if prune else TrainingSettings(epochs=1),
        gate=publish.gate.model_dump(),
        teacher_layers=teacher_layers,
        model=model,
    )


def recipe_of(rates: Rates, effort: Effort, common: Template) -> Recipe:
    """The recipe of one trial: student, distillation, pruning, vocabulary, export, quantization, publication.

    What the rates leave as it is has no stage.
    """
    stages: list[dict[str, Any]] = []

    def add(name: str, kind: str, *inputs: str, **settings: Any) -> str:
        stages.append({"name": name, "kind": kind, "inputs": list(inputs), **settings})
        return name

    model = TEACHER
    if rates.layers < common.teacher_layers:
        model = add("student", "student", model, layers=rates.layers)
        model = add("distilled", "distil", model, TEACHER, **_teaching(rates, effort, common))
    if rates.heads or rates.ffn:
        model = add("pruned", "prune", model, TEACHER, **_pruning(rates, effort, common))
    if rates.vocabulary < 1:
        model = add("read", "vocabulary", model, rows=rates.vocabulary)
    exported = add("exported", "export", model)
    built = add(BUILT, "quantize", exported, embeddings=rates.embeddings, **SCHEMES[rates.scheme])
    described = f"Found by a search: {rates.text}."
    add(PUBLISHED, "publish", built, model=common.model, description=described, gate=common.gate)
    return Recipe.model_validate(
        {
            "name": f"search-{effort.name}",
            "text": common.text.model_dump(),
            "teacher": common.teacher.model_dump(),
            "head_weights": common.head_weights,
            "stages": stages,
        }
    )


def _teaching(rates: Rates, effort: Effort, common: Template) -> dict[str, Any]:
    return {
        "distillation": _distillation(rates, effort, common),
        "training": _for_share(common.training, effort.epochs, effort),
    }


def _pruning(rates: Rates, effort: Effort, common: Template) -> dict[str, Any]:
    return {
        "heads": rates.heads,
        "ffn": rates.ffn,
        "steps": common.pruning_steps if effort.rows == 0 else 1,
        "recover": effort.recovery > 0,
        "importance_rows": common.importance_rows,
        "distillation": _distillation(rates, effort, common) | {"unlabelled_rows": 0},
        "training": _for_share(common.recovery, effort.recovery or 1.0, effort),
    }


def _distillation(rates: Rates, effort: Effort, common: Template) -> dict[str, Any]:
    searched = {
        "temperature": rates.temperature,
        "hard_weight": rates.hard_weight,
        "hidden_weight": rates.hidden_weight,
    }
    # A cheap trial reads few labelled rows; as many unlabelled ones as usual would be most of its work.
    unlabelled = {} if effort.rows == 0 else {"unlabelled_rows": 0}
    return common.distillation.model_dump() | searched | unlabelled


def _for_share(training: TrainingSettings, share: float, effort: Effort) -> dict[str, Any]:
    judged = min(training.validation_rows, effort.judged_rows)
    return training.model_dump() | {"epochs": training.epochs * share, "validation_rows": judged}
