from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from compression.architecture import encoder_layers, family_of, layer_shapes, linear
from compression.batches import Batch
from compression.classifier import load, save
from compression.pruning.structured import (
    FFN_MULTIPLE,
    Importance,
    Kept,
    choose,
    importance,
    magnitude,
    remove,
)
from compression.teacher import true_labels
from tests.compression.tiny import (
    FAMILIES,
    UNEVEN,
    logits,
    random_batch,
    tiny_classifier,
    tiny_model,
    uneven_classifier,
)

SIZE = 8


def losses(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return true_labels(model, batch)


def slow_importance(model: PreTrainedModel, batch: Batch, path: str, layer: int, columns: slice) -> float:
    """The obvious way: scale the part's output a little up and down, and see what each row's loss does."""
    weight = linear(encoder_layers(model)[layer], path).weight
    before, step, answers = weight.detach().clone(), 1e-4, []
    for scale in (1 + step, 1 - step):
        with torch.no_grad():
            weight[:, columns] = before[:, columns] * scale
            answers.append(losses(model, batch))
            weight.copy_(before)
    return float(((answers[0] - answers[1]) / (2 * step)).abs().sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_the_slope_of_every_rows_loss(family: str) -> None:
    model = tiny_model(family).double()
    batch = random_batch(rows=5)
    found = importance(model, true_labels, [batch])
    names = family_of(model.config)
    for layer in range(3):
        heads = [
            slow_importance(model, batch, names.attention_output, layer, slice(h * SIZE, (h + 1) * SIZE))
            for h in range(4)
        ]
        assert found.heads[layer].tolist() == pytest.approx(heads, rel=1e-3, abs=1e-6)
        some = range(0, 128, 16)
        neurons = [slow_importance(model, batch, names.ffn_output, layer, slice(n, n + 1)) for n in some]
        assert found.neurons[layer][some].tolist() == pytest.approx(neurons, rel=1e-3, abs=1e-6)


def test_importance_is_added_up_over_rows_and_batches() -> None:
    model = tiny_model()
    whole = random_batch(rows=6)
    rows = [
        Batch(
            *(
                part[index : index + 1]
                for part in (whole.input_ids, whole.attention_mask, whole.labels, whole.rows)
            )
        )
        for index in range(6)
    ]
    together, one_by_one = importance(model, true_labels, [whole]), importance(model, true_labels, rows)
    for found, expected in zip(
        together.heads + together.neurons, one_by_one.heads + one_by_one.neurons, strict=True
    ):
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_importance_leaves_the_model_as_it_was() -> None:
    model = tiny_model()
    model.get_submodule("classifier").requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    answer = logits(model, random_batch())
    importance(model, true_labels, [random_batch()])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.get_submodule("classifier").parameters())
    assert all(parameter.requires_grad for parameter in model.get_submodule("bert").parameters())
    assert torch.equal(logits(model, random_batch()), answer)


def test_a_head_without_a_way_out_does_not_matter() -> None:
    model = tiny_model()
    with torch.no_grad():
        linear(encoder_layers(model)[1], "attention.output.dense").weight[:, SIZE : 2 * SIZE] = 0
        linear(encoder_layers(model)[2], "output.dense").weight[:, 77] = 0
    found = importance(model, true_labels, [random_batch()])
    assert found.heads[1][1] == 0
    assert found.neurons[2][77] == 0
    assert (torch.cat(found.heads) > 0).sum() == 11


def masked(model: PreTrainedModel, kept: Kept) -> PreTrainedModel:
    """The obvious way: leave everything in and let nothing out."""
    model = copy.deepcopy(model)
    names = family_of(model.config)
    for layer, heads, neurons in zip(encoder_layers(model), kept.heads, kept.neurons, strict=True):
        columns = {head * SIZE + offset for head in heads for offset in range(SIZE)}
        _silence(linear(layer, names.attention_output), columns)
        _silence(linear(layer, names.ffn_output), set(neurons))
    return model


def _silence(part: nn.Linear, columns: set[int]) -> None:
    with torch.no_grad():
        for column in range(part.in_features):
            if column not in columns:
                part.weight[:, column] = 0


@pytest.mark.parametrize("family", FAMILIES)
def test_removed_is_as_good_as_masked(family: str) -> None:
    original = tiny_model(family)
    pruned = uneven_classifier(family).model
    batch = random_batch()
    expected = logits(masked(original, UNEVEN), batch)
    assert torch.allclose(logits(pruned, batch), expected, atol=1e-5)
    assert not torch.allclose(expected, logits(original, batch), atol=1e-2)
    assert [(shape.heads, shape.ffn_width) for shape in layer_shapes(pruned)] == [(1, 32), (3, 96), (2, 64)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_can_be_saved_trained_and_pruned_again(family: str, tmp_path: Path) -> None:
    pruned = uneven_classifier(family)
    save(pruned, tmp_path)
    loaded = load(str(tmp_path)).model
    assert torch.equal(logits(loaded, random_batch()), logits(pruned.model, random_batch()))
    scores = importance(loaded, true_labels, [random_batch()])
    assert [len(score) for score in scores.heads] == [1, 3, 2]
    kept = choose(scores, 4, 160)
    remove(loaded, kept)
    assert sum(shape.heads for shape in layer_shapes(loaded)) == 4
    assert logits(loaded, random_batch()).shape == (4, 2)
    true_labels(loaded, random_batch()).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder_layers(loaded).parameters())


def test_the_most_important_parts_are_kept_over_all_layers() -> None:
    scores = Importance(
        heads=[torch.tensor([3.0, 4.0, 0.0]), torch.tensor([0.8, 0.0, 0.6])],
        neurons=[torch.ones(64), torch.ones(64)],
    )
    # Divided by their layer's norm: 0.6, 0.8, 0 and 0.8, 0, 0.6.
    assert choose(scores, 2, 128).heads == [[1], [0]]
    assert choose(scores, 4, 128).heads == [[0, 1], [0, 2]]
    assert choose(scores, 6, 128).heads == [[0, 1, 2], [0, 1, 2]]


def test_layers_may_end_uneven_but_never_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    strong, weak = torch.rand(128, generator=generator) + 10, torch.zeros(128)
    weak[5] = 1.0
    kept = choose(Importance([torch.tensor([1.0, 1.0]), torch.zeros(2)], [strong, weak]), 2, 129)
    assert [len(heads) for heads in kept.heads] == [2, 1]
    assert kept.neurons[0] == list(range(128))
    assert len(kept.neurons[1]) == FFN_MULTIPLE
    assert 5 in kept.neurons[1]


@pytest.mark.parametrize("count", [0, 1, 32, 100, 200, 256])
def test_widths_are_multiples_and_close_to_what_was_asked(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    neurons = [torch.rand(128, generator=generator) for _ in range(2)]
    kept = choose(Importance([torch.ones(1)] * 2, neurons), 2, count)
    for layer, score in zip(kept.neurons, neurons, strict=True):
        assert len(layer) % FFN_MULTIPLE == 0
        assert layer == sorted(set(layer))
        dropped = sorted(set(range(128)) - set(layer))
        assert not dropped or score[layer].min() >= score[dropped].max()
    assert abs(sum(map(len, kept.neurons)) - max(count, 64)) <= FFN_MULTIPLE


def test_nothing_is_rounded_away_where_everything_is_kept() -> None:
    kept = choose(Importance([torch.rand(4)], [torch.rand(100)]), 4, 100)
    assert kept == Kept([[0, 1, 2, 3]], [list(range(100))])


def test_one_head_is_always_left() -> None:
    kept = choose(Importance([torch.rand(4), torch.rand(4)], [torch.rand(64)] * 2), 0, 128)
    assert all(kept.heads)


def test_removing_nothing_changes_nothing() -> None:
    original = tiny_classifier().model
    pruned = copy.deepcopy(original)
    remove(pruned, Kept([list(range(4))] * 3, [list(range(128))] * 3))
    assert torch.equal(logits(pruned, random_batch()), logits(original, random_batch()))


@pytest.mark.parametrize("family", FAMILIES)
def test_magnitude_is_the_norm_of_what_belongs_to_a_part(family: str) -> None:
    model = tiny_model(family)
    found, names = magnitude(model), family_of(model.config)
    layer = encoder_layers(model)[1]
    rows = slice(2 * SIZE, 3 * SIZE)
    parts = [linear(layer, path) for path in (names.query, names.key, names.value)]
    values = [value for part in parts for value in (part.weight[rows].flatten(), part.bias[rows])]
    values.append(linear(layer, names.attention_output).weight[:, rows].flatten())
    assert found.heads[1][2] == pytest.approx(float(torch.cat(values).detach().norm()), rel=1e-5)
    into, out = linear(layer, names.ffn_input), linear(layer, names.ffn_output)
    values = [into.weight[9], into.bias[9:10], out.weight[:, 9]]
    assert found.neurons[1][9] == pytest.approx(float(torch.cat(values).detach().norm()), rel=1e-5)
    assert [len(part) for part in (*found.heads, *found.neurons)] == [4] * 3 + [128] * 3


def test_scores_that_compare_across_layers_are_not_divided() -> None:
    heads = [torch.tensor([0.9, 0.8]), torch.tensor([0.2, 0.1])]
    neurons = [torch.ones(64), torch.ones(64) * 2]
    scores = Importance(heads, neurons)
    assert choose(scores, 2, 64, by_layer=False).heads == [[0, 1], [0]]
    assert [len(kept) for kept in choose(scores, 2, 64, by_layer=False).neurons] == [FFN_MULTIPLE, 64]
    assert choose(scores, 2, 64).heads == [[0], [0]]
