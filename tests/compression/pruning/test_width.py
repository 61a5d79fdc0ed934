from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from app.errors import RecipeError
from compression import export
from compression.architecture import classifier_width, describe, layer_shapes
from compression.batches import Batch
from compression.classifier import load, save
from compression.pruning import structured, width
from compression.pruning.structured import Kept
from compression.teacher import true_labels
from tests.compression.exported import answers
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_classifier, tiny_model

# Of 32 elements; a head has 8.
KEPT = [0, 1, 2, 3, 5, 8, 9, 11, 12, 13, 14, 15, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 30, 31]


def slow_importance(model: PreTrainedModel, batch: Batch, element: int) -> float:
    """The obvious way: a little more and a little less of the element after every LayerNorm."""
    step, losses = 1e-4, []
    for scale in (1 + step, 1 - step):
        factor = torch.ones(32, dtype=torch.float64)
        factor[element] = scale
        handles = [
            norm.register_forward_hook(lambda _, __, y, f=factor: y * f) for norm in width.norms(model)
        ]
        with torch.no_grad():
            losses.append(true_labels(model, batch))
        for handle in handles:
            handle.remove()
    return float(((losses[0] - losses[1]) / (2 * step)).abs().sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_the_slope_of_every_rows_loss(family: str) -> None:
    model, batch = tiny_model(family).double(), random_batch(rows=5)
    found = width.importance(model, true_labels, [batch])
    assert found.shape == (32,)
    some = range(0, 32, 5)
    expected = [slow_importance(model, batch, element) for element in some]
    assert found[some].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_loses_the_element(family: str) -> None:
    model = tiny_model(family)
    expected = {name: weight.clone() for name, weight in model.state_dict().items()}
    index = torch.tensor(KEPT)
    width.keep(model, KEPT)
    assert model.config.hidden_size == len(KEPT) == describe(model).hidden_size
    assert classifier_width(model) == 32
    for name, weight in model.state_dict().items():
        before = expected[name]
        for dimension, (size, was) in enumerate(zip(weight.shape, before.shape, strict=True)):
            if size != was:
                assert (was, size) == (32, len(KEPT)), name
                before = before.index_select(dimension, index)
        assert torch.equal(weight, before), name


@pytest.mark.parametrize("family", FAMILIES)
def test_elements_that_are_always_zero_change_nothing(family: str) -> None:
    """With them left out of the LayerNorms' statistics too, the answers are the smaller model's."""
    model, batch = tiny_model(family), random_batch()
    index = torch.tensor(KEPT)

    def narrow_norm(
        norm: torch.nn.LayerNorm, inputs: tuple[torch.Tensor, ...], _: torch.Tensor
    ) -> torch.Tensor:
        states = inputs[0]
        kept = torch.nn.functional.layer_norm(
            states[..., index], (len(KEPT),), norm.weight[index], norm.bias[index], norm.eps
        )
        return torch.zeros_like(states).index_copy(-1, index, kept)

    handles = [norm.register_forward_hook(narrow_norm) for norm in width.norms(model)]
    expected = logits(model, batch)
    for handle in handles:
        handle.remove()
    width.keep(model, KEPT)
    assert torch.allclose(logits(model, batch), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_narrow_and_shallow_it_is_saved_loaded_and_exported(family: str, tmp_path: Path) -> None:
    classifier, batch = tiny_classifier(family, layers=2), random_batch()
    heads, neurons = [[1], [0, 2, 3]], [list(range(0, 128, 4)), list(range(5, 101))]
    structured.remove(classifier.model, Kept(heads, neurons))
    width.keep(classifier.model, KEPT)
    expected = logits(classifier.model, batch)
    save(classifier, tmp_path / "saved")
    loaded = load(str(tmp_path / "saved")).model
    assert torch.equal(logits(loaded, batch), expected)
    assert layer_shapes(loaded) == layer_shapes(classifier.model)
    assert (loaded.config.hidden_size, classifier_width(loaded)) == (24, 32)
    export.to_onnx(loaded, tmp_path / "model.onnx", opset=17)
    assert np.abs(answers(tmp_path / "model.onnx", batch) - expected.numpy()).max() < 1e-4


def test_magnitude_is_the_norm_of_all_that_reads_and_writes() -> None:
    model = tiny_model()
    squares = torch.zeros(32)
    for name, weight in model.state_dict().items():
        if "pooler" in name or "classifier" in name or "LayerNorm" in name or weight.ndim < 2:
            continue
        inner = any(
            part in name for part in ("attention.output.dense", "layer.0.output", "1.output", "2.output")
        )
        squares += weight.square().sum(1 if inner else 0)
    assert width.magnitude(model).tolist() == pytest.approx(squares.sqrt().tolist(), rel=1e-5)


def test_as_many_as_whole_heads_have() -> None:
    scores = torch.arange(32.0)
    assert width.choose(scores, 21, multiple=8) == list(range(8, 32))
    assert width.choose(scores, 1, multiple=8) == list(range(24, 32))
    assert width.choose(scores, 32, multiple=8) == list(range(32))
    with pytest.raises(RecipeError, match="23 elements are no multiple of the size of a head, 8"):
        width.keep(tiny_model(), KEPT[:-1])


def test_the_importance_of_an_element_nobody_reads_is_nothing() -> None:
    model = tiny_model()
    with torch.no_grad():
        for norm in width.norms(model):
            norm.weight[7] = norm.bias[7] = 0.0
    scores = width.importance(model, true_labels, [random_batch(rows=8)])
    assert scores[7] == 0
    assert (scores > 0).sum() == 31
