"""Recipes: which stages run, with what settings, and what each takes from which. TOML, checked by pydantic.

A stage is named and lists its inputs by name. Two names are always there: `backbone`, which stages
fine-tune, and `teacher`, the user's own classifier or else the backbone fine-tuned under `[teacher]`. Stages
are typed: a distillation takes models and gives a model, an export takes a model and gives a build, a
quantization takes a build and gives a build, a publication takes builds.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from app.errors import RecipeError
from compression.settings import Settings
from compression.stages.builds import ExportStage
from compression.stages.kinds import Stage
from compression.teacher import FinetuningSettings

TEACHER = "teacher"
BACKBONE = "backbone"
_STAGE: TypeAdapter[Stage] = TypeAdapter(Stage)


class TextSettings(Settings):
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


class Recipe(Settings):
    """A whole run, checked before anything is computed.

    `reference` names the model that what is published is compared with: the teacher, unless a stage makes a
    better one. `head_weights` say how much each head's loss counts, where there are several (1 where not
    named).
    """

    name: str
    text: TextSettings = TextSettings()
    teacher: FinetuningSettings = FinetuningSettings()
    reference: str = TEACHER
    head_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_an_order_that_makes_sense(self) -> Recipe:
        given = {TEACHER: "model", BACKBONE: "backbone"}
        tokenizers = dict.fromkeys(given, TEACHER)
        for stage in self.stages:
            if stage.name in given:
                raise ValueError(f"two stages are named {stage.name!r}")
            stage.check_inputs(given)
            _check_tokenizers(stage, tokenizers)
            if stage.gives == "version" and self.reference not in given:
                raise ValueError(
                    f"stage {stage.name!r} is compared with {self.reference!r}, which no earlier stage gives"
                )
            given[stage.name] = stage.gives
            own = stage.changes_tokenizer or not stage.inputs
            tokenizers[stage.name] = stage.name if own else tokenizers[stage.inputs[0]]
        if not any(stage.kind == "publish" for stage in self.stages):
            raise ValueError("no stage of kind 'publish': the run would end without a model")
        if given[self.reference] != "model":
            raise ValueError(f"reference {self.reference!r} is a {given[self.reference]}, not a model")
        return self

    @property
    def uses_teacher(self) -> bool:
        """Whether anything is taken from or compared with `teacher` itself."""
        return self.reference == TEACHER or any(TEACHER in stage.inputs for stage in self.stages)

    @property
    def sha256(self) -> str:
        """Identity of what the recipe says, however it is written."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def with_torchscript(recipe: Recipe) -> Recipe:
    """The same recipe with a TorchScript build beside the others in every version it publishes."""
    without_layers = {stage.name for stage in recipe.stages if stage.gives == "ngrams"}
    models: dict[str, str] = {}
    stages: list[Any] = []
    for stage in recipe.stages:
        if stage.gives == "build":
            models[stage.name] = models.get(stage.inputs[0], stage.inputs[0])
        if stage.kind == "publish" and models[stage.inputs[0]] not in without_layers:
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


def with_optimum(recipe: Recipe, python: str | None) -> Recipe:
    """The same recipe with the interpreter that has Optimum, where one is named."""
    if python is None:
        return recipe
    stages = [
        stage.model_copy(update={"python": python}) if stage.kind == "optimum" else stage
        for stage in recipe.stages
    ]
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
    if name not in shipped():
        raise RecipeError(f"no recipe {name!r}; expected a .toml file or one of {', '.join(shipped())}")
    file = resources.files("compression") / "recipes" / f"{name}.toml"
    return parse(file.read_text(encoding="utf-8"), name)


def shipped() -> list[str]:
    """Names of the recipes that come with bertpress."""
    files = (entry.name for entry in (resources.files("compression") / "recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def text_settings(described: Mapping[str, Any]) -> TextSettings:
    """Check how much of a text is read.

    Raises:
        RecipeError: an unknown key, or a wrong value.
    """
    try:
        return TextSettings.model_validate(dict(described))
    except ValidationError as error:
        raise RecipeError(f"text: {_first_problem(error)}") from error


def parse(body: str, source: str) -> Recipe:
    """Check the text of a recipe; `source` names it in errors."""
    try:
        return Recipe.model_validate(tomllib.loads(body))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{source}: {_first_problem(error)}") from error


def stage(described: Mapping[str, Any], source: str) -> Stage:
    """Check one stage by itself; `source` names it in errors.

    Raises:
        RecipeError: an unknown key, or a wrong value.
    """
    try:
        checked: Stage = _STAGE.validate_python(dict(described))
    except ValidationError as error:
        raise RecipeError(f"{source}: {_first_problem(error)}") from error
    return checked


def _check_tokenizers(stage: Stage, tokenizers: Mapping[str, str]) -> None:
    """A loss that compares tokens needs the same ones; `tokenizers` says whence each model has its own."""
    distillation = getattr(stage, "distillation", None)
    if distillation is None or not distillation.compares_tokens:
        return
    student, teacher = stage.inputs[:2]  # only the first teacher is compared token by token
    if tokenizers[teacher] != tokenizers[student]:
        raise ValueError(
            f"stage {stage.name!r} compares layers token by token, and {student!r} has "
            f"another tokenizer than {teacher!r}; distil them before the vocabulary is pruned"
        )


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    name, known = str(problem["loc"][-1]), _known_keys()
    if name in known:
        return f"{where}: {name!r} does not belong here"
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"{where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")


def _known_keys(model: type[BaseModel] = Recipe) -> set[str]:
    """Names of the settings of a model and of all below it."""
    known = set(model.model_fields)
    for field in model.model_fields.values():
        for below in _models_in(field.annotation):
            known |= _known_keys(below)
    return known


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
