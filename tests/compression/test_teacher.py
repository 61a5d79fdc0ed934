from __future__ import annotations

import math

import pytest
import torch

from app.artifact import Head
from compression.batches import Batch
from compression.teacher import smoothed_labels, true_label_loss, true_labels
from tests.compression.tiny import logits, random_batch, tiny_model

TWO = (Head(name="label", labels=("no", "yes")), Head(name="rating", labels=("1", "2", "3")))


def rated() -> Batch:
    plain = random_batch()
    further = torch.tensor([[2], [-1], [0], [-1]])
    labels = torch.tensor([1, 0, -1, -1])
    return Batch(plain.input_ids, plain.attention_mask, labels, plain.rows, further)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_mean_over_heads_by_its_definition(smoothing: float) -> None:
    answers = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    found = true_label_loss(answers, rated(), TWO, smoothing)
    for row in range(4):
        total = 0.0
        for part, label in ((slice(0, 2), rated().labels[row]), (slice(2, 5), rated().further[row, 0])):
            if label < 0:
                continue
            scores = [math.exp(score) for score in answers[row, part].tolist()]
            for index, score in enumerate(scores):
                share = (1 - smoothing) * (index == int(label)) + smoothing / len(scores)
                total -= share * math.log(score / sum(scores))
        assert float(found[row]) == pytest.approx(total / 2, abs=1e-5)


def test_a_model_of_one_head_learns_its_labels() -> None:
    model, batch = tiny_model(), random_batch()
    expected = torch.nn.functional.cross_entropy(logits(model, batch), batch.labels, reduction="none")
    assert torch.allclose(true_labels(model, batch).detach(), expected, atol=1e-6)
    smoothed = smoothed_labels(0.1)(model, batch).detach()
    assert not torch.allclose(smoothed, expected, atol=1e-3)
