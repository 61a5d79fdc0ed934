"""Every stage as a command and as a function, on tiny models and made-up reviews."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from transformers import MPNetConfig, MPNetModel

from app.errors import CompressionError, DataError, ParityError, RecipeError, UnsupportedModelError
from compression import api, builds, classifier, pipeline, recipe, single_stage
from compression.architecture import layer_shapes
from compression.cli import main, parser
from compression.commands import distill, export, pretrain, prune, quantize, stage, train
from compression.stages.builds import ExportStage, QuantizeStage
from compression.stages.optimum import OptimumStage
from compression.stages.pruning import PruneStage
from compression.stages.teachers import FinetuneStage, PretrainStage
from compression.stages.training import DistilStage
from tests.compression import finished as tiny_run
from tests.compression.finished import Finished
from tests.compression.tiny import tiny_tokenizer

TINY = ["--max-tokens", "16"]
QUICK = ["--epochs", "0.2", "--precision", "fp32"]
QUICKLY = {"training": {"epochs": 0.2, "precision": "fp32"}}
KINDS: list[tuple[Any, tuple[type[BaseModel], ...]]] = [
    (train, (FinetuneStage,)),
    (pretrain, (PretrainStage,)),
    (distill, (DistilStage,)),
    (prune, (PruneStage,)),
    (export, (ExportStage, OptimumStage)),
    (quantize, (QuantizeStage,)),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of this file leave their results, one building on the other."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def teacher(finished: Finished) -> str:
    """The teacher that the finished run trained."""
    (folder,) = (finished.request.work / "stages").glob("teacher-*")
    return str(folder)


@pytest.fixture
def common(finished: Finished, place: Path) -> list[str]:
    return ["--data", finished.request.data[0], "--work", str(place / "work"), *TINY]


def default_of(model: type[BaseModel], key: str) -> object:
    """What a setting is where nobody sets it."""
    first, _, rest = key.partition(".")
    default = model.model_fields[first].get_default()
    return getattr(default, rest) if rest else default


@pytest.mark.parametrize(("command", "models"), KINDS)
def test_help_states_every_setting_with_its_default(
    command: Any, models: tuple[type[BaseModel], ...]
) -> None:
    for setting in command.SETTINGS:
        known = [model for model in models if setting.key.partition(".")[0] in model.model_fields]
        assert known, setting.key
        (told,) = re.findall(r"\(default: (.*)\)$", setting.help)
        shown = default_of(known[0], setting.key)
        assert told == (str(shown).lower() if isinstance(shown, bool) else str(shown)), setting.key


@pytest.mark.parametrize(
    "command", ["train", "pretrain", "distill", "prune", "quantize", "export", "evaluate", "compare"]
)
def test_every_stage_has_help_before_anything_is_loaded(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert "--json" in printed
    assert "--work" in printed


def options(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(list(arguments))


def test_options_become_the_settings_of_a_stage() -> None:
    asked = options(
        *("distill", "--teacher", "t", "--student", "s", "--data", "d", "--output", "o"),
        *("--temperature", "4", "--epochs", "0.5", "--precision", "fp32"),
        *("--set", "training.dropout=0.1", "--set", "distillation.layer_map=[1, 3]"),
    )
    assert stage.chosen(asked, distill.SETTINGS) == {
        "distillation": {"temperature": 4, "layer_map": [1, 3]},
        "training": {"epochs": 0.5, "precision": "fp32", "dropout": 0.1},
    }


@pytest.mark.parametrize("wrong", ["training.dropout", "=1"])
def test_a_setting_without_a_value(wrong: str) -> None:
    asked = options("train", "--backbone", "b", "--data", "d", "--output", "o", "--set", wrong)
    with pytest.raises(RecipeError, match="is not KEY=VALUE"):
        stage.chosen(asked, train.SETTINGS)


def test_a_teacher_is_trained(
    finished: Finished, teacher: str, place: Path, common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, output = finished.request.backbone, place / "teacher"
    asked = ["train", "--backbone", str(backbone), "--output", str(output), *common, *QUICK, "--json"]
    assert main(asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["output"] == str(output)
    assert set(told["files"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert classifier.load(str(output)).labels == classifier.load(teacher).labels


def test_what_is_finished_is_not_done_again(
    finished: Finished, place: Path, common: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_perform", lambda *_: pytest.fail("done again"))
    asked = ["train", "--backbone", str(finished.request.backbone), "--output", str(place / "teacher")]
    assert main([*asked, *common, *QUICK]) == 0


def test_a_backbone_is_pretrained(finished: Finished, place: Path, common: list[str]) -> None:
    asked = ["pretrain", "--backbone", str(finished.request.backbone), "--output", str(place / "read")]
    assert main([*asked, *common, *QUICK]) == 0
    assert single_stage.kind_of(str(place / "read")) == "backbone"


def test_a_student_is_made_and_distilled(teacher: str, place: Path, common: list[str]) -> None:
    asked = ["distill", "--teacher", teacher, "--layers", "2", "--output", str(place / "student")]
    assert main([*asked, *common, *QUICK]) == 0
    assert len(layer_shapes(classifier.load(str(place / "student")).model)) == 2


def test_a_model_is_pruned(teacher: str, place: Path, common: list[str]) -> None:
    asked = ["prune", "--model", teacher, "--output", str(place / "pruned"), "--heads", "0.5", "--steps", "1"]
    assert main([*asked, *common, *QUICK]) == 0
    shapes = layer_shapes(classifier.load(str(place / "pruned")).model)
    assert sum(shape.heads for shape in shapes) == 6


def test_a_build_is_exported_and_quantized_under_the_gate(
    teacher: str, place: Path, common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--model", teacher, "--output", str(place / "onnx"), *common, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parity"]["max_logit_difference"] < 1e-3
    assert builds.read(place / "onnx").name == "onnx-fp32"
    asked = ["quantize", "--build", str(place / "onnx"), "--output", str(place / "int8"), *common]
    assert main([*asked, "--reduced-range", "false"]) == 0
    assert builds.read(place / "int8").needs == ("vnni",)
    assert (place / "int8" / "model.onnx").stat().st_size < (place / "onnx" / "model.onnx").stat().st_size


def test_without_data_a_build_is_not_proven(teacher: str, place: Path, tmp_path: Path) -> None:
    folder = api.export(teacher, tmp_path / "onnx", text={"max_tokens": 16}, work=place / "work")
    assert single_stage.told(folder) == {}


def test_a_build_that_fails_the_gate_leaves_nothing(
    teacher: str, finished: Finished, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ParityError("build onnx-fp32: too far")

    monkeypatch.setattr("compression.parity.check", fails)
    with pytest.raises(ParityError, match="too far"):
        api.export(
            teacher,
            tmp_path / "onnx",
            data=finished.request.data[0],
            text={"max_tokens": 16},
            work=place / "work",
        )
    assert not (tmp_path / "onnx").exists()


def test_evaluate_judges_models_builds_and_versions(
    teacher: str, finished: Finished, place: Path, common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    published = finished.manifest("small").quality[0]
    asked = ["evaluate", "--model", str(finished.folder("small")), "--teacher", teacher, *common, "--json"]
    assert main(asked) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["n"] == published.n
    assert found["accuracy"]["value"] == published.accuracy
    assert found["agreement"]["teacher_accuracy"] == published.teacher_accuracy
    assert found["agreement"]["label_flip_rate"]["value"] == published.label_flip_rate
    assert main(["evaluate", "--model", teacher, *common]) == 0
    assert f"{published.teacher_accuracy:.2%}" in capsys.readouterr().out


def test_evaluate_judges_the_build_that_is_named(
    finished: Finished, common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", "--model", str(finished.folder("small")), *common]
    published = {quality.build: quality for quality in finished.manifest("small").quality}
    assert main([*asked, "--build", "torchscript-fp32", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["name"] == "small/1 (torchscript-fp32)"
    assert found["accuracy"]["value"] == published["torchscript-fp32"].accuracy
    assert main([*asked, "--build", "onnx-int4"]) == 1
    told = capsys.readouterr().err
    assert f"small/1 has no build 'onnx-int4'; it has {', '.join(published)}" in told


def test_evaluate_tells_ratings_apart(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(finished.request.data[0])
    rows = [json.loads(line) for line in (source / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["rating"] = number % 3 + 8 if number else None
    lines = "\n".join(map(json.dumps, rows))
    shutil.copytree(source, tmp_path / "graded")
    (tmp_path / "graded" / "test.jsonl").write_text(lines, encoding="utf-8")
    asked = ["evaluate", "--model", str(finished.folder("small")), "--work", str(tmp_path / "work")]
    asked += ["--data", str(tmp_path / "graded")]
    assert main([*asked, "--slice", "rating", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    rated = {each["name"]: each["n"] for each in found["slices"] if each["name"].startswith("rating")}
    assert rated == {"rating 8": 53, "rating 9": 53, "rating 10": 53}
    assert main([*asked, "--slice", "rating"]) == 0
    assert "rating 10" in capsys.readouterr().out
    assert main([*asked, "--slice", "ratings"]) == 1
    assert "no row has a value in the column 'ratings'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"training": {"epoch": 1}}, "unknown key; did you mean 'epochs'?"),
        ({"training": {"epochs": -1}}, "training.epochs"),
        ({"temperature": 2}, "'temperature' does not belong here"),
    ],
)
def test_wrong_settings_are_one_line_before_anything_is_read(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as refused:
        api.train("no-such-model", tmp_path / "out", settings, data="no-such-data")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_inputs_of_the_wrong_kind(teacher: str, finished: Finished, place: Path, tmp_path: Path) -> None:
    backbone, data = str(finished.request.backbone), finished.request.data[0]
    with pytest.raises(RecipeError, match=re.escape(f"takes a backbone; {teacher} is a model")):
        api.pretrain(teacher, tmp_path / "out", data=data, work=tmp_path / "work")
    with pytest.raises(RecipeError, match=re.escape(f"takes a build; {teacher} is a model")):
        api.quantize(teacher, tmp_path / "out", data=data, work=tmp_path / "work")
    with pytest.raises(RecipeError, match=re.escape(f"takes a model; {backbone} is a backbone")):
        api.export(backbone, tmp_path / "out", work=tmp_path / "work")
    with pytest.raises(UnsupportedModelError, match="neither a model folder nor a hub id"):
        api.export(tmp_path / "nothing", tmp_path / "out", work=tmp_path / "work")


def test_a_classifier_learns_more_and_keeps_its_head(
    teacher: str, finished: Finished, tmp_path: Path
) -> None:
    barely = {"training": {"epochs": 0.01, "learning_rate": 1e-9, "weight_decay": 0.0, "precision": "fp32"}}
    common: Any = {"data": finished.request.data[0], "text": {"max_tokens": 16}, "work": tmp_path / "work"}
    found = classifier.load(str(api.train(teacher, tmp_path / "out", barely, **common)))
    given = classifier.load(teacher)
    assert found.heads == given.heads
    for name, weight in given.model.state_dict().items():
        assert torch.allclose(found.model.state_dict()[name], weight, atol=1e-6), name


def test_a_model_that_cannot_be_compressed_is_trained_judged_and_teaches(
    finished: Finished, teacher: str, place: Path, common: list[str], tmp_path: Path
) -> None:
    """MPNet: positions from behind the padding, position biases that all layers share, words of its own."""
    words = MPNetConfig(
        vocab_size=160,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=66,
    )
    MPNetModel(words).save_pretrained(tmp_path / "mpnet")
    tiny_tokenizer().save_pretrained(tmp_path / "mpnet")
    asked: Any = {"data": finished.request.data[0], "text": {"max_tokens": 16}, "work": tmp_path / "work"}
    taught = str(place / "mpnet")
    assert main(["train", "--backbone", str(tmp_path / "mpnet"), "--output", taught, *common, *QUICK]) == 0
    assert main(["evaluate", "--model", taught, *common]) == 0
    loaded = classifier.load(taught, any_family=True)
    assert loaded.longest_input == 64
    api.distill(teacher, [taught], tmp_path / "out", QUICKLY, **asked)
    (answers,) = (tmp_path / "work" / "logits").glob("logits-*.bin")
    assert answers.stat().st_size, "the teacher was asked"
    with pytest.raises(UnsupportedModelError, match="'mpnet' cannot be compressed; supported: bert"):
        api.export(taught, tmp_path / "onnx", work=tmp_path / "work")
    with pytest.raises(UnsupportedModelError, match="'mpnet' cannot be compressed"):
        api.distill(teacher, [taught], tmp_path / "layers", {"distillation": {"hidden_weight": 1.0}}, **asked)


def test_an_output_folder_that_holds_something_else(teacher: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(RecipeError, match="holds something else; name another folder"):
        api.export(teacher, tmp_path / "out", work=tmp_path / "work")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_without_data_nothing_learns(teacher: str, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match="no data were given"):
        api.train("any", tmp_path / "out")
    folder = api.export(teacher, tmp_path / "onnx", text={"max_tokens": 16}, work=tmp_path / "work")
    with pytest.raises(DataError, match="calibrates on texts"):
        api.quantize(folder, tmp_path / "out", text={"max_tokens": 16}, work=tmp_path / "work")
    dynamic = {"method": "dynamic", "embeddings": 32}
    made = api.quantize(folder, tmp_path / "out", dynamic, text={"max_tokens": 16}, work=tmp_path / "work")
    assert builds.read(made).precision == "int8"


def test_optimum_says_how_to_get_it(teacher: str, tmp_path: Path) -> None:
    elsewhere = {"python": "/nowhere/python"}
    with pytest.raises(CompressionError, match=r"has no Optimum; install it with pip install"):
        api.export(
            teacher,
            tmp_path / "out",
            elsewhere,
            exporter="optimum",
            text={"max_tokens": 16},
            work=tmp_path / "work",
        )
    assert not (tmp_path / "out").exists()


def test_either_a_teacher_or_a_backbone() -> None:
    for given in (None, "m"):
        with pytest.raises(CompressionError, match="either a teacher or a backbone"):
            api.compress("models", teacher=given, backbone=given, data="d")


def test_the_text_a_model_reads(teacher: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="text: max_token: unknown key"):
        api.export(teacher, tmp_path / "out", text={"max_token": 16})
    with pytest.raises(RecipeError, match="--max-tokens 256: this model reads 64; lower it"):
        api.export(teacher, tmp_path / "out", work=tmp_path / "work")


def test_functions_carry_a_recipe_out(finished: Finished, tmp_path: Path) -> None:
    asked = tiny_run.moved(finished, tmp_path)
    (tmp_path / "tiny.toml").write_text(tiny_run.RECIPE)
    with tiny_run.cheap_baseline():
        outcome = api.compress(
            asked.repository,
            backbone=asked.backbone,
            recipe=str(tmp_path / "tiny.toml"),
            data=asked.data,
            work=asked.work,
        )
        lines = api.benchmark(asked.repository, rounds=1, texts=2)
    assert recipe.load(str(tmp_path / "tiny.toml")).name == "tiny"
    assert [version.manifest.name for version in outcome.published] == ["small", "whole"]
    assert len(lines) == 3


def test_a_teacher_whose_labels_stand_in_another_order(
    teacher: str, finished: Finished, tmp_path: Path
) -> None:
    turned = classifier.load(teacher)
    with torch.no_grad():
        for parameter in turned.model.get_submodule("classifier").parameters():
            parameter.copy_(parameter.flip(0))
    classifier.save(turned, tmp_path / "turned")
    with pytest.raises(DataError, match="less than chance"):
        api.distill(
            teacher,
            tmp_path / "turned",
            tmp_path / "out",
            data=finished.request.data[0],
            text={"max_tokens": 16},
            work=tmp_path / "work",
        )


@pytest.mark.parametrize("body", ["", "{", "[]", '{"name": "onnx"}'])
def test_a_build_whose_description_is_broken(body: str, tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text(body)
    with pytest.raises(CompressionError, match="does not describe a build") as refused:
        api.quantize(tmp_path, tmp_path / "out", {"method": "dynamic"}, work=tmp_path / "work")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("file", ["absent/figures.json", "."])
def test_where_the_result_cannot_be_written_is_known_at_once(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "--model", "m", "--data", "d", "--json", file])
    assert left.value.code == 2
    assert "folder" in capsys.readouterr().err
