from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.errors import DataError
from compression import ngram
from compression.distillation import ngram_teacher
from compression.distillation.ngram_teacher import NgramTeacher
from tests.compression.tiny import made_up_reviews

TEXTS = tuple(text for text, _ in made_up_reviews()[:300])
LABELS = tuple(label for _, label in made_up_reviews()[:300])
NEW = tuple(text for text, _ in made_up_reviews()[300:400])


def fitted(texts: tuple[str, ...] = TEXTS, labels: tuple[int, ...] = LABELS) -> NgramTeacher:
    return ngram_teacher.fit(texts, labels, 3, buckets=1 << 12)


def test_a_text_is_answered_by_the_model_that_never_saw_it() -> None:
    teacher = fitted()
    part_of = ngram_teacher.parts(TEXTS, 3)
    found = teacher.logits(TEXTS)
    for row in (0, 17, 123, 299):
        others = [index for index in range(300) if part_of[index] != part_of[row]]
        model = ngram.fit([TEXTS[i] for i in others], [LABELS[i] for i in others], 1 << 12)
        score = float(model.scores([TEXTS[row]])[0])
        assert found[row].tolist() == pytest.approx([-score / 2, score / 2], abs=1e-5)


def test_new_texts_are_answered_too() -> None:
    labels = np.array([label for _, label in made_up_reviews()[300:400]])
    assert float((fitted().logits(NEW).argmax(-1) == labels).mean()) > 0.95


def test_it_does_not_know_the_labels_of_what_it_was_fitted_on() -> None:
    """Labels by the toss of a coin: a model that saw them would know most of them."""
    labels = tuple(int(label) for label in np.random.default_rng(0).integers(0, 2, 300))
    texts = tuple(f"{text} {index}" for index, text in enumerate(TEXTS))
    out_of_fold = (fitted(texts, labels).logits(texts).argmax(-1) == labels).mean()
    seen = (ngram.fit(texts, labels, 1 << 12).predict(texts) == labels).mean()
    assert float(out_of_fold) < 0.65
    assert float(seen) > 0.8


def test_a_part_follows_from_the_text_alone() -> None:
    part_of = ngram_teacher.parts(TEXTS, 3)
    assert ngram_teacher.parts(TEXTS[7:9], 3).tolist() == part_of[7:9].tolist()
    assert set(np.bincount(part_of) > 60) == {True}


def test_saved_and_loaded(tmp_path: Path) -> None:
    teacher = fitted()
    assert not ngram_teacher.is_in(tmp_path)
    teacher.save(tmp_path)
    assert ngram_teacher.is_in(tmp_path)
    assert np.allclose(ngram_teacher.load(tmp_path).logits(TEXTS), teacher.logits(TEXTS), atol=1e-5)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no linear teacher"):
        ngram_teacher.load(tmp_path)


def test_three_classes_are_refused() -> None:
    with pytest.raises(DataError, match="separates the classes 0 and 1"):
        fitted(labels=(0, 1, 2) * 100)
