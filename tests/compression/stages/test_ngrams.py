"""The n-gram student through the pipeline: distilled, exported, published, served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from app.artifact import TOKENIZER_FILE
from app.engines import load_engine
from app.errors import CompressionError, RecipeError, UnsupportedModelError
from app.tokenizer import Tokenizer
from compression import classifier
from compression.architecture import describe, family_of
from compression.evaluation import accuracy
from compression.recipe import parse, with_torchscript
from compression.stages.ngrams import NgramsStage
from tests.compression.finished import Finished, cheap_baseline, request, run
from tests.compression.tiny import made_up_reviews, tiny_classifier, write_data

RECIPE = """
name = "tiny"

[text]
max_tokens = 8

[[stages]]
name = "counting"
kind = "ngrams"
inputs = ["teacher"]
buckets = 4096
max_tokens = 40

[stages.distillation]
soft_weight = 0.0
hard_weight = 1.0
unlabelled_rows = -1

[[stages]]
name = "onnx"
kind = "ngrams-export"
inputs = ["counting"]

[[stages]]
name = "out"
kind = "publish"
inputs = ["onnx"]
model = "counting"
description = "Counts n-grams."
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("ngrams")
    classifier.save(tiny_classifier(), root / "teacher")
    write_data(root / "reviews")
    recipe = with_torchscript(parse(RECIPE, "tiny"))
    asked = request(root, teacher=str(root / "teacher"), backbone=None, recipe=recipe)
    with cheap_baseline():
        return Finished(asked, run(asked))


def stage_folder(finished: Finished, name: str) -> Path:
    return next((finished.request.work / "stages").glob(f"{name}-*"))


def test_it_is_published_as_any_model(published: Finished) -> None:
    assert published.outcome.refused == ()
    manifest = published.manifest("counting")
    assert manifest.architecture.family == "ngrams"
    assert manifest.architecture.layers == 0
    assert manifest.tokenizer.max_tokens == 40
    (build,) = manifest.builds
    assert (build.precision, build.batch_invariant, build.needs) == ("int8", True, ())
    assert build.parity is not None
    assert build.parity.max_logit_difference == 0
    assert build.batch_variance is not None
    assert build.batch_variance.max_probability_change == 0
    card = (published.folder("counting") / "README.md").read_text(encoding="utf-8")
    assert "n-grams" in card
    assert "attention heads per layer ," not in card


def test_it_answers_what_it_was_taught(published: Finished) -> None:
    manifest, folder = published.manifest("counting"), published.folder("counting")
    assert manifest.quality[0].accuracy > 0.95
    tokenizer = Tokenizer(folder / TOKENIZER_FILE, manifest.tokenizer)
    engine = load_engine("onnx", folder / manifest.builds[0].file, 1)
    rows = made_up_reviews()[900:1000]
    logits = [
        engine.logits(ids[None, :], np.ones_like(ids)[None, :])[0]
        for ids in (tokenizer.encode(text).input_ids for text, _ in rows)
    ]
    assert accuracy(np.stack(logits), np.array([label for _, label in rows])) > 0.95


def test_the_stage_says_what_rounding_cost(published: Finished) -> None:
    told = json.loads((stage_folder(published, "counting") / "ngrams.json").read_text(encoding="utf-8"))
    assert set(told) == {"reviews"}
    assert told["reviews"]["int8"] == pytest.approx(told["reviews"]["fp64"], abs=0.05)


def test_soft_labels_alone_are_its_teachers(published: Finished, tmp_path: Path) -> None:
    """Without true labels it learns what the teacher says, right or wrong: the random teacher's answers."""
    recipe = parse(RECIPE.replace("soft_weight = 0.0\nhard_weight = 1.0", "hard_weight = 0.0"), "tiny")
    asked = request(
        tmp_path,
        teacher=published.request.teacher,
        backbone=None,
        data=published.request.data,
        recipe=recipe,
    )
    with cheap_baseline():
        quality = run(asked).published[0].manifest.quality[0]
    assert quality.label_flip_rate is not None
    assert quality.label_flip_rate < 0.2
    assert quality.accuracy < 0.8


def test_it_is_no_transformer(published: Finished) -> None:
    model = classifier.load(str(stage_folder(published, "counting")))
    assert describe(model.model).family == "ngrams"
    with pytest.raises(UnsupportedModelError, match="counts n-grams has no layers to compress"):
        family_of(model.model.config)


def test_broken_tables_are_said_so(published: Finished, tmp_path: Path) -> None:
    for path in stage_folder(published, "counting").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / classifier.WEIGHTS_FILE).write_bytes(b"nothing")
    with pytest.raises(CompressionError, match="has no n-gram tables to load"):
        classifier.load(str(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("soft_weight = 0.0", "hidden_weight = 1.0", "makes a model without layers"),
        ("soft_weight = 0.0", "teacher_weights = [1.0, 2.0]", "1 teachers and 2 teacher_weights"),
        ('kind = "ngrams-export"', 'kind = "export"', "takes a model; 'counting' is a ngrams"),
        ("buckets = 4096", "buckets = 3", "buckets"),
    ],
)
def test_recipes_that_make_no_sense(old: str, new: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse(RECIPE.replace(old, new), "tiny")


def test_several_teachers() -> None:
    body = RECIPE.replace('inputs = ["teacher"]', 'inputs = ["teacher", "linear"]')
    linear = '[[stages]]\nname = "linear"\nkind = "linear-teacher"\n\n'
    recipe = parse(body.replace("[[stages]]", linear + "[[stages]]", 1), "tiny")
    assert isinstance(recipe.stages[1], NgramsStage)
