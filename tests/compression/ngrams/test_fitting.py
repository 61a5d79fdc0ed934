from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.nn import functional

from compression.batches import Rows
from compression.distillation.objective import DistillationSettings
from compression.distillation.soft_labels import soft_label_loss
from compression.ngrams import fitting
from compression.ngrams.fitting import (
    Fitted,
    FittingSettings,
    by_length,
    counts,
    distillation_loss,
    fit,
    logits,
    quantize,
)
from compression.ngrams.hashing import pair_buckets, triple_buckets
from compression.ngrams.student import NgramShape
from tests.compression.tiny import rows_of

SHAPE = NgramShape(bigram_buckets=997, trigram_buckets=1999, max_tokens=16)
VOCABULARY = 60
BOTH = DistillationSettings()


def slow_counts(ids: list[int]) -> Counter[int]:
    """The obvious way: one n-gram after the other."""
    found: Counter[int] = Counter()
    arrays = [np.array([token]) for token in ids]
    for position, token in enumerate(arrays):
        found[int(token[0])] += 1
        if position >= 1:
            pair = pair_buckets(arrays[position - 1], token, SHAPE.bigram_buckets)
            found[VOCABULARY + int(pair[0])] += 1
        if position >= 2:
            pair = pair_buckets(arrays[position - 2], arrays[position - 1], SHAPE.trigram_buckets)
            triple = triple_buckets(pair, token, SHAPE.trigram_buckets)
            found[VOCABULARY + SHAPE.bigram_buckets + int(triple[0])] += 1
    return found


def accuracy(model: Fitted, rows: Rows, labels: np.ndarray | None = None) -> float:
    found = logits(counts(rows, SHAPE, VOCABULARY), rows.lengths, model).argmax(1)
    return float((found == (rows.labels if labels is None else labels)).mean())


def test_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_CHUNK_ROWS", 7)
    rows = rows_of(20, tmp_path)
    found = counts(rows, SHAPE, VOCABULARY)
    assert found.shape == (20, VOCABULARY + SHAPE.bigram_buckets + SHAPE.trigram_buckets)
    for row in range(20):
        expected = slow_counts(rows.row(row).tolist())
        line = found[row].tocoo()
        assert dict(zip(line.col.tolist(), line.data.tolist(), strict=True)) == expected


def test_the_loss_is_that_of_every_student() -> None:
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    importance = torch.tensor([1.0, 0.5, 2.0, 1.0, 3.0, 0.1], dtype=torch.float64)
    teacher = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 2, -1, 1, -1, 0])
    settings = DistillationSettings(temperature=3.0, soft_weight=0.7, hard_weight=0.4)
    loss, slope = distillation_loss(
        given.detach().numpy(),
        labels.numpy(),
        teacher.numpy().astype(np.float32),
        settings,
        importance.numpy(),
    )
    teacher = teacher.float().double()
    soft = (importance * soft_label_loss(given, teacher, 3.0)).sum()
    hard = (importance * functional.cross_entropy(given, labels, reduction="none", ignore_index=-1)).sum()
    (0.7 * soft + 0.4 * hard).backward()
    assert given.grad is not None
    assert np.allclose(slope, given.grad.numpy(), atol=1e-6)
    # Cross-entropy exceeds the divergence by the teacher's own entropy, which no student can change.
    softened = (teacher / 3.0).softmax(-1)
    entropy = -(importance[:, None] * softened * softened.log()).sum() * 9
    assert loss == pytest.approx(float((0.7 * (soft + entropy) + 0.4 * hard).detach()), rel=1e-6)


def test_without_any_label_the_teacher_decides(tmp_path: Path) -> None:
    train, rest = rows_of(300, tmp_path), rows_of(100, tmp_path, start=300)
    teacher = np.where(train.labels[:, None] == np.arange(2), 3.0, -3.0).astype(np.float32)
    features = counts(train, SHAPE, VOCABULARY)
    right = fit(features, train.lengths, np.full(300, -1), teacher, BOTH, FittingSettings())
    wrong = fit(features, train.lengths, np.full(300, -1), -teacher, BOTH, FittingSettings())
    assert accuracy(right, rest) > 0.95
    assert accuracy(wrong, rest) < 0.05


def test_labels_count_as_well(tmp_path: Path) -> None:
    train, rest = rows_of(300, tmp_path), rows_of(100, tmp_path, start=300)
    features, told = counts(train, SHAPE, VOCABULARY), []
    settings, labels_alone = (
        FittingSettings(iterations=20),
        DistillationSettings(soft_weight=0, hard_weight=1),
    )
    blank = np.zeros((300, 2), dtype=np.float32)
    model = fit(
        features,
        train.lengths,
        train.labels,
        blank,
        labels_alone,
        settings,
        lambda done, total, _: told.append((done, total)),
    )
    assert accuracy(model, rest) > 0.95
    assert told[0] == (1, 20)
    assert len(told) <= 20


def test_more_than_two_classes(tmp_path: Path) -> None:
    train, rest = rows_of(300, tmp_path), rows_of(100, tmp_path, start=300)
    teacher = np.where(train.labels[:, None] + 1 == np.arange(3), 3.0, -3.0).astype(np.float32)
    features = counts(train, SHAPE, VOCABULARY)
    model = fit(features, train.lengths, train.labels + 1, teacher, BOTH, FittingSettings())
    assert model.weights.shape[1] == model.bias.shape[0] == 3
    assert accuracy(model, rest, rest.labels + 1) > 0.95


def test_phrases_and_reviews_are_learned_together() -> None:
    """Phrases of three tokens and reviews of 200, as sure of their labels the ones as the others."""
    generator = np.random.default_rng(0)
    size, sizes = 400, np.array([3] * 300 + [200] * 300)
    labels = generator.integers(0, 2, 600)
    tendency = np.linspace(-1.0, 1.0, size)  # how much more often a word stands in class 1

    def drawn(count: int, label: int) -> np.ndarray:
        sharpness = 20.0 / np.sqrt(count)
        odds = np.exp((2 * label - 1) * sharpness * tendency / 2)
        return generator.multinomial(count, odds / odds.sum())

    texts = csr_matrix(np.stack([drawn(count, label) for count, label in zip(sizes, labels, strict=True)]))
    teacher = np.where(labels[:, None] == np.arange(2), 2.5, -2.5).astype(np.float32)
    model = fit(texts[::2], sizes[::2], labels[::2], teacher[::2], BOTH, FittingSettings())
    right = logits(texts[1::2], sizes[1::2], model).argmax(1) == labels[1::2]
    assert right[:150].mean() > 0.9
    assert right[150:].mean() > 0.9


def test_counts_are_over_the_root_of_the_length(tmp_path: Path) -> None:
    rows = rows_of(10, tmp_path)
    features = counts(rows, SHAPE, VOCABULARY)
    found = by_length(features, rows.lengths).toarray()
    for row in range(10):
        assert found[row] == pytest.approx(features[row].toarray()[0] / np.sqrt(len(rows.row(row))), rel=1e-6)


def test_the_slope_is_that_of_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient L-BFGS is given is the one it would measure."""
    seen = {}

    def minimise(
        objective: object, start: np.ndarray, **_: object
    ) -> tuple[np.ndarray, float, dict[str, int]]:
        seen["objective"] = objective
        return start, 0.0, {}

    monkeypatch.setattr(fitting, "fmin_l_bfgs_b", minimise)
    rows = rows_of(8, tmp_path)
    teacher = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    features = counts(rows, SHAPE, VOCABULARY)
    fit(features, rows.lengths, rows.labels, teacher, BOTH, FittingSettings(strength=0.5))
    objective = seen["objective"]
    size = VOCABULARY + SHAPE.bigram_buckets + SHAPE.trigram_buckets + 1
    point = np.random.default_rng(1).normal(size=size) * 0.1
    _, slope = objective(point)  # type: ignore[operator]
    for index in (0, 10, 30, 70, size - 1):
        step = np.zeros(size)
        step[index] = 1e-5
        up, down = objective(point + step)[0], objective(point - step)[0]  # type: ignore[operator]
        assert slope[index] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-6)


def test_a_table_in_int8_errs_little_where_it_is_used() -> None:
    generator = np.random.default_rng(0)
    table = generator.normal(size=(500, 1))
    table[0] = 40.0  # hardly ever seen: it may be cut
    used = generator.integers(1, 100, 500)
    used[0] = 0
    rounded, scale = quantize(table, used.astype(np.float32))
    assert rounded.dtype == np.int8
    assert np.abs(rounded[1:] * scale - table[1:]).max() < 0.1
    plain = 40.0 / 127
    assert scale < plain / 5
    nothing, _ = quantize(np.zeros((3, 1)), np.ones(3, dtype=np.float32))
    assert not nothing.any()
