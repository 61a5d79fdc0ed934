"""Pruning as stages: by each importance, every kind of part, and single weights of what is left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.engines import load_engine
from app.errors import RecipeError
from app.tokenizer import Tokenizer
from compression import classifier, pipeline
from compression.architecture import describe
from compression.pruning import steps, unstructured
from compression.recipe import parse
from compression.stages.base import Context, Input
from compression.stages.pruning import PruneStage
from compression.stages.sparsity import REPORT_FILE, SparsifyStage
from compression.training import silent
from tests.compression.finished import Finished, cheap_baseline, request, run
from tests.compression.tiny import tiny_classifier, training, write_data

RECIPE = """
name = "hybrid"

[text]
max_tokens = 16

[[stages]]
name = "structured"
kind = "prune"
inputs = ["teacher", "teacher"]
importance = "gates"
heads = 0.25
ffn = 0.5
layers = 0.34
hidden = 0.25
steps = 1

[stages.gates.training]
epochs = 0.5
learning_rate = 1e-3
precision = "fp32"

[stages.training]
epochs = 1
learning_rate = 1e-3
precision = "fp32"

[[stages]]
name = "hybrid"
kind = "sparsify"
inputs = ["structured", "teacher"]
sparsity = 0.5
method = "movement"

[stages.training]
epochs = 1
learning_rate = 1e-3
precision = "fp32"

[[stages]]
name = "onnx"
kind = "export"
inputs = ["hybrid"]

[[stages]]
name = "int8"
kind = "quantize"
inputs = ["onnx"]

[[stages]]
name = "out"
kind = "publish"
inputs = ["int8", "onnx"]
model = "hybrid"

[stages.gate]
max_label_flip_rate = 0.3
max_accuracy_loss = 0.3
reason = "the texts are made up and few"
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("hybrid")
    classifier.save(tiny_classifier(), root / "teacher")
    write_data(root / "reviews")
    asked = request(root, teacher=str(root / "teacher"), backbone=None, recipe=parse(RECIPE, "tiny"))
    with cheap_baseline():
        return Finished(asked, run(asked))


@pytest.fixture
def context(published: Finished, tmp_path: Path) -> Context:
    prepared = pipeline._prepare(published.request, lambda _: silent)
    return replace(prepared, work=tmp_path, teacher=Input(stage_folder(published, "teacher"), "teacher"))


def stage_folder(finished: Finished, name: str) -> Path:
    return next((finished.request.work / "stages").glob(f"{name}-*"))


def test_hybrid_pruning_ends_in_a_version_smaller_in_every_way(published: Finished) -> None:
    assert published.outcome.refused == ()
    manifest, folder = published.manifest("hybrid"), published.folder("hybrid")
    model = classifier.load(str(stage_folder(published, "hybrid"))).model
    assert manifest.architecture == describe(model)
    assert (manifest.architecture.layers, manifest.architecture.hidden_size) == (2, 24)
    assert sum(manifest.architecture.attention_heads) == 6
    assert unstructured.sparsity(model) == pytest.approx(0.5, abs=1e-3)
    told = json.loads((stage_folder(published, "hybrid") / REPORT_FILE).read_text(encoding="utf-8"))
    assert told["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert told["bytes"]["zstd"] < told["bytes"]["file"]
    fp32 = next(build for build in manifest.builds if build.precision == "fp32")
    input_ids = (
        Tokenizer(folder / "tokenizer.json", manifest.tokenizer).encode("the plot dull").input_ids[None]
    )
    found = load_engine("onnx", folder / fp32.file, 1).logits(input_ids, np.ones_like(input_ids))
    with torch.no_grad():
        expected = model(torch.from_numpy(input_ids)).logits.numpy()
    assert np.abs(found - expected).max() < 1e-4


def stage(kind: type[PruneStage | SparsifyStage], **settings: Any) -> Any:
    settings = {"distillation": {"unlabelled_rows": 0}, "training": training(epochs=0.2), **settings}
    named = "prune" if kind is PruneStage else "sparsify"
    return kind.model_validate({"name": "cut", "inputs": ("teacher", "teacher"), "kind": named, **settings})


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_every_kind_goes_in_steps(importance: str, context: Context, tmp_path: Path) -> None:
    pruning = stage(PruneStage, importance=importance, heads=0.5, ffn=0.5, layers=0.34, hidden=0.25, steps=2)
    pruning.run([context.teacher, context.teacher], context, tmp_path / "cut")
    sizes = [
        steps.sizes(classifier.load(str(folder)).model)
        for folder in (tmp_path / "cut" / "step-1", tmp_path / "cut")
    ]
    assert [size.layers for size in sizes] == [2, 2]
    assert [size.elements for size in sizes] == [32, 24]  # 28 elements are no whole number of heads' sizes
    assert [size.heads for size in sizes] == [6, 4]
    assert sizes[1].neurons == 128


def test_gates_of_a_stopped_run_are_those_of_an_uninterrupted_one(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"importance": "gates", "heads": 0.5, "ffn": 0.5, "hidden": 0.25, "steps": 1}
    pruning = stage(PruneStage, **settings, gates={"training": training(epochs=0.5)})
    inputs = [context.teacher, context.teacher]
    pruning.run(inputs, context, tmp_path / "once")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(steps, "take_out", killed)
        pruning.run(inputs, context, tmp_path / "twice")
    pruning.run(inputs, context, tmp_path / "twice")
    once, twice = (classifier.load(str(tmp_path / name)).model.state_dict() for name in ("once", "twice"))
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_magnitudes_on_the_cubic_schedule(context: Context, tmp_path: Path) -> None:
    sparsify = stage(SparsifyStage, sparsity=0.8, steps=2, scope="layer")
    sparsify.run([context.teacher, context.teacher], context, tmp_path / "sparse")
    folders = [tmp_path / "sparse" / "step-1", tmp_path / "sparse"]
    models = [classifier.load(str(folder)).model for folder in folders]
    # 0.8 * (1 - 1/8) half way, and weights trained in between do not come back.
    assert [unstructured.sparsity(model) for model in models] == pytest.approx([0.7, 0.8], abs=2e-3)
    assert list(unstructured.sparsities(models[1]).values()) == pytest.approx([0.8] * 18, abs=2e-3)


REFUSED = [
    ("heads = 0.25\nffn = 0.5\nlayers = 0.34\nhidden = 0.25", "", "removes nothing"),
    ('importance = "gates"', "", "takes importance = 'gates'"),
    (
        "steps = 1",
        "steps = 1\ndistillation = {layer_map = [1, 2]}",
        "removes layers, and layer_map names them",
    ),
    ("steps = 1", "steps = 1\ndistillation = {hidden_weight = 1}", "makes states narrower"),
    ("hidden = 0.25", "widht = 0.25", "unknown key"),
    ("sparsity = 0.5", "sparsity = 1.0", "sparsity"),
]


@pytest.mark.parametrize(("line", "instead", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_at_once(line: str, instead: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(RECIPE.replace(line, instead), "tiny")
