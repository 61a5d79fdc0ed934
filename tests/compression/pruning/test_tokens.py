from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import PreTrainedModel

from app.engines import load_engine
from app.errors import CompressionError, UnsupportedModelError
from compression import export
from compression.batches import Batch
from compression.classifier import load, save
from compression.pruning import tokens
from compression.pruning.tokens import (
    attach,
    attach_thresholds,
    counts,
    even_schedule,
    kept,
    schedule_of,
    significance,
    thresholds_of,
)
from compression.token_graph import TokenPrunedGraph
from tests.compression.exported import answers
from tests.compression.pruning.slow_tokens import Choice, slow_answer, texts_of
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_classifier, tiny_model

SCHEDULE, THRESHOLDS = (0.75, 0.4), (0.96, 0.99)
Give = Callable[[PreTrainedModel, Sequence[float]], None]
GivenTo = Callable[[PreTrainedModel], tuple[float, ...]]


def by_shares(texts_length: int) -> Choice:
    """Those that received most, so many of the text's own length, the first token always."""

    def choose(layer: int, received: list[float]) -> tuple[list[int], list[float]]:
        count = max(1, math.ceil(SCHEDULE[layer] * texts_length - 1e-4))
        others = sorted(range(1, len(received)), key=lambda i: -received[i])
        chosen, left_out = [0, *others[: count - 1]], others[count - 1 :]
        limit = received[left_out[0]] if left_out else -math.inf
        return chosen, [1.0] + [min(1.0, (received[i] - limit) / 0.02) for i in chosen[1:]]

    return choose


@torch.no_grad()
def test_masking_is_deleting() -> None:
    model, batch = tiny_model().double(), random_batch(rows=6, longest=20)
    attach(model, SCHEDULE)
    expected = [slow_answer(model, ids, by_shares(len(ids)))[0] for ids in texts_of(batch)]
    assert torch.allclose(logits(model, batch), torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("give", "given_to", "values"),
    [(attach, schedule_of, SCHEDULE), (attach_thresholds, thresholds_of, THRESHOLDS)],
    ids=["shares", "thresholds"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_saved_loaded_and_exported_and_answers_the_same_in_any_batch(
    family: str, give: Give, given_to: GivenTo, values: tuple[float, ...], tmp_path: Path
) -> None:
    classifier, batch = tiny_classifier(family), random_batch(rows=6, longest=20)
    whole = logits(classifier.model, batch)
    if not tokens.gives_weights(classifier.model):
        with pytest.raises(UnsupportedModelError, match="takes transformers 5"):
            give(classifier.model, values)
        return
    give(classifier.model, values)
    expected = logits(classifier.model, batch)
    assert not torch.allclose(expected, whole, atol=1e-3)
    save(classifier, tmp_path / "saved")
    loaded = load(str(tmp_path / "saved")).model
    assert given_to(loaded) == values
    assert torch.equal(logits(loaded, batch), expected)
    export.to_onnx(loaded, tmp_path / "model.onnx", opset=17)
    assert np.abs(answers(tmp_path / "model.onnx", batch) - expected.numpy()).max() < 1e-4
    for row, ids in enumerate(texts_of(batch)):
        one = torch.tensor([ids])
        alone = Batch(one, torch.ones_like(one), torch.zeros(1), torch.arange(1))
        assert torch.allclose(logits(loaded, alone)[0], expected[row], atol=1e-4)
        assert np.abs(answers(tmp_path / "model.onnx", alone)[0] - expected[row].numpy()).max() < 1e-4


def test_later_layers_see_fewer_tokens(tmp_path: Path) -> None:
    model, lengths = tiny_model(), []
    attach(model, SCHEDULE)
    graph = TokenPrunedGraph(copy.deepcopy(model))
    for layer in graph.layers:
        layer.get_submodule("ffn_input").register_forward_pre_hook(
            lambda _, inputs: lengths.append(inputs[0].shape[1])
        )
    batch = random_batch(rows=3, longest=20)
    with torch.no_grad():
        graph(batch.input_ids, batch.attention_mask)
    assert lengths == [15, 8, 1]
    export.to_onnx(model, tmp_path / "model.onnx", opset=17)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for rows, length in ((1, 3), (2, 33), (5, 64)):
        inputs = {
            "input_ids": np.full((rows, length), 7, np.int64),
            "attention_mask": np.ones((rows, length), np.int64),
        }
        assert np.isfinite(session.run(None, inputs)[0]).all()


def test_the_traced_module_follows_the_length(tmp_path: Path) -> None:
    model, batch = tiny_model(), random_batch(rows=5, longest=31)
    attach(model, SCHEDULE)
    export.to_torchscript(model, tmp_path / "model.pt")
    engine = load_engine("torchscript", tmp_path / "model.pt", 1)
    found = engine.logits(batch.input_ids.numpy(), batch.attention_mask.numpy())
    assert np.abs(found - logits(model, batch).numpy()).max() < 1e-4


def test_significance_is_the_attention_received_from_those_present() -> None:
    generator = torch.Generator().manual_seed(0)
    presence = torch.tensor([[1.0, 1.0, 0.5, 0.0]])
    bias = tokens.attention_bias(presence)
    weights = (torch.randn(1, 2, 4, 4, generator=generator) + bias).softmax(-1)
    found = significance(weights, presence)[0]
    for j in (1, 2):
        slow = sum(float(presence[0, i] * weights[0, a, i, j]) / 2 for i in range(4) for a in range(2))
        assert float(found[j]) == pytest.approx(slow, rel=1e-5)
    assert float(found[0]) > 9000
    assert float(found[3]) == -1.0


def test_nothing_jumps_where_two_tokens_change_places() -> None:
    lengths = torch.tensor([[4]])
    just_below = kept(torch.tensor([[1e4, 2.0, 0.500001, 0.5]]), 0.75, lengths)
    just_above = kept(torch.tensor([[1e4, 2.0, 0.5, 0.500001]]), 0.75, lengths)
    assert torch.allclose(just_below, just_above, atol=1e-3)
    assert just_below[0, :2].tolist() == [1.0, 1.0]
    assert float(kept(torch.tensor([[1e4, 2.0, 0.51, 0.5]]), 0.75, lengths)[0, 2]) == pytest.approx(
        0.5, abs=1e-3
    )
    assert kept(torch.tensor([[1e4, 2.0, 0.5, 0.1]]), 1.0, lengths).tolist() == [[1.0] * 4]


def test_shares_are_of_a_texts_own_length() -> None:
    assert counts(0.3, torch.tensor([[10], [11], [1], [2]])).tolist() == [[3], [4], [1], [1]]
    assert even_schedule(0.25, 3) == pytest.approx((0.5, 0.25))
    assert even_schedule(0.3, 2) == pytest.approx((0.3,))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ((0.5,), "1 token shares.* model of 3 layers, which takes 2"),
        ((0.5, 0.6), "never rise"),
        ((0.5, 0.0), "between 0 and 1"),
        ((1.2, 0.5), "between 0 and 1"),
    ],
)
def test_schedules_that_make_no_sense(schedule: tuple[float, ...], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        attach(tiny_model(), schedule)


def test_a_copy_prunes_as_the_original_and_apart_from_it() -> None:
    model, batch = tiny_model(), random_batch(rows=6, longest=20)
    attach(model, SCHEDULE)
    copied = copy.deepcopy(model)
    attach(copied, (0.9, 0.9))
    assert schedule_of(model) == SCHEDULE
    assert not torch.allclose(logits(model, batch), logits(copied, batch), atol=1e-4)
    attach(copied, SCHEDULE)
    assert torch.equal(logits(model, batch), logits(copied, batch))
