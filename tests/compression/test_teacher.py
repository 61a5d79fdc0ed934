from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.artifact import Head
from app.errors import DataError
from compression.batches import Batch, Rows
from compression.evaluation import true_label_loss
from compression.teacher import check_labels, smoothed_labels, true_labels
from compression.training import train
from tests.compression.tiny import logits, random_batch, rows_of, tiny_model, training

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


def test_a_teacher_whose_labels_stand_in_another_order(tmp_path: Path) -> None:
    model = tiny_model(layers=1)
    rows = rows_of(300, tmp_path)
    train(model, true_labels, rows, rows, training(epochs=3), tmp_path / "run")
    check_labels(model, rows)
    other = replace(rows.corpora[0], labels=1 - rows.labels, name="reviews")
    said = r"is right about [0-9.]+% of 200 validation texts of reviews, less than chance: do its labels, neg"
    with pytest.raises(DataError, match=said):
        check_labels(model, Rows(rows.corpora[0], other))


def test_a_model_of_one_head_learns_its_labels() -> None:
    model, batch = tiny_model(), random_batch()
    expected = torch.nn.functional.cross_entropy(logits(model, batch), batch.labels, reduction="none")
    assert torch.allclose(true_labels(model, batch).detach(), expected, atol=1e-6)
    smoothed = smoothed_labels(0.1)(model, batch).detach()
    assert not torch.allclose(smoothed, expected, atol=1e-3)
