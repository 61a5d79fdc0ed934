"""A model distilled under fake quantization, quantized and published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from app.errors import RecipeError
from compression import classifier
from compression.architecture import encoder_layers
from compression.quantization.editing import GraphEditor
from compression.recipe import parse
from tests.compression.finished import Finished, cheap_baseline, request, run
from tests.compression.tiny import tiny_classifier, write_data

RECIPE = """
name = "aware"

[text]
max_tokens = 16

[[stages]]
name = "student"
kind = "student"
inputs = ["teacher"]
layers = 2

[[stages]]
name = "aware"
kind = "quantization-aware"
inputs = ["student", "teacher"]

[stages.quantization]
embeddings = 4

[stages.training]
epochs = 1
learning_rate = 1e-3
precision = "fp32"
average_decay = 0.9

[[stages]]
name = "onnx"
kind = "export"
inputs = ["aware"]

[[stages]]
name = "int8"
kind = "quantize"
inputs = ["onnx"]
embeddings = 4

[[stages]]
name = "mixed"
kind = "quantize"
inputs = ["onnx"]
method = "dynamic"

[stages.mixed_precision]
max_label_flip_rate = 0
most_parts = 2
rows = 24

[[stages]]
name = "out"
kind = "publish"
inputs = ["int8", "mixed"]
model = "small"

[stages.gate]
max_label_flip_rate = 0.2
max_accuracy_loss = 0.2
reason = "the texts are made up and few"
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("aware")
    classifier.save(tiny_classifier(), root / "teacher")
    write_data(root / "reviews")
    asked = request(root, teacher=str(root / "teacher"), backbone=None, recipe=parse(RECIPE, "aware"))
    with cheap_baseline():
        return Finished(asked, run(asked))


def stage_folder(finished: Finished, name: str) -> Path:
    return next((finished.request.work / "stages").glob(f"{name}-*"))


def test_what_is_kept_is_a_plain_model_that_learned(published: Finished) -> None:
    assert published.outcome.refused == ()
    before, after = (classifier.load(str(stage_folder(published, name))) for name in ("student", "aware"))
    for layer in encoder_layers(after.model):
        assert all(type(part) is nn.Linear for part in layer.modules() if isinstance(part, nn.Linear))
    assert before.model.state_dict().keys() == after.model.state_dict().keys()
    moved = [
        name
        for name, tensor in after.model.state_dict().items()
        if not torch.equal(tensor, before.model.state_dict()[name])
    ]
    assert any("query.weight" in name for name in moved)
    assert any("word_embeddings" in name for name in moved)


def test_its_build_is_the_one_it_was_prepared_for(published: Finished) -> None:
    build, _ = published.manifest("small").builds
    assert build.name == "onnx-int8-reduced"
    assert build.batch_invariant


def test_what_mixed_precision_measured_is_kept_beside_the_build(published: Finished) -> None:
    folder = stage_folder(published, "mixed")
    found = json.loads((folder / "sensitivity.json").read_text(encoding="utf-8"))
    parts = [each["part"] for each in found["ranking"]]
    assert len(parts) == len(set(parts)) == 2 * 6 + 1 + 2
    kept = found["steps"][-1]["kept"]
    # What is kept is what was found most sensitive, and the name of the build says that something was.
    assert kept == parts[: len(kept)]
    _, build = published.manifest("small").builds
    assert build.name == ("onnx-int8-dynamic-reduced-mixed" if kept else "onnx-int8-dynamic-reduced")
    quantized = {
        part.name for part in GraphEditor.load(stage_folder(published, "onnx") / "model.onnx").dense_parts()
    }
    left = {part.name for part in GraphEditor.load(folder / "model.onnx").dense_parts()}
    assert left == quantized & set(kept)


def test_a_misspelt_setting_of_mixed_precision_is_refused() -> None:
    with pytest.raises(RecipeError, match="did you mean 'most_parts'"):
        parse(RECIPE.replace("most_parts", "most_part"), "aware")


def test_a_stage_needs_a_teacher_and_known_settings() -> None:
    alone = RECIPE.replace('inputs = ["student", "teacher"]', 'inputs = ["student"]')
    with pytest.raises(RecipeError, match="takes 2 to 17 inputs, not 1"):
        parse(alone, "aware")
    with pytest.raises(RecipeError, match="embeddings"):
        parse(
            RECIPE.replace("[stages.quantization]\nembeddings = 4", "[stages.quantization]\nembeddings = 3"),
            "a",
        )
