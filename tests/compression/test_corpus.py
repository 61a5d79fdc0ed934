from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from app.artifact import TokenizerSettings
from app.tokenizer import Tokenizer
from compression import corpus
from compression.corpus import build
from compression.data import Split
from tests.compression.tiny import corpus_of, made_up_reviews, text_settings, tiny_tokenizer

SPLIT = Split(tuple(text for text, _ in made_up_reviews()[:40]), tuple(n for _, n in made_up_reviews()[:40]))


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer" / "tokenizer.json"


class Poison:
    """Stands where the tokenizer was: nothing may be tokenized any more."""

    def __init__(self, *_: object) -> None:
        raise AssertionError("tokenized a second time")


def test_a_cached_corpus_is_not_tokenized_again(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(SPLIT, tokenizer_file, text_settings(), tmp_path / "tokens")
    monkeypatch.setattr(corpus, "Tokenizer", Poison)
    second = build(SPLIT, tokenizer_file, text_settings(), tmp_path / "tokens")
    assert np.array_equal(first.ids, second.ids)
    assert np.array_equal(first.offsets, second.offsets)
    assert isinstance(second.ids, np.memmap)
    assert second.labels is not None
    assert second.labels.tolist() == list(SPLIT.labels or ())
    # One cache serves every length.
    assert build(SPLIT, tokenizer_file, text_settings(5), tmp_path / "tokens").lengths.max() == 5


def test_other_texts_are_another_corpus(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(SPLIT, tokenizer_file, text_settings(), tmp_path / "tokens")
    second = build(SPLIT.take(range(1, 40)), tokenizer_file, text_settings(), tmp_path / "tokens")
    assert first.fingerprint != second.fingerprint
    assert len(second) == 39
    monkeypatch.setattr(corpus, "Tokenizer", Poison)
    with pytest.raises(AssertionError, match="a second time"):
        build(SPLIT.take(range(2, 40)), tokenizer_file, text_settings(), tmp_path / "tokens")


def test_another_tokenizer_is_another_corpus(tokenizer_file: Path, tmp_path: Path) -> None:
    first = build(SPLIT, tokenizer_file, text_settings(), tmp_path / "tokens")
    described = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    vocabulary = described["model"]["vocab"]
    vocabulary["film"], vocabulary["story"] = vocabulary["story"], vocabulary["film"]
    tokenizer_file.write_text(json.dumps(described), encoding="utf-8")
    second = build(SPLIT, tokenizer_file, text_settings(), tmp_path / "tokens")
    assert first.fingerprint != second.fingerprint
    assert not np.array_equal(first.ids, second.ids)


def test_a_stopped_tokenization_is_done_again(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(SPLIT, tokenizer_file, text_settings(), tmp_path / "whole")
    real, saved = np.save, []

    def stop_at_the_second(path: Path, array: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt
        real(path, array)

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            build(SPLIT, tokenizer_file, text_settings(), tmp_path / "tokens")
    again = build(SPLIT, tokenizer_file, text_settings(), tmp_path / "tokens")
    assert np.array_equal(again.ids, whole.ids)
    assert np.array_equal(again.offsets, whole.offsets)


@pytest.mark.parametrize(
    "settings",
    [
        TokenizerSettings(max_tokens=8, truncation="head", head_tokens=7, pad_token_id=0),
        TokenizerSettings(max_tokens=8, truncation="head+tail", head_tokens=2, pad_token_id=0),
        TokenizerSettings(max_tokens=8, truncation="head+tail", head_tokens=6, pad_token_id=0),
        TokenizerSettings(max_tokens=64, truncation="head", head_tokens=63, pad_token_id=0),
    ],
)
def test_rows_are_what_the_service_will_encode(
    settings: TokenizerSettings, tokenizer_file: Path, tmp_path: Path
) -> None:
    # The last text is longer than what the cache holds of a text.
    texts = (*SPLIT.texts, "", "film", "story cast " * 30, "ending " + "music plot " * 5_000 + "hero script")
    rows = build(Split(texts, None), tokenizer_file, settings, tmp_path / "tokens")
    serving = Tokenizer(tokenizer_file, settings)
    assert rows.labels is None
    for index, text in enumerate(texts):
        assert rows.row(index).tolist() == serving.encode(text).input_ids.tolist()
        assert rows.lengths[index] == len(rows.row(index))


def test_first_rows_are_a_corpus_of_their_own(tmp_path: Path) -> None:
    whole = corpus_of(made_up_reviews()[:40], tmp_path)
    first = whole.first(10)
    assert len(first) == 10
    assert first.labels is not None
    assert [first.row(index).tolist() for index in range(10)] == [whole.row(i).tolist() for i in range(10)]
    assert first.fingerprint != whole.fingerprint
    assert len(whole.first(99)) == 40


def test_a_sample_is_seeded_and_ascending(tmp_path: Path) -> None:
    whole = corpus_of(made_up_reviews()[:40], tmp_path)
    chosen = whole.take(10)
    assert chosen == sorted(set(chosen)) == whole.take(10)
    assert len(chosen) == 10
    assert whole.take(10, seed=1) != chosen
    assert whole.take(40) == whole.take(99) == list(range(40))


def test_a_sample_is_the_rows_that_take_names(tmp_path: Path) -> None:
    whole = corpus_of(made_up_reviews()[:50], tmp_path)

    drawn = whole.sample(20)

    chosen = whole.take(20)
    assert len(drawn) == len(chosen) == 20
    assert drawn.texts == tuple(whole.texts[row] for row in chosen)
    assert drawn.labels is not None and whole.labels is not None
    assert drawn.labels.tolist() == [int(whole.labels[row]) for row in chosen]
    assert all(np.array_equal(drawn.row(number), whole.row(row)) for number, row in enumerate(chosen))
    assert drawn.fingerprint != whole.fingerprint
    assert whole.sample(1000).texts == whole.texts
