from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch

from app.errors import CompressionError, UnsupportedModelError
from compression import early_exit
from compression.pruning.token_thresholds import (
    ThresholdObjective,
    rising_thresholds,
    shares_kept,
    soft_mask,
)
from compression.pruning.tokens import attach, attach_thresholds
from compression.teacher import true_labels
from compression.token_graph import TokenPrunedGraph
from compression.training import train
from tests.compression.pruning.slow_tokens import slow_answer, texts_of
from tests.compression.tiny import (
    logits,
    random_batch,
    rows_of,
    tiny_model,
    training,
)

THRESHOLDS = (0.96, 0.99)


def above_thresholds(layer: int, received: list[float]) -> tuple[list[int], list[float]]:
    """All that received more than the layer's threshold, the first token always."""
    limit = THRESHOLDS[layer]
    above = [i for i in range(len(received)) if i == 0 or received[i] > limit]
    return above, [1.0] + [min(1.0, (received[i] - limit) / 0.02) for i in above[1:]]


@torch.no_grad()
def test_tokens_below_the_threshold_are_gone() -> None:
    model, batch = tiny_model().double(), random_batch(rows=8, longest=20)
    attach_thresholds(model, THRESHOLDS)
    plain = tiny_model().double()
    expected, left = zip(*(slow_answer(plain, ids, above_thresholds) for ids in texts_of(batch)), strict=True)
    assert torch.allclose(logits(model, batch), torch.stack(expected), atol=1e-5)
    shares = [counts[0] / len(ids) for counts, ids in zip(left, texts_of(batch), strict=True)]
    assert min(shares) < max(shares), "how many stay is the text's own affair"


@torch.no_grad()
def test_later_layers_see_what_the_text_with_most_keeps() -> None:
    model, lengths, batch = tiny_model(), [], random_batch(rows=5, longest=20)
    attach_thresholds(model, THRESHOLDS)
    graph = TokenPrunedGraph(copy.deepcopy(model))
    for layer in graph.layers:
        layer.get_submodule("ffn_input").register_forward_pre_hook(
            lambda _, inputs: lengths.append(inputs[0].shape[1])
        )
    graph(batch.input_ids, batch.attention_mask)
    left = [slow_answer(tiny_model(), ids, above_thresholds)[1] for ids in texts_of(batch)]
    assert lengths == [max(counts[0] for counts in left), max(counts[1] for counts in left), 1]


def test_the_soft_mask_is_the_papers() -> None:
    scores, threshold = torch.tensor([[0.2, 0.5, 0.9]]), torch.tensor(0.5)
    slow = [1 / (1 + math.exp(-(score - 0.5) / 0.1)) for score in (0.2, 0.5, 0.9)]
    assert soft_mask(scores, threshold, 0.1)[0].tolist() == pytest.approx(slow)
    sharp = soft_mask(scores, threshold, 1e-4)[0].tolist()
    assert sharp == pytest.approx([0.0, 0.5, 1.0])
    assert rising_thresholds(0.3, 4).tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_thresholds_have_the_slope_of_the_loss() -> None:
    model, batch = tiny_model().double(), random_batch(rows=4, longest=12)
    objective = ThresholdObjective(true_labels, model, 0.5, 0.2, 0.6, rows=4, pace=1.0).double()
    with objective.attached():
        loss = objective(model, batch).sum()
        loss.backward()
        slope = objective.thresholds.grad
        assert slope is not None
        for layer in range(2):
            moved = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    objective.thresholds[layer] += step
                    moved.append(float(objective(model, batch).sum()))
                    objective.thresholds[layer] -= step
            # The pass computes significance in fp32.
            assert float(slope[layer]) == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=0.1, abs=0.05)


def test_what_staying_costs_decides_how_many_stay(tmp_path: Path) -> None:
    rows = rows_of(96, tmp_path)
    learned, kept = [], []
    for weight in (0.0, 5.0):
        model = tiny_model()
        objective = ThresholdObjective(true_labels, model, weight, 0.1, 0.5, rows=96, pace=100.0)
        with objective.attached():
            train(
                model,
                objective,
                rows,
                rows,
                training(epochs=1),
                tmp_path / f"{weight}",
                judge=objective.judge,
            )
        learned.append(objective.learned())
        attach_thresholds(model, objective.learned())
        kept.append(shares_kept(model, rows, range(96)))
    assert all(much > little for little, much in zip(*learned, strict=True))
    assert all(many > few for many, few in zip(*kept, strict=True))


def test_hooks_are_gone_afterwards() -> None:
    model, batch = tiny_model(), random_batch()
    before = logits(model, batch)
    with ThresholdObjective(true_labels, model, 1.0, 0.1, 0.8, rows=4, pace=1.0).attached():
        assert not torch.equal(logits(model, batch), before)
    assert torch.equal(logits(model, batch), before)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(CompressionError, match=r"1 token thresholds.* model of 3 layers, which takes 2"):
        attach_thresholds(tiny_model(), (0.5,))
    by_share, by_threshold = tiny_model(), tiny_model()
    attach(by_share, (0.5, 0.5))
    attach_thresholds(by_threshold, THRESHOLDS)
    with pytest.raises(CompressionError, match="by shares already"):
        attach_thresholds(by_share, THRESHOLDS)
    with pytest.raises(CompressionError, match="by thresholds already"):
        attach(by_threshold, (0.5, 0.5))
    with pytest.raises(UnsupportedModelError, match="early exit takes"):
        early_exit.attach(by_threshold, (1,))
