"""Token pruning as a stage: trained, exported, quantized, held to the gate and published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from app.engines import load_engine
from app.errors import CompressionError, RecipeError
from app.tokenizer import Tokenizer
from compression import classifier
from compression.pruning.tokens import schedule_of, thresholds_of
from compression.recipe import parse
from compression.stages.tokens import REPORT_FILE
from compression.students import keep_layers
from tests.compression.finished import Finished, cheap_baseline, request, run
from tests.compression.tiny import tiny_classifier, write_data

RECIPE = """
name = "tiny"

[text]
max_tokens = 16

[[stages]]
name = "fewer-tokens"
kind = "tokens"
inputs = ["teacher", "teacher"]
keep = 0.5

[stages.training]
epochs = 1
learning_rate = 1e-3
precision = "fp32"

[[stages]]
name = "onnx"
kind = "export"
inputs = ["fewer-tokens"]

[[stages]]
name = "int8"
kind = "quantize"
inputs = ["onnx"]

[[stages]]
name = "out"
kind = "publish"
inputs = ["int8", "onnx"]
model = "short"

[stages.gate]
max_label_flip_rate = 0.3
max_accuracy_loss = 0.3
reason = "the texts are made up and few"
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tokens")
    classifier.save(tiny_classifier(), root / "teacher")
    write_data(root / "reviews")
    asked = request(root, teacher=str(root / "teacher"), backbone=None, recipe=parse(RECIPE, "tiny"))
    with cheap_baseline():
        return Finished(asked, run(asked))


def test_the_version_answers_as_its_pytorch_model_in_any_batch(published: Finished) -> None:
    assert published.outcome.refused == ()
    manifest, folder = published.manifest("short"), published.folder("short")
    fp32 = next(build for build in manifest.builds if build.precision == "fp32")
    assert fp32.batch_invariant
    saved = next((published.request.work / "stages").glob("fewer-tokens-*"))
    model = classifier.load(str(saved)).model
    assert schedule_of(model) == pytest.approx((0.5**0.5, 0.5))
    text = "i found the plot dull and the cast long"
    input_ids = Tokenizer(folder / "tokenizer.json", manifest.tokenizer).encode(text).input_ids[None, :]
    found = load_engine("onnx", folder / fp32.file, 1).logits(input_ids, np.ones_like(input_ids))
    with torch.no_grad():
        expected = model(torch.from_numpy(input_ids)).logits.numpy()
    assert np.abs(found - expected).max() < 1e-4


def test_a_model_that_prunes_tokens_keeps_its_layers(published: Finished, tmp_path: Path) -> None:
    saved = next((published.request.work / "stages").glob("fewer-tokens-*"))
    classifier.save(keep_layers(classifier.load(str(saved)), 2), tmp_path)
    with pytest.raises(CompressionError, match=r"2 token shares.* model of 2 layers, which takes 1"):
        classifier.load(str(tmp_path))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("1.0", "keeps every token"),
        ("[0.5, 0.6]", "tokens do not come back"),
        ("0.0", "keep"),
        ("1.5", "keep"),
        ("[]", "keep"),
        ('0.5\nmethod = "thresholds"', "leave keep out"),
        ("0.5\nthresholds = { weight = 0.1 }", "takes method = 'thresholds'"),
        ('0.5\nmethod = "thresholds"\nthresholds = { wieght = 0.1 }', "wieght"),
    ],
)
def test_shares_that_make_no_sense_are_refused_at_once(keep: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(RECIPE.replace("keep = 0.5", f"keep = {keep}"), "tiny")


def test_shares_must_be_said() -> None:
    with pytest.raises(RecipeError, match="needs keep"):
        parse(RECIPE.replace("keep = 0.5", ""), "tiny")


def test_learned_thresholds_are_published(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    classifier.save(tiny_classifier(), tmp_path / "teacher")
    write_data(tmp_path / "reviews")
    learned = """
method = "thresholds"

[stages.thresholds]
weight = 1.0
start = 0.97
learning_rate = 0.02

[stages.thresholds.training]
epochs = 1
learning_rate = 1e-3
precision = "fp32"
"""
    recipe = parse(RECIPE.replace("keep = 0.5", learned), "tiny")
    asked = request(tmp_path, teacher=str(tmp_path / "teacher"), backbone=None, recipe=recipe)
    with cheap_baseline():
        outcome = run(asked)
    assert outcome.refused == ()
    saved = next((asked.work / "stages").glob("fewer-tokens-*"))
    told = json.loads((saved / REPORT_FILE).read_text(encoding="utf-8"))
    model = classifier.load(str(saved)).model
    assert thresholds_of(model) == pytest.approx(told["thresholds"])
    first, second = told["share_kept"]
    assert 0 < second < first <= 1
    fp32 = next(build for build in outcome.published[0].manifest.builds if build.precision == "fp32")
    assert fp32.batch_invariant
