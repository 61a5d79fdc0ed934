"""A student with fewer vocabulary rows than its teacher: distilled, pruned, exported and published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.artifact import TOKENIZER_FILE
from app.engines import load_engine
from app.errors import RecipeError
from app.tokenizer import Tokenizer
from compression import classifier
from compression.distillation.objective import DistillationSettings
from compression.recipe import parse
from compression.stages.base import Context, Input
from compression.stages.reading import read_by
from compression.stages.training import distil
from compression.training import silent
from tests.compression.finished import Finished, cheap_baseline, request, run
from tests.compression.pruning.wordpieces import classifier_with, wordpiece_tokenizer
from tests.compression.tiny import training, write_data

ROWS = 110
RECIPE = f"""
name = "tiny"

[text]
max_tokens = 32

[[stages]]
name = "fewer"
kind = "vocabulary"
inputs = ["teacher"]
rows = {ROWS}

[[stages]]
name = "distilled"
kind = "distil"
inputs = ["fewer", "teacher"]

[stages.distillation]
unlabelled_rows = -1

[stages.training]
epochs = 1
precision = "fp32"

[[stages]]
name = "pruned"
kind = "prune"
inputs = ["distilled", "teacher"]
heads = 0.3
ffn = 0.5
steps = 1
importance_rows = 64

[stages.training]
epochs = 0.5
precision = "fp32"

[[stages]]
name = "onnx"
kind = "export"
inputs = ["pruned"]

[[stages]]
name = "int8"
kind = "quantize"
inputs = ["onnx"]

[[stages]]
name = "out"
kind = "publish"
inputs = ["int8", "onnx"]
model = "small"

[stages.gate]
max_label_flip_rate = 0.2
max_accuracy_loss = 0.2
reason = "the texts are made up and few"
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("vocabulary")
    classifier.save(classifier_with(wordpiece_tokenizer()), root / "teacher")
    write_data(root / "reviews")
    asked = request(root, teacher=str(root / "teacher"), backbone=None, recipe=parse(RECIPE, "tiny"))
    with cheap_baseline():
        return Finished(asked, run(asked))


def stage_folder(finished: Finished, name: str) -> Path:
    return next((finished.request.work / "stages").glob(f"{name}-*"))


def test_the_version_has_fewer_rows_and_its_own_tokenizer(published: Finished) -> None:
    assert published.outcome.refused == ()
    manifest = published.manifest("small")
    assert manifest.architecture.vocabulary == ROWS
    assert len(set(manifest.architecture.attention_heads)) > 1
    folder = published.folder("small")
    tokenizer = Tokenizer(folder / TOKENIZER_FILE, manifest.tokenizer)
    assert tokenizer.encode("a wonderful unheard of zebra").input_ids.max() < ROWS
    teacher = Tokenizer(stage_folder(published, "teacher") / TOKENIZER_FILE, manifest.tokenizer)
    text = "after an hour the hero gripping and the story long"
    assert len(tokenizer.encode(text).input_ids) > len(teacher.encode(text).input_ids)


def test_its_builds_answer_as_the_pytorch_model(published: Finished) -> None:
    manifest, folder = published.manifest("small"), published.folder("small")
    model = classifier.load(str(stage_folder(published, "pruned")))
    for text in ("i found the plot dull and the cast long", "an unheard of thing"):
        input_ids = Tokenizer(folder / TOKENIZER_FILE, manifest.tokenizer).encode(text).input_ids[None, :]
        mask = np.ones_like(input_ids)
        with torch.no_grad():
            expected = model.model(torch.from_numpy(input_ids), torch.from_numpy(mask)).logits.numpy()
        fp32 = next(build for build in manifest.builds if build.precision == "fp32")
        found = load_engine("onnx", folder / fp32.file, 1).logits(input_ids, mask)
        assert np.abs(found - expected).max() < 1e-4


def test_what_was_kept_is_stated(published: Finished) -> None:
    told = json.loads((stage_folder(published, "fewer") / "vocabulary.json").read_text(encoding="utf-8"))
    assert told["rows"] == ROWS
    assert told["of"] > ROWS > told["never_dropped"]
    assert list(told["token_coverage"]) == ["reviews"]
    assert 0.5 < told["token_coverage"]["reviews"] < 1


@pytest.fixture
def context(published: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """The context its stages had."""
    from compression import pipeline

    prepared = pipeline._prepare(published.request, lambda _: silent)
    return Context(**{**vars(prepared), "work": tmp_path})


def test_rows_keep_their_numbers(published: Finished, context: Context) -> None:
    own = read_by(classifier.load(str(stage_folder(published, "fewer"))), context)
    theirs, ours = context.training_rows(-1), own.training_rows(-1)
    assert theirs.fingerprint != ours.fingerprint
    assert np.array_equal(theirs.labels, ours.labels)
    assert [corpus.texts for corpus in theirs.corpora] == [corpus.texts for corpus in ours.corpora]
    assert ours.lengths.sum() > theirs.lengths.sum()


def test_the_same_tokenizer_reads_the_same_corpora(published: Finished, context: Context) -> None:
    same = read_by(classifier.load(str(stage_folder(published, "teacher"))), context)
    assert same.training_rows(-1).fingerprint == context.training_rows(-1).fingerprint


def test_the_teacher_is_asked_with_its_own_ids(
    published: Finished, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def spy(teacher: Any, key: str, rows: Any, *rest: Any) -> torch.Tensor:
        asked.append(rows.fingerprint)
        return torch.zeros(len(rows), 2)

    monkeypatch.setattr("compression.stages.training.teacher_logits", spy)
    student = classifier.load(str(stage_folder(published, "fewer")))
    settings = training(epochs=0.1)
    folder = context.work / "distilled"
    distil(student, [context.teacher], DistillationSettings(), settings, context, folder, "distilled")
    assert asked == [context.training_rows().fingerprint]


def test_token_by_token_losses_need_the_same_tokens(published: Finished, context: Context) -> None:
    student = classifier.load(str(stage_folder(published, "fewer")))
    settings = DistillationSettings(hidden_weight=1.0)
    with pytest.raises(RecipeError, match="late: layers are compared token by token"):
        distil(student, [context.teacher], settings, training(), context, context.work, "late")


def test_a_recipe_that_would_compare_other_tokens_is_refused_at_once() -> None:
    body = RECIPE.replace("unlabelled_rows = -1", "hidden_weight = 0.5")
    with pytest.raises(RecipeError) as raised:
        parse(body, "tiny")
    assert "stage 'distilled' compares layers token by token" in str(raised.value)
    assert "'fewer' has another tokenizer than 'teacher'" in str(raised.value)
    # From a teacher that was pruned itself it may.
    assert parse(body.replace('["fewer", "teacher"]', '["fewer", "fewer"]'), "tiny")


def test_too_few_rows_are_refused(published: Finished, context: Context) -> None:
    stage: Any = parse(RECIPE.replace(f"rows = {ROWS}", "rows = 3"), "tiny").stages[0]
    inputs = [Input(stage_folder(published, "teacher"), "key")]
    with pytest.raises(RecipeError, match="3 vocabulary rows asked for"):
        stage.run(inputs, context, context.work)


@pytest.mark.parametrize("rows", ["0", "1.0", "0.0", "-0.5", "1.5"])
def test_rows_that_make_no_sense(rows: str) -> None:
    with pytest.raises(RecipeError, match="rows"):
        parse(RECIPE.replace(f"rows = {ROWS}", f"rows = {rows}"), "tiny")
