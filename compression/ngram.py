"""A linear model on hashed word uni-, bi- and trigrams: what a compressed transformer has to beat.

Counts are weighted by the log ratio of the classes' smoothed frequencies before a logistic regression.
Source: Wang, Manning 2012, Baselines and Bigrams (NB-SVM). Two classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from app.errors import DataError

# 2^22 buckets: 16.8 MB of weights. With 2^20 collisions cost a point on IMDB.
BUCKETS = 1 << 22
# Words of one letter too: "I" and "a" carry trigrams.
_WORD = r"(?u)\b\w+\b"
_SMOOTHING = 1.0


class NgramClassifier:
    """Hashed n-grams to one score; positive means class 1. Its weights are all it consists of."""

    def __init__(self, weights: npt.NDArray[np.float32], bias: float) -> None:
        self.weights, self.bias = weights, bias
        self._features = HashingVectorizer(
            ngram_range=(1, 3),
            n_features=len(weights),
            token_pattern=_WORD,
            binary=True,
            norm=None,
            alternate_sign=False,
        )

    def predict(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Class of each text. Shape: (N,)."""
        return (self.scores(texts) > 0).astype(np.int64)

    def scores(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-odds of class 1. Shape: (N,)."""
        return np.asarray(self._features.transform(texts) @ self.weights + self.bias, dtype=np.float32)

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return int(self.weights.nbytes)

    def save(self, path: Path) -> None:
        """Write weights and bias as one array."""
        np.save(path, np.append(self.weights, np.float32(self.bias)))


def load(path: Path) -> NgramClassifier:
    """Read what `save` wrote."""
    stored = np.load(path)
    return NgramClassifier(stored[:-1], float(stored[-1]))


def fit(texts: Sequence[str], labels: Sequence[int], buckets: int = BUCKETS) -> NgramClassifier:
    """Fit on labelled texts.

    Raises:
        DataError: not exactly the two classes 0 and 1.
    """
    targets = np.asarray(labels)
    if set(targets.tolist()) != {0, 1}:
        raise DataError(
            f"the linear model separates the classes 0 and 1; the labels are {sorted(set(labels))}"
        )
    blank = NgramClassifier(np.zeros(buckets, dtype=np.float32), 0.0)
    features = csr_matrix(blank._features.transform(texts))
    ratio = _log_count_ratio(features, targets)
    model = LogisticRegression(solver="liblinear", dual=True, C=1.0, random_state=0, max_iter=1000)
    model.fit(csr_matrix(features.multiply(ratio)), targets)
    return NgramClassifier((model.coef_[0] * ratio).astype(np.float32), float(model.intercept_[0]))


def _log_count_ratio(features: csr_matrix, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    positive = np.asarray(features[targets == 1].sum(0)).ravel() + _SMOOTHING
    negative = np.asarray(features[targets == 0].sum(0)).ravel() + _SMOOTHING
    return np.asarray(np.log((positive / positive.sum()) / (negative / negative.sum())))
