"""The shipped recipe `mobilebert`, with settings for a tiny teacher, from teacher to published version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from app.engines import load_engine
from app.tokenizer import Tokenizer
from compression import classifier
from compression.recipe import Recipe, load
from tests.compression.finished import cheap_baseline, request, run
from tests.compression.tiny import FAMILIES, tiny_classifier, write_data


def quick(recipe: Recipe) -> Recipe:
    """The same stages with little training, short texts and a gate for made-up ones."""
    stages = []
    for stage in recipe.stages:
        if hasattr(stage, "training"):
            training = stage.training.model_copy(update={"epochs": 0.5, "precision": "fp32"})
            stage = stage.model_copy(update={"training": training})
        if stage.kind == "publish":
            loose = {"max_label_flip_rate": 0.3, "max_accuracy_loss": 0.3, "reason": "made up"}
            stage = stage.model_copy(update={"gate": stage.gate.model_copy(update=loose)})
            stage = stage.model_copy(update={"inputs": (*stage.inputs, "mobilebert-onnx")})
        stages.append(stage)
    text = recipe.text.model_copy(update={"max_tokens": 16, "head_tokens": 8})
    return recipe.model_copy(update={"stages": tuple(stages), "text": text})


@pytest.mark.parametrize("family", FAMILIES)
def test_mobilebert_from_a_teacher_of_every_family(family: str, tmp_path: Path) -> None:
    classifier.save(tiny_classifier(family), tmp_path / "teacher")
    write_data(tmp_path / "reviews")
    asked = request(
        tmp_path, teacher=str(tmp_path / "teacher"), backbone=None, recipe=quick(load("mobilebert"))
    )
    with cheap_baseline():
        outcome = run(asked)
    assert outcome.refused == ()
    (version,) = outcome.published
    manifest = version.manifest
    assert (manifest.architecture.family, manifest.architecture.layers) == ("mobilebert", 3)
    fp32 = next(build for build in manifest.builds if build.precision == "fp32")
    assert fp32.batch_invariant
    model = classifier.load(str(next((asked.work / "stages").glob("prediction-*")))).model
    text = "i found the plot dull and the cast long"
    input_ids = Tokenizer(version.folder / "tokenizer.json", manifest.tokenizer).encode(text).input_ids[None]
    found = load_engine("onnx", version.folder / fp32.file, 1).logits(input_ids, np.ones_like(input_ids))
    with torch.no_grad():
        expected = model(torch.from_numpy(input_ids)).logits.numpy()
    assert np.abs(found - expected).max() < 1e-4
