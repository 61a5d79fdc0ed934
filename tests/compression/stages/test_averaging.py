"""The stage that averages models."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from app.errors import CompressionError, RecipeError
from compression import classifier
from compression.classifier import Classifier
from compression.pruning.vocabulary import keep_rows
from compression.recipe import parse
from compression.stages.averaging import AverageStage
from compression.stages.base import Context, Input
from tests.compression.pruning.wordpieces import classifier_with, wordpiece_tokenizer

NO_CONTEXT = cast(Context, None)


def stage(weights: tuple[float, ...] = ()) -> AverageStage:
    return AverageStage(name="mean", kind="average", inputs=("one", "other"), weights=weights)


def saved(model: Classifier, folder: Path) -> Input:
    folder.mkdir()
    classifier.save(model, folder)
    return Input(folder, folder.name)


def moved(model: Classifier, by: float) -> Classifier:
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(by)
    return model


def weight(model: Classifier) -> torch.Tensor:
    return cast(torch.Tensor, model.model.get_input_embeddings().weight)


def test_the_mean_of_two_is_a_model_again(tmp_path: Path) -> None:
    one = classifier_with(wordpiece_tokenizer())
    inputs = [saved(one, tmp_path / "one"), saved(moved(one, 1.0), tmp_path / "other")]
    (tmp_path / "mean").mkdir()
    stage((3.0, 1.0)).run(inputs, NO_CONTEXT, tmp_path / "mean")
    first = weight(classifier.load(str(tmp_path / "one")))
    assert torch.allclose(weight(classifier.load(str(tmp_path / "mean"))), first + 0.25, atol=1e-6)


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    one = classifier_with(wordpiece_tokenizer())
    fewer = keep_rows(one, sorted(one.tokenizer.get_vocab().values())[:-1])
    inputs = [saved(one, tmp_path / "one"), saved(fewer, tmp_path / "other")]
    with pytest.raises(CompressionError, match="different tokenizers"):
        stage().run(inputs, NO_CONTEXT, tmp_path)


@pytest.mark.parametrize(
    ("inputs", "weights", "said"),
    [
        ('["teacher"]', "[]", "2 to 16 inputs"),
        ('["teacher", "teacher"]', "[1, 2, 3]", "2 inputs and 3 weights"),
    ],
)
def test_a_recipe_that_makes_no_sense(inputs: str, weights: str, said: str) -> None:
    recipe = f"""
name = "tiny"
[[stages]]
name = "mean"
kind = "average"
inputs = {inputs}
weights = {weights}
"""
    with pytest.raises(RecipeError, match=said):
        parse(recipe, "tiny.toml")
