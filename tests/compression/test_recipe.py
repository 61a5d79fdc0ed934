from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.errors import RecipeError
from compression.parity import GateSettings
from compression.recipe import Recipe, TextSettings, load, named, parse, with_torchscript
from compression.stages.pruning import PruneStage
from compression.stages.publishing import PublishStage
from compression.stages.training import DistilStage

SMALL = """
name = "small"

[[stages]]
name = "onnx"
kind = "export"
inputs = ["teacher"]

[[stages]]
name = "int8"
kind = "quantize"
inputs = ["onnx"]

[[stages]]
name = "out"
kind = "publish"
inputs = ["int8", "onnx"]
model = "small"
"""


def test_the_shipped_recipe() -> None:
    recipe = load(None)
    assert recipe == load("default")
    assert recipe.name == "default"
    published = [stage for stage in recipe.stages if isinstance(stage, PublishStage)]
    assert {stage.model for stage in published} == {"quality", "fast"}
    assert {stage.kind for stage in recipe.stages} == {
        "export", "quantize", "publish", "student", "distil", "prune",
    }  # fmt: skip
    for stage in recipe.stages:
        if isinstance(stage, DistilStage | PruneStage):
            assert stage.inputs[1] == "teacher"


@pytest.mark.parametrize("name", ["default", "imdb", "distilbert", "tinybert"])
def test_every_shipped_recipe_makes_sense(name: str) -> None:
    assert load(name).name == name


def test_a_student_is_smaller() -> None:
    body = SMALL + '\n[[stages]]\nname = "more"\nkind = "student"\ninputs = ["teacher"]\n'
    with pytest.raises(RecipeError, match="stage 'more': say which layers stay, or how wide the student is"):
        parse(body, "mine")
    for smaller in ('layers = "alternate"', "layers = 0.5", "layers = [0, 2]", "layers = 2", "ffn = 0.5"):
        assert parse(body + smaller, "mine")


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    assert load(str(tmp_path / "small.toml")) == parse(SMALL, "small")


@pytest.mark.parametrize("source", ["absent.toml", "folder.toml"])
def test_a_file_that_is_not_there(source: str, tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(RecipeError, match=r"\.toml does not exist"):
        load(str(tmp_path / source))


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'fastest'; expected a \.toml file or one of default"):
        load("fastest")


def test_broken_toml_and_broken_utf8(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="mine is not valid TOML: Invalid value"):
        parse("name = ", "mine")
    (tmp_path / "a.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(RecipeError, match=r"a\.toml: byte 8 is not UTF-8"):
        load(str(tmp_path / "a.toml"))


# what is replaced in SMALL, by what, and what the message must say
WRONG: list[tuple[str, str, str]] = [
    ('name = "small"\n', 'nmae = "small"\n', "name: Field required"),
    ('kind = "export"', 'kind = "export"\nopste = 17', "unknown key; did you mean 'opset'?"),
    ('kind = "quantize"', 'kind = "quantize"\nreduced_rage = true', "did you mean 'reduced_range'?"),
    ('kind = "quantize"', 'kind = "quantize"\nzzzzzzzzz = true', "zzzzzzzzz: unknown key"),
    ('kind = "export"', 'kind = "exprot"', "'export'"),
    ('kind = "export"', 'kind = "export"\nopset = 99', "less than or equal to 20"),
    ('inputs = ["teacher"]', 'inputs = ["techer"]', "'onnx' takes 'techer', which no earlier stage gives"),
    ('inputs = ["teacher"]', 'inputs = ["int8"]', "'onnx' takes 'int8', which no earlier stage gives"),
    ('inputs = ["teacher"]', "inputs = []", "at least 1 item"),
    (
        'inputs = ["teacher"]',
        'inputs = ["teacher", "teacher"]',
        "'onnx' (export) takes 1 inputs, not 2",
    ),
    ('inputs = ["onnx"]', 'inputs = ["teacher"]', "(quantize) takes a build; 'teacher' is a model"),
    ('name = "int8"', 'name = "onnx"', "two stages are named 'onnx'"),
    ('name = "onnx"', 'name = "teacher"', "two stages are named 'teacher'"),
    ('name = "int8"', 'name = "Int 8"', "String should match pattern"),
    ('model = "small"', 'model = "Small Model"', "String should match pattern"),
    ('kind = "publish"', 'kind = "student"\nlayers = 1', "student.model: 'model' does not belong here"),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG)
def test_what_is_wrong_is_said_in_one_line(old: str, new: str, said: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse(SMALL.replace(old, new, 1), "mine.toml")
    message = str(raised.value)
    assert message.startswith("mine.toml: ")
    assert said in message
    assert "\n" not in message


def test_inputs_are_typed() -> None:
    body = SMALL + '\n[[stages]]\nname = "more"\nkind = "student"\ninputs = ["int8"]\nlayers = 1\n'
    with pytest.raises(RecipeError, match=r"'more' \(student\) takes a model; 'int8' is a build"):
        parse(body, "mine")


def test_a_run_must_end_with_a_model() -> None:
    body = SMALL[: SMALL.index('[[stages]]\nname = "out"')]
    with pytest.raises(RecipeError, match="no stage of kind 'publish': the run would end without a model"):
        parse(body, "mine")


LINEAR = '\n[[stages]]\nname = "words"\nkind = "linear-teacher"\n'

# what follows SMALL and a linear teacher, and what is said of it; nothing where it is right
TAUGHT: list[tuple[str, str]] = [
    ('inputs = ["teacher"]', "takes 2 to 17 inputs, not 1"),
    ('inputs = ["teacher", "teacher", "words"]', ""),
    ('inputs = ["teacher", "words"]', ""),
    ('inputs = ["words", "teacher"]', "takes a model; 'words' is a linear"),
    ('inputs = ["teacher", "int8"]', "takes a model or linear; 'int8' is a build"),
    (
        'inputs = ["teacher", "words"]\ndistillation.hidden_weight = 1',
        "stage 'more' compares layers with its first teacher, and 'words' has none; name a model first",
    ),
    ('inputs = ["teacher", "teacher", "words"]\ndistillation.hidden_weight = 1', ""),
    ('inputs = ["teacher", "teacher", "words"]\ndistillation.teacher_weights = [2, 1]', ""),
    (
        'inputs = ["teacher", "teacher", "words"]\ndistillation.teacher_weights = [1]',
        "stage 'more' has 2 teachers and 1 teacher_weights",
    ),
]


@pytest.mark.parametrize(("rest", "said"), TAUGHT)
@pytest.mark.parametrize("kind", ["distil", "prune", "sparsify", "tokens"])
def test_a_student_and_its_teachers(kind: str, rest: str, said: str) -> None:
    taken = {"distil": "", "prune": "heads = 0.1", "sparsify": "sparsity = 0.5", "tokens": "keep = 0.5"}
    body = SMALL + LINEAR + f'\n[[stages]]\nname = "more"\nkind = "{kind}"\n{taken[kind]}\n{rest}\n'
    if not said:
        assert parse(body, "mine").stages[-1].name == "more"
        return
    with pytest.raises(RecipeError, match=re.escape(said)):
        parse(body, "mine")


PRETRAINED = SMALL.replace('inputs = ["teacher"]', 'inputs = ["mine"]').replace(
    "[[stages]]",
    """reference = "mine"
[[stages]]
name = "adapted"
kind = "pretrain"
inputs = ["backbone"]
[[stages]]
name = "mine"
kind = "finetune"
inputs = ["adapted"]
[[stages]]""",
    1,
)

# what is replaced in PRETRAINED, by what, and what the message must say
OUT_OF_ORDER: list[tuple[str, str, str]] = [
    ('inputs = ["backbone"]', 'inputs = ["teacher"]', "(pretrain) takes a backbone; 'teacher' is a model"),
    ('inputs = ["mine"]', 'inputs = ["adapted"]', "(export) takes a model; 'adapted' is a backbone"),
    ('reference = "mine"', 'reference = "mien"', "'out' is compared with 'mien', which no earlier stage"),
    ('reference = "mine"', 'reference = "adapted"', "reference 'adapted' is a backbone, not a model"),
]


def test_a_teacher_made_by_stages() -> None:
    assert not parse(PRETRAINED, "mine").uses_teacher
    assert parse(PRETRAINED.replace('reference = "mine"', ""), "mine").uses_teacher
    assert parse(PRETRAINED.replace('inputs = ["mine"]', 'inputs = ["teacher"]'), "mine").uses_teacher


@pytest.mark.parametrize(("old", "new", "said"), OUT_OF_ORDER)
def test_a_teacher_made_in_another_order(old: str, new: str, said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        parse(PRETRAINED.replace(old, new, 1), "mine")


def test_a_linear_teacher_takes_nothing() -> None:
    with pytest.raises(RecipeError, match=r"'words' \(linear-teacher\) takes 0 inputs, not 1"):
        parse(SMALL + LINEAR + 'inputs = ["teacher"]\n', "mine")


@pytest.mark.parametrize(
    "settings", [{"max_label_flip_rate": 0.02}, {"max_accuracy_loss": 0.01}, {"fp32_tolerance": 0.01}]
)
def test_a_looser_gate_needs_a_reason(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="need a reason"):
        GateSettings(**settings)
    GateSettings(**settings, reason="too few texts")
    body = SMALL + "".join(f"[stages.gate]\n{name} = {value}\n" for name, value in settings.items())
    with pytest.raises(RecipeError, match=r"mine: stages\.2\.publish\.gate: limits looser than"):
        parse(body, "mine")


def test_a_stricter_gate_needs_none() -> None:
    assert GateSettings(max_label_flip_rate=0.0, max_accuracy_loss=0.0).reason is None


@pytest.mark.parametrize(
    ("settings", "head"),
    [
        ({"max_tokens": 256, "truncation": "head"}, 255),
        ({"max_tokens": 256, "truncation": "head", "head_tokens": 10}, 255),
        ({"max_tokens": 256, "truncation": "head+tail"}, 64),
        ({"max_tokens": 256, "truncation": "head+tail", "head_tokens": 200}, 200),
    ],
)
def test_how_much_of_the_head_is_read(settings: dict[str, Any], head: int) -> None:
    assert TextSettings(**settings).head == head


def test_a_head_that_leaves_no_tail() -> None:
    with pytest.raises(RecipeError, match=r"head_tokens must lie below max_tokens \(64\), got 64"):
        parse(SMALL + "\n[text]\nmax_tokens = 64\nhead_tokens = 64\n", "mine")


def test_the_identity_follows_what_is_said_not_how() -> None:
    recipe = parse(SMALL, "one")
    assert parse("# a remark\n" + SMALL.replace('"', "'"), "two").sha256 == recipe.sha256
    assert parse(SMALL.replace('name = "small"', 'name = "other"'), "three").sha256 != recipe.sha256


def test_torchscript_beside_the_others() -> None:
    recipe = with_torchscript(load("default"))
    Recipe.model_validate(recipe.model_dump())  # still an order that makes sense
    stages = {stage.name: stage for stage in recipe.stages}
    for stage in load("default").stages:
        if stage.kind != "publish":
            assert stages[stage.name] == stage
            continue
        extra = stages[f"{stage.name}-torchscript"]
        assert (extra.kind, getattr(extra, "format", None)) == ("export", "torchscript")
        assert stages[stage.name].inputs == (*stage.inputs, extra.name)
    # Each from the model its version is of.
    assert stages["quality-torchscript"].inputs == ("teacher",)
    assert stages["fast-torchscript"].inputs == stages["fast-onnx"].inputs


def test_models_are_named_after_a_prefix() -> None:
    recipe = load("default")
    assert named(recipe, None) is recipe
    models = [stage.model for stage in named(recipe, "reviews").stages if isinstance(stage, PublishStage)]
    assert set(models) == {"reviews-quality", "reviews-fast"}


@pytest.mark.parametrize("prefix", ["Reviews", "my model", "../up", "x" * 80])
def test_a_prefix_that_makes_no_name(prefix: str) -> None:
    with pytest.raises(RecipeError, match="--name") as raised:
        named(load("default"), prefix)
    assert "\n" not in str(raised.value)
