from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from app.errors import DataError
from compression import contrast, data, pairs
from compression.cli import main
from compression.contrast import Templates
from compression.data import DataSettings

TINY = Templates(
    patterns={"plain": [("a {good} {thing}.", "a {bad} {thing}.")]},
    general={
        "good": ["good"],
        "bad": ["bad"],
        "loved": ["loved"],
        "hated": ["hated"],
        "praise": ["fine"],
        "blame": ["poor"],
    },
    domains={
        "film": {
            "things": ["film"],
            "aspects": ["plot", "cast"],
            "good": ["funny"],
            "bad": ["awful"],
            "works": ["it works"],
            "fails": ["it fails"],
        }
    },
)


def test_both_sides_stand_in_one_template() -> None:
    found = contrast.filled(2, source=TINY)
    assert {pair.positive for pair in found} == {"A good film.", "A funny film."}
    assert {pair.negative for pair in found} == {"A bad film.", "An awful film."}


def test_templates_that_yield_too_few_say_how_many() -> None:
    with pytest.raises(DataError, match=r"yield \d different pairs and 50 were asked for"):
        contrast.filled(50, source=TINY)


def test_kinds_alike_often_and_no_sentence_twice() -> None:
    found = contrast.filled(400)
    kinds = Counter(pair.category for pair in found)
    assert set(kinds) == {"plain", "negated", "contrasted", "sarcastic"}
    assert min(kinds.values()) > 80
    sentences = [side for pair in found for side in (pair.positive, pair.negative)]
    assert len(set(sentences)) == len(sentences)
    assert not any("{" in sentence for sentence in sentences)
    assert found == contrast.filled(400)
    assert found != contrast.filled(400, seed=1)


def test_no_sentence_that_models_are_judged_on(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = pairs.Pair("x", "x", "such a good, film!", "nothing")
    monkeypatch.setattr(pairs, "load", lambda: (judged,))
    assert [pair.positive for pair in contrast.filled(1, source=TINY)] == ["A funny film."]


def test_nor_one_like_it() -> None:
    judged = [words for pair in pairs.load() for words in map(words_of, (pair.positive, pair.negative))]
    for pair in (*contrast.collected(), *contrast.filled(300)):
        for words in map(words_of, (pair.positive, pair.negative)):
            assert all(len(words & other) / len(words | other) <= 0.7 for other in judged)


def words_of(text: str) -> set[str]:
    return {"".join(c for c in word if c.isalnum() or c == "'") for word in text.lower().split()} - {""}


def test_collected_pairs_are_many_and_different() -> None:
    found = contrast.collected()
    kinds = Counter(pair.category for pair in found)
    assert set(kinds) == {
        *("negated", "contrasted", "sarcastic", "concrete", "critic", "short"),
        *("comparison", "idiom", "condition"),
    }
    assert len(found) > 10_000
    sentences = [" ".join(side.lower().split()) for pair in found for side in (pair.positive, pair.negative)]
    assert len(set(sentences)) == len(sentences)


def test_every_filling_has_its_opposite() -> None:
    source = contrast.templates()
    for good, bad in (("loved", "hated"), ("praise", "blame")):
        assert len(source.general[good]) == len(source.general[bad])
    for domain in source.domains.values():
        assert len(domain["works"]) == len(domain["fails"])
        assert not set(domain["good"]) & set(domain["bad"])
    every = [side for kind in source.patterns.values() for template in kind for side in template]
    assert len(set(every)) == len(every)


def test_the_command_writes_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contrast", "--output", str(tmp_path / "pairs"), "--pairs", "40"]) == 0
    count = len(contrast.collected()) + 40
    held = count // 10
    said = f"{2 * (count - held):,} rows to train on, {2 * held:,} to validate on"
    assert said in capsys.readouterr().out
    read = data.load(str(tmp_path / "pairs"), DataSettings())
    assert (len(read.train), len(read.validation)) == (2 * (count - held), 2 * held)
    assert read.label_names == ("negative", "positive")
    rows = [json.loads(line) for line in (tmp_path / "pairs" / "train.jsonl").read_text().splitlines()]
    assert all(count == 2 for count in Counter(row["pair"] for row in rows).values())
    assert main(["contrast", "--output", str(tmp_path / "pairs"), "--pairs", "40"]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_too_few_pairs_to_hold_one_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 pairs: at least 10"):
        contrast.write(tmp_path / "pairs", contrast.filled(3))
