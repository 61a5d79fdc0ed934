from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from compression.discrimination import auc, confusion, f1, f1_by_class, mean_auc

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, 200)
PREDICTED = np.where(RANDOM.random(200) < 0.6, LABELS, RANDOM.integers(0, 3, 200))


def test_confusion_counts_every_pair() -> None:
    expected = np.zeros((3, 3), dtype=int)
    for label, given in zip(LABELS, PREDICTED, strict=True):
        expected[label, given] += 1
    assert (confusion(LABELS, PREDICTED, 3) == expected).all()
    assert (expected == metrics.confusion_matrix(LABELS, PREDICTED)).all()


def test_f1_is_scikit_learns() -> None:
    matrix = confusion(LABELS, PREDICTED, 3)
    assert f1_by_class(matrix) == pytest.approx(metrics.f1_score(LABELS, PREDICTED, average=None))
    assert f1(LABELS, PREDICTED, 3) == pytest.approx(metrics.f1_score(LABELS, PREDICTED, average="macro"))


def test_a_class_that_is_nowhere_has_no_f1() -> None:
    assert f1_by_class(confusion(np.array([0, 0, 1]), np.array([0, 0, 1]), 3)).tolist() == [1.0, 1.0, 0.0]


def test_auc_is_the_share_of_pairs_in_order() -> None:
    scores = RANDOM.integers(0, 10, 80) / 10  # many ties
    positive = RANDOM.random(80) < 0.3
    pairs = [
        1.0 if ours > theirs else 0.5 if ours == theirs else 0.0
        for ours in scores[positive]
        for theirs in scores[~positive]
    ]
    assert auc(positive, scores) == pytest.approx(sum(pairs) / len(pairs))
    assert auc(positive, scores) == pytest.approx(metrics.roc_auc_score(positive, scores))


def test_auc_needs_both_kinds() -> None:
    assert np.isnan(auc(np.array([True, True]), np.array([0.1, 0.9])))


def test_auc_of_two_classes_and_of_more() -> None:
    given = RANDOM.dirichlet(np.ones(3), 200)
    expected = metrics.roc_auc_score(LABELS, given, multi_class="ovr", average="macro")
    assert mean_auc(LABELS, given) == pytest.approx(expected)
    two = given[:, :2] / given[:, :2].sum(-1, keepdims=True)
    assert mean_auc(LABELS % 2, two) == pytest.approx(metrics.roc_auc_score(LABELS % 2, two[:, 1]))
