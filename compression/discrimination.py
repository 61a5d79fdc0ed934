"""How well answers tell the classes apart: confusion, F1, area under the ROC curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def confusion(labels: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Rows of each true class by the class they were given.

    Shapes: labels, predicted (N,); the answer (C, C), true classes down, predicted ones across.
    """
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_by_class(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Harmonic mean of precision and recall of each class, from a confusion matrix; 0 where a class neither
    stands nor is predicted. Shape: (C,).

    Source: van Rijsbergen 1979, Information Retrieval, chapter 7: F1 = 2 TP / (2 TP + FP + FN).
    """
    right = matrix.diagonal()
    whole = matrix.sum(0) + matrix.sum(1)
    return np.asarray(2 * right / np.maximum(whole, 1), dtype=np.float64)


def f1(labels: Labels, predicted: Labels, classes: int) -> float:
    """Macro F1: the mean over all classes, each counting the same."""
    return float(f1_by_class(confusion(labels, predicted, classes)).mean())


def auc(positive: npt.NDArray[np.bool_], scores: Values) -> float:
    """Probability that a positive row scores higher than a negative one, ties counting half; NaN where there
    is only one kind. Shapes: (N,) both.

    Source: Hanley, McNeil 1982, The Meaning and Use of the Area under a ROC Curve (the Mann-Whitney
    statistic).
    """
    ours = int(positive.sum())
    theirs = len(positive) - ours
    if ours == 0 or theirs == 0:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # of equals the mean, counted from 1
    return float((ranks[positive].sum() - ours * (ours + 1) / 2) / (ours * theirs))


def mean_auc(labels: Labels, probabilities: Values) -> float:
    """Of two classes the AUC of the second; of more the mean of each against the rest.

    Shapes: (N,), (N, C).
    """
    classes = probabilities.shape[1]
    chosen = [1] if classes == 2 else [index for index in range(classes) if (labels == index).any()]
    return float(np.mean([auc(labels == index, probabilities[:, index]) for index in chosen]))
