"""The linear n-gram model as a teacher: it errs elsewhere than a transformer does.

On the texts it was fitted on a linear model of a million weights is almost always right, and sure of it: it
would teach nothing but the labels. So several are fitted, each without a part of the texts, and a text is
answered by the one that never saw it. Which part a text belongs to follows from the text alone.
Source: Wolpert 1992, Stacked Generalization (predictions for rows a model was not fitted on).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.errors import DataError
from compression import ngram
from compression.ngram import NgramClassifier
from compression.training import Report, silent


@dataclass(frozen=True)
class NgramTeacher:
    """One linear model for each part of the texts; model i never saw the texts of part i."""

    models: tuple[NgramClassifier, ...]

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-odds as two logits, for texts that were fitted on as for others. Shape: (N, 2)."""
        part_of = parts(texts, len(self.models))
        result = np.zeros((len(texts), 2), dtype=np.float32)
        for part, model in enumerate(self.models):
            rows = np.flatnonzero(part_of == part).tolist()
            if rows:
                scores = model.scores([texts[row] for row in rows])
                result[rows] = np.stack([-scores / 2, scores / 2], axis=-1)
        return result

    def save(self, folder: Path) -> None:
        """One file for each model."""
        for part, model in enumerate(self.models):
            model.save(folder / _file(part, len(self.models)))


def parts(texts: Sequence[str], count: int) -> npt.NDArray[np.int64]:
    """The part each text belongs to, 0 to `count - 1`. Shape: (N,)."""
    return np.array([zlib.crc32(text.encode()) % count for text in texts], dtype=np.int64)


def fit(
    texts: Sequence[str],
    labels: Sequence[int],
    count: int,
    buckets: int = ngram.BUCKETS,
    report: Report = silent,
) -> NgramTeacher:
    """Fit one model for each of `count` parts, on all the others.

    Raises:
        DataError: not exactly the two classes 0 and 1 in what is left when a part is taken out.
    """
    part_of, models = parts(texts, count), []
    for part in range(count):
        rows = np.flatnonzero(part_of != part).tolist()
        models.append(ngram.fit([texts[row] for row in rows], [labels[row] for row in rows], buckets))
        report(part + 1, count, "linear models")
    return NgramTeacher(tuple(models))


def load(folder: Path) -> NgramTeacher:
    """Read what `save` wrote.

    Raises:
        DataError: nothing of the kind there.
    """
    files = sorted(folder.glob("ngram-*.npy"))
    if not files:
        raise DataError(f"{folder} holds no linear teacher")
    return NgramTeacher(tuple(ngram.load(path) for path in files))


def is_in(folder: Path) -> bool:
    """Whether the folder holds a linear teacher."""
    return any(folder.glob("ngram-*.npy"))


def _file(part: int, count: int) -> str:
    return f"ngram-{part + 1:02d}-of-{count:02d}.npy"
