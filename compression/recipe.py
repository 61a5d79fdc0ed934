"""Recipes: which stages run, with what settings, and what each takes from which. TOML, checked by pydantic.

A stage is named and lists its inputs by name; `teacher` is always there: the user's own classifier, or
the backbone fine-tuned under `[teacher]`. Stages are typed: a distillation takes models and gives a model,
an export takes a model and gives a build, a quantization takes a build and gives a build, a publication
takes builds.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.artifact import ModelName
from app.errors import RecipeError
from compression.training import TrainingSettings

TEACHER = "teacher"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextSettings(_Settings):
    """How much of a text the models read: `head_tokens` ids from its start, the rest from its end."""

    max_tokens: int = Field(default=256, ge=8, le=8192)
    truncation: Literal["head", "head+tail"] = "head+tail"
    head_tokens: int | None = Field(default=None, ge=1)

    @property
    def head(self) -> int:
        """Ids kept from the start of a text that is too long."""
        if self.truncation == "head":
            return self.max_tokens - 1
        return self.head_tokens or self.max_tokens // 4

    @model_validator(mode="after")
    def _tail_is_not_empty(self) -> TextSettings:
        if self.head >= self.max_tokens:
            raise ValueError(f"head_tokens must lie below max_tokens ({self.max_tokens}), got {self.head}")
        return self


class _Stage(_Settings):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    inputs: tuple[str, ...] = Field(min_length=1)


class StudentStage(_Stage):
    """A shallower model from some layers of another, its weights kept.

    `layers` names them (counted from 0), or says how many, evenly spread from the first to the last.
    """

    kind: Literal["student"]
    layers: Annotated[int, Field(ge=1)] | Annotated[tuple[int, ...], Field(min_length=1)]


class DistillationSettings(_Settings):
    """What a student learns from: the teacher's soft labels, its hidden states, and the true labels.

    `unlabelled_rows` texts without labels are added to the training rows (0: none, -1: all there are).
    """

    temperature: float = Field(default=2.0, gt=0)
    soft_weight: float = Field(default=1.0, ge=0)
    hard_weight: float = Field(default=0.3, ge=0)
    hidden_weight: float = Field(default=0.0, ge=0)
    unlabelled_rows: int = Field(default=0, ge=-1)


class DistilStage(_Stage):
    """Trains the first input to answer as the second, its teacher."""

    kind: Literal["distil"]
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings()


class PruneStage(_Stage):
    """Removes whole attention heads and FFN neurons of the first input, in steps; the second input teaches
    what is left to recover after each step. `heads` and `ffn` are the shares removed in the end."""

    kind: Literal["prune"]
    heads: float = Field(default=0.0, ge=0, lt=1)
    ffn: float = Field(default=0.0, ge=0, lt=1)
    steps: int = Field(default=2, ge=1)
    importance_rows: int = Field(default=512, ge=1)
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings(epochs=1)


class ExportStage(_Stage):
    """A build in fp32: an ONNX graph with its transformer parts fused, or TorchScript."""

    kind: Literal["export"]
    format: Literal["onnx", "torchscript"] = "onnx"
    opset: int = Field(default=17, ge=14, le=20)


class QuantizeStage(_Stage):
    """int8 weights per channel, activations quantized as they come. `reduced_range` keeps the weights to
    seven bits, which is right on CPUs without VNNI, where eight bits overflow silently."""

    kind: Literal["quantize"]
    reduced_range: bool = True
    keep_fp32: tuple[str, ...] = ()


class GateSettings(_Settings):
    """What a build of reduced precision may change. Looser limits than these need a `reason`."""

    max_label_flip_rate: float = Field(default=0.01, ge=0, le=1)
    max_accuracy_loss: float = Field(default=0.005, ge=0, le=1)
    fp32_tolerance: float = Field(default=1e-3, gt=0)
    texts: int = Field(default=1000, ge=1)
    reason: str | None = None

    @model_validator(mode="after")
    def _looser_needs_a_reason(self) -> GateSettings:
        looser = (
            self.max_label_flip_rate > 0.01 or self.max_accuracy_loss > 0.005 or self.fp32_tolerance > 1e-3
        )
        if looser and not self.reason:
            raise ValueError("limits looser than 1 % flips, 0.5 points and 1e-3 need a reason")
        return self


class PublishStage(_Stage):
    """One version of `model` out of the input builds, if every one of them passes the parity gate.

    The first build is the one whose quality and cost the manifest states.
    """

    kind: Literal["publish"]
    model: ModelName
    description: str = ""
    gate: GateSettings = GateSettings()


Stage = Annotated[
    StudentStage | DistilStage | PruneStage | ExportStage | QuantizeStage | PublishStage,
    Field(discriminator="kind"),
]

# kind -> (what each input must be, what the stage gives)
_TYPES: dict[str, tuple[str, str]] = {
    "student": ("model", "model"),
    "distil": ("model", "model"),
    "prune": ("model", "model"),
    "export": ("model", "build"),
    "quantize": ("build", "build"),
    "publish": ("build", "version"),
}
_INPUT_COUNTS = {"student": (1, 1), "distil": (2, 2), "prune": (2, 2), "export": (1, 1), "quantize": (1, 1)}


class Recipe(_Settings):
    """A whole run, checked before anything is computed."""

    name: str
    text: TextSettings = TextSettings()
    teacher: TrainingSettings = TrainingSettings()
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_an_order_that_makes_sense(self) -> Recipe:
        given = {TEACHER: "model"}
        for stage in self.stages:
            _check_inputs(stage, given)
            given[stage.name] = _TYPES[stage.kind][1]
        if not any(stage.kind == "publish" for stage in self.stages):
            raise ValueError("no stage of kind 'publish': the run would end without a model")
        return self

    @property
    def sha256(self) -> str:
        """Identity of what the recipe says, however it is written."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def with_torchscript(recipe: Recipe) -> Recipe:
    """The same recipe with a TorchScript build beside the others in every version it publishes."""
    exports = {stage.name: stage for stage in recipe.stages if stage.kind == "export"}
    models = {stage.name: stage.inputs[0] for stage in exports.values()}
    stages: list[Any] = []
    for stage in recipe.stages:
        if stage.kind == "quantize":
            models[stage.name] = models[stage.inputs[0]]
        if stage.kind == "publish":
            extra = ExportStage(
                name=f"{stage.name}-torchscript",
                kind="export",
                inputs=(models[stage.inputs[0]],),
                format="torchscript",
            )
            stages.append(extra)
            stage = stage.model_copy(update={"inputs": (*stage.inputs, extra.name)})
        stages.append(stage)
    return recipe.model_copy(update={"stages": tuple(stages)})


def named(recipe: Recipe, prefix: str | None) -> Recipe:
    """The same recipe publishing `prefix-model` instead of `model`.

    Raises:
        RecipeError: the prefix does not make a model name.
    """
    if prefix is None:
        return recipe
    stages = [
        stage.model_copy(update={"model": f"{prefix}-{stage.model}"}) if stage.kind == "publish" else stage
        for stage in recipe.stages
    ]
    try:
        return Recipe.model_validate(recipe.model_dump() | {"stages": [s.model_dump() for s in stages]})
    except ValidationError as error:
        raise RecipeError(f"--name {prefix[:100]!r}: {_first_problem(error)}") from error


def load(source: str | None) -> Recipe:
    """Read a recipe file, or one of the recipes that come with bertpress by its name (`default`).

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key, a wrong value, or an order that makes no sense.
    """
    name = source or "default"
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise RecipeError(f"{path} does not exist")
        try:
            return parse(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}: byte {error.start} is not UTF-8; TOML is UTF-8 text") from error
    shipped = resources.files("compression") / "recipes"
    names = sorted(
        entry.name.removesuffix(".toml") for entry in shipped.iterdir() if entry.name.endswith(".toml")
    )
    if name not in names:
        raise RecipeError(f"no recipe {name!r}; expected a .toml file or one of {', '.join(names)}")
    return parse((shipped / f"{name}.toml").read_text(encoding="utf-8"), name)


def parse(body: str, source: str) -> Recipe:
    """Check the text of a recipe; `source` names it in errors."""
    try:
        return Recipe.model_validate(tomllib.loads(body))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{source}: {_first_problem(error)}") from error


def _check_inputs(stage: Any, given: dict[str, str]) -> None:
    wanted, _ = _TYPES[stage.kind]
    if stage.name in given:
        raise ValueError(f"two stages are named {stage.name!r}")
    for source in stage.inputs:
        if source not in given:
            raise ValueError(f"stage {stage.name!r} takes {source!r}, which no earlier stage gives")
        if given[source] != wanted:
            raise ValueError(
                f"stage {stage.name!r} ({stage.kind}) takes a {wanted}; {source!r} is a {given[source]}"
            )
    low, high = _INPUT_COUNTS.get(stage.kind, (1, 16))
    if not low <= len(stage.inputs) <= high:
        raise ValueError(f"stage {stage.name!r} ({stage.kind}) takes {low} inputs, not {len(stage.inputs)}")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    name, known = str(problem["loc"][-1]), _known_keys()
    if name in known:
        return f"{where}: {name!r} does not belong here"
    near = difflib.get_close_matches(name, known, n=1)
    return f"{where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")


def _known_keys() -> list[str]:
    models: list[type[BaseModel]] = [
        Recipe,
        TextSettings,
        TrainingSettings,
        DistillationSettings,
        GateSettings,
    ]
    models += [StudentStage, DistilStage, PruneStage, ExportStage, QuantizeStage, PublishStage]
    return sorted({key for model in models for key in model.model_fields})
