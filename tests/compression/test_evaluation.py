from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from app.artifact import Head
from compression.batches import Batch
from compression.evaluation import (
    Scores,
    accuracy,
    accuracy_interval,
    batches,
    flip_rate,
    mean_of,
    probabilities,
    score,
)
from tests.compression.tiny import rows_of

LOGITS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, 50)


def test_score_is_the_same_in_any_batches(tmp_path: Path) -> None:
    rows = rows_of(40, tmp_path)

    def predict(batch: Batch) -> torch.Tensor:
        first = batch.input_ids[:, 1].float()
        return torch.stack([first, batch.rows.float()], -1)

    chosen = [1, 5, 8, 30, 31, 39]
    scores = score(predict, rows, chosen, (Head(name="label", labels=("no", "yes")),))
    right, loss = 0, 0.0
    for row in chosen:
        logits, label = predict(rows.batch([row]))[0].numpy(), int(rows.labels[row])
        right += int(logits.argmax() == label)
        loss -= float(np.log(np.exp(logits[label] - logits.max()) / np.exp(logits - logits.max()).sum()))
    assert (scores.accuracy, scores.n) == (right / 6, 6)
    assert scores.loss == pytest.approx(loss / 6, rel=1e-5)


def test_every_data_set_counts_the_same() -> None:
    assert mean_of([Scores(0.5, 1.0, 1000), Scores(1.0, 0.0, 10)]) == Scores(0.75, 0.5, 1010)


def test_batches_keep_their_budget(tmp_path: Path) -> None:
    rows = rows_of(40, tmp_path)
    found = list(batches(rows, range(40), tokens=50))
    assert sorted(row for batch in found for row in batch.rows.tolist()) == list(range(40))
    assert all(batch.input_ids.numel() <= 50 for batch in found)


def test_accuracy_and_flips_are_counted() -> None:
    right = [row.argmax() == label for row, label in zip(LOGITS, LABELS, strict=True)]
    assert accuracy(LOGITS, LABELS) == sum(right) / 50
    moved = LOGITS.copy()
    moved[:5] = moved[:5, ::-1]
    flipped = [a.argmax() != b.argmax() for a, b in zip(moved, LOGITS, strict=True)]
    assert 0 < flip_rate(moved, LOGITS) == sum(flipped) / 50
    assert flip_rate(LOGITS + 7, LOGITS) == 0


def test_probabilities_are_a_softmax() -> None:
    expected = torch.softmax(torch.from_numpy(LOGITS), -1).numpy()
    assert np.allclose(probabilities(LOGITS), expected, atol=1e-6)
    assert np.allclose(probabilities(LOGITS + 1000), expected, atol=1e-4)


# Wilson 1927, without continuity correction; the second as quoted in Newcombe 1998, table I.
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_the_interval_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    assert accuracy_interval(right / n, n) == pytest.approx((low, high), abs=1e-4)
