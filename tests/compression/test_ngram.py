from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.errors import DataError
from compression import ngram
from tests.compression.tiny import made_up_reviews

TEXTS = tuple(text for text, _ in made_up_reviews())
LABELS = tuple(label for _, label in made_up_reviews())


def test_it_learns() -> None:
    model = ngram.fit(TEXTS[:400], LABELS[:400], buckets=1 << 14)
    assert float((model.predict(TEXTS[400:]) == np.asarray(LABELS[400:])).mean()) > 0.95
    assert model.predict(["wonderful", "dull"]).tolist() == [1, 0]


def test_it_reads_the_order_of_words() -> None:
    good, bad = ("not dull but moving", "moving"), ("not moving but dull", "dull")
    model = ngram.fit((*good, *bad) * 10, (1, 1, 0, 0) * 10, buckets=1 << 14)
    assert model.predict([*good, *bad]).tolist() == [1, 1, 0, 0]


def test_it_reads_words_of_one_letter() -> None:
    good, bad = "a b", "a c"
    model = ngram.fit((good, bad) * 10, (1, 0) * 10, buckets=1 << 14)
    assert model.predict([good, bad]).tolist() == [1, 0]


def test_saved_and_loaded_it_answers_the_same(tmp_path: Path) -> None:
    model = ngram.fit(TEXTS[:100], LABELS[:100], buckets=1 << 10)
    model.save(tmp_path / "model.npy")
    loaded = ngram.load(tmp_path / "model.npy")
    assert np.array_equal(loaded.predict(TEXTS), model.predict(TEXTS))
    assert np.array_equal(loaded.weights, model.weights)
    assert loaded.bias == pytest.approx(model.bias)
    assert loaded.bytes == 4 << 10


@pytest.mark.parametrize("labels", [(0, 0), (0, 2), (1, 2)])
def test_it_separates_two_classes(labels: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="separates the classes 0 and 1; the labels are"):
        ngram.fit(("a", "b"), labels)
