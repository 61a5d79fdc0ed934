"""Fitting the tables: logistic regression on n-gram counts, distilled from a teacher's soft labels.

Every n-gram's weight is the product of what is fitted and the log ratio of how often the classes use it. The
shares of the classes come from the teacher where a text has no label, so that unlabelled texts count as well.
What is minimised is the loss that every other student has, by L-BFGS; a text's loss counts as the square root
of its length, or many phrases would outvote fewer reviews.
Source: Wang, Manning 2012, Baselines and Bigrams (NB-SVM); Hinton, Vinyals, Dean 2015 (soft labels).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from scipy.optimize import fmin_l_bfgs_b
from scipy.sparse import coo_matrix, csr_matrix, diags_array, vstack
from scipy.special import log_softmax, softmax

from compression.batches import Rows
from compression.distillation.objective import DistillationSettings
from compression.ngrams.hashing import pair_buckets, triple_buckets
from compression.ngrams.student import TABLES, NgramForSequenceClassification, NgramShape, columns_of
from compression.settings import Settings
from compression.training import Report, silent

Floats = npt.NDArray[np.float64]

_CHUNK_ROWS = 4096
_MEMORY = 5  # pairs of vectors that L-BFGS keeps


class FittingSettings(Settings):
    """How the weights are found.

    `strength` says how far they may grow for the sake of the loss, `smoothing` how often every n-gram is
    taken to have been seen in each class without being there.
    """

    strength: float = Field(default=10.0, gt=0)
    smoothing: float = Field(default=1.0, gt=0)
    iterations: int = Field(default=60, ge=1)


@dataclass(frozen=True)
class Fitted:
    """Weights of all n-grams, the tables one after the other: (F, K); bias (K,)."""

    weights: Floats
    bias: Floats


def counts(rows: Rows, shape: NgramShape, vocabulary: int) -> csr_matrix:
    """How often each n-gram stands in each row: (N, F), F = vocabulary + buckets of pairs + of triples."""
    parts = [
        _counts(
            [rows.row(row) for row in range(start, min(start + _CHUNK_ROWS, len(rows)))], shape, vocabulary
        )
        for start in range(0, len(rows), _CHUNK_ROWS)
    ]
    return csr_matrix(vstack(parts))


def by_length(features: csr_matrix, lengths: npt.NDArray[np.int64]) -> csr_matrix:
    """Counts over the square root of each text's tokens, as the student adds them up.

    Shapes: features (N, F), lengths (N,).
    """
    return csr_matrix(diags_array(1 / np.sqrt(np.maximum(lengths, 1))) @ features)


def fit(
    features: csr_matrix,
    lengths: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    teacher_logits: npt.NDArray[np.float32],
    distillation: DistillationSettings,
    settings: FittingSettings,
    report: Report = silent,
) -> Fitted:
    """Minimise the distillation loss over all rows.

    Shapes: features (N, F) as `counts` gives them, lengths (N,) in tokens, labels (N,) with -1 for none,
    teacher_logits (N, C).
    """
    classes = teacher_logits.shape[1]
    columns, size = columns_of(classes), features.shape[1]
    ratio = _log_count_ratio(features, _shares(labels, teacher_logits), columns, settings.smoothing)
    spread = _spread(classes)
    importance = np.sqrt(lengths / lengths.mean())
    scaled = by_length(features, lengths)
    turned = csr_matrix(scaled.T)  # products with a transposed view are several times as slow
    done = 0

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights, bias = flat[:-columns].reshape(size, columns), flat[-columns:]
        logits = (scaled @ (ratio * weights) + bias) @ spread
        loss, slope = distillation_loss(logits, labels, teacher_logits, distillation, importance)
        by_score = slope @ spread.T * settings.strength
        gradient = ratio * (turned @ by_score) + weights
        total = settings.strength * loss + 0.5 * float((weights**2).sum())
        return total, np.append(gradient.ravel(), by_score.sum(0))

    def tell(_: Floats) -> None:
        nonlocal done
        done += 1
        report(done, settings.iterations, "iterations")

    start = np.zeros(size * columns + columns)
    found, _, _ = fmin_l_bfgs_b(objective, start, m=_MEMORY, maxiter=settings.iterations, callback=tell)
    return Fitted(ratio * found[:-columns].reshape(size, columns), found[-columns:])


def distillation_loss(
    logits: Floats,
    labels: npt.NDArray[np.int64],
    teacher_logits: npt.NDArray[np.float32],
    settings: DistillationSettings,
    importance: Floats,
) -> tuple[float, Floats]:
    """Soft labels at a temperature, times T^2, and true labels where there are any; and the slope of it.

    Shapes: logits and teacher_logits (N, C), labels (N,), importance (N,): how much each row counts; the
    slope by the logits (N, C).
    """
    temperature = settings.temperature
    target = softmax(teacher_logits.astype(np.float64) / temperature, axis=1)
    soft = -(target * log_softmax(logits / temperature, axis=1)).sum(1) * temperature**2
    loss = settings.soft_weight * soft
    slope = settings.soft_weight * temperature * (softmax(logits / temperature, axis=1) - target)
    known = np.flatnonzero(labels >= 0)
    own = (np.arange(len(known)), labels[known])
    loss[known] -= settings.hard_weight * log_softmax(logits[known], axis=1)[own]
    true = softmax(logits[known], axis=1)
    true[own] -= 1.0
    slope[known] += settings.hard_weight * true
    return float(importance @ loss), importance[:, None] * slope


def logits(features: csr_matrix, lengths: npt.NDArray[np.int64], model: Fitted) -> npt.NDArray[np.float32]:
    """What the weights as they were fitted answer. Shape: (N, C)."""
    classes = 2 if len(model.bias) == 1 else len(model.bias)
    scores = by_length(features, lengths) @ model.weights + model.bias
    return np.asarray(scores @ _spread(classes), dtype=np.float32)


def fill(student: NgramForSequenceClassification, model: Fitted, used: npt.NDArray[np.float32]) -> None:
    """Put fitted weights into the student's tables; `used` (F,): how often each n-gram stands in texts."""
    start = 0
    with torch.no_grad():
        for index, name in enumerate(TABLES):
            table = student.get_buffer(name)
            rows = slice(start, start + len(table))
            rounded, student.scales[index] = quantize(model.weights[rows], used[rows])
            table.copy_(torch.from_numpy(rounded))
            start = rows.stop
        student.bias.copy_(torch.from_numpy(model.bias))


def quantize(table: Floats, used: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], float]:
    """A table as int8 with one scale: the one of some that errs least where the rows are used.

    Shapes: table (rows, K), used (rows,): how often each stands in the training texts.
    """
    largest = float(np.abs(table).max()) or 1.0
    scales = [share * largest / 127 for share in np.geomspace(0.05, 1.0, 24)]

    def error(scale: float) -> float:
        rounded = np.clip(np.round(table / scale), -127, 127) * scale
        return float((used[:, None] * (table - rounded) ** 2).sum())

    best = min(scales, key=error)
    return np.clip(np.round(table / best), -127, 127).astype(np.int8), best


def _counts(texts: list[npt.NDArray[np.int64]], shape: NgramShape, vocabulary: int) -> csr_matrix:
    ids = np.concatenate(texts)
    row = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    pairs = pair_buckets(ids[:-1], ids[1:], shape.bigram_buckets)
    before = pair_buckets(ids[:-2], ids[1:-1], shape.trigram_buckets)
    triples = triple_buckets(before, ids[2:], shape.trigram_buckets)
    # An n-gram across the end of a text is none.
    within = [row >= 0, row[:-1] == row[1:], row[:-2] == row[2:]]
    columns = [ids, vocabulary + pairs, vocabulary + shape.bigram_buckets + triples]
    column = np.concatenate([part[inside] for part, inside in zip(columns, within, strict=True)])
    rows = np.concatenate([row[: len(inside)][inside] for inside in within])
    size = vocabulary + shape.bigram_buckets + shape.trigram_buckets
    ones = np.ones(len(column), dtype=np.float32)
    return coo_matrix((ones, (rows, column)), shape=(len(texts), size)).tocsr()


def _shares(labels: npt.NDArray[np.int64], teacher_logits: npt.NDArray[np.float32]) -> Floats:
    """Which class each row speaks for: its label, or what the teacher holds likely. Shape: (N, C)."""
    shares = softmax(teacher_logits.astype(np.float64), axis=1)
    known = np.flatnonzero(labels >= 0)
    shares[known] = np.eye(shares.shape[1])[labels[known]]
    return np.asarray(shares)


def _log_count_ratio(features: csr_matrix, shares: Floats, columns: int, smoothing: float) -> Floats:
    """For each class against the others how much more of its counts an n-gram has. Shape: (F, K)."""
    by_class = np.asarray(features.T @ shares)
    own = by_class[:, -columns:] + smoothing
    others = by_class.sum(1, keepdims=True) - by_class[:, -columns:] + smoothing
    return np.asarray(np.log((own / own.sum(0)) / (others / others.sum(0))))


def _spread(classes: int) -> Floats:
    """From scores to logits (K, C): one score for two classes lies half below and half above zero."""
    return np.array([[-0.5, 0.5]]) if classes == 2 else np.eye(classes)
