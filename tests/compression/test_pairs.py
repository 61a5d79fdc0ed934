from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from rich.console import Console

from app.errors import DataError
from compression import pairs
from compression.cli import main
from compression.evaluation import accuracy_interval
from compression.pairs import Pair
from tests.compression.finished import Finished

FOUR = (
    Pair("a-1", "a", "good one", "bad one"),
    Pair("a-2", "a", "good two", "bad two"),
    Pair("b-1", "b", "good three", "bad three"),
    Pair("b-2", "b", "fine", "poor"),
)


def says_good(texts: Sequence[str]) -> list[bool]:
    return ["good" in text for text in texts]


def slow_accuracy(chosen: Sequence[Pair]) -> float:
    """The obvious way: one pair after the other."""
    right = 0
    for pair in chosen:
        if says_good([pair.positive])[0] and not says_good([pair.negative])[0]:
            right += 1
    return right / len(chosen)


def test_a_pair_counts_when_both_sides_are_right() -> None:
    first, second, overall = pairs.score(says_good, FOUR)
    assert (first.category, second.category, overall.category) == ("a", "b", "all")
    assert first.accuracy == slow_accuracy(FOUR[:2]) == 1.0
    assert second.accuracy == slow_accuracy(FOUR[2:]) == 0.5
    assert overall.accuracy == slow_accuracy(FOUR) == 0.75
    assert overall.sentence_accuracy == 7 / 8
    assert (overall.positive_accuracy, overall.negative_accuracy) == (3 / 4, 1.0)
    assert (first.pairs, overall.pairs) == (2, 4)
    assert overall.interval_95 == accuracy_interval(0.75, 4)


def test_one_answer_for_everything_gets_no_pair() -> None:
    overall = pairs.score(lambda texts: [True] * len(texts), FOUR)[-1]
    assert overall.accuracy == 0
    assert overall.sentence_accuracy == 0.5


def test_the_pairs_that_come_with_it() -> None:
    shipped = pairs.load()
    by_category = Counter(pair.category for pair in shipped)
    assert len(shipped) >= 220
    assert set(by_category) == {"short", "negated", "contrasted", "sarcastic", "product", "restaurant"}
    assert min(by_category.values()) >= 30
    sentences = [text for pair in shipped for text in (pair.positive, pair.negative)]
    assert len({text.lower() for text in sentences}) == len(sentences)
    assert all(pair.id.startswith(pair.category) for pair in shipped)
    assert all(text == text.strip() and text[-1] in ".!?" for text in sentences)


def test_edits_are_small() -> None:
    """Both sides share most of their words: the same bag of words, or few that differ."""
    for pair in pairs.load():
        ours, theirs = (re.findall(r"[\w']+", text.lower()) for text in (pair.positive, pair.negative))
        different = sum((Counter(ours) - Counter(theirs)).values())
        matcher = SequenceMatcher(None, ours, theirs)
        assert different <= 3 or matcher.ratio() >= 0.6, pair.id
        assert ours != theirs


def test_another_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(vars(pair)) for pair in FOUR), encoding="utf-8")
    assert pairs.load(path) == FOUR
    path.write_text(json.dumps(vars(FOUR[0])) + "\n" + json.dumps(vars(FOUR[0])), encoding="utf-8")
    with pytest.raises(DataError, match="two pairs have the same id"):
        pairs.load(path)


@pytest.mark.parametrize("line", ['{"id": "a"}', "nonsense", "[1]", '{"id": "a", "kind": "b"}'])
def test_a_line_that_is_no_pair(line: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(vars(FOUR[0])) + "\n" + line, encoding="utf-8")
    with pytest.raises(DataError, match="line 2 is not a pair"):
        pairs.load(path)


@pytest.mark.parametrize(
    ("labels", "index"), [(("negative", "positive"), 1), (("POS", "NEG"), 0), (("Negative", "Positive"), 1)]
)
def test_which_label_is_the_positive_one(labels: tuple[str, str], index: int) -> None:
    assert pairs.positive_label(labels) == index


@pytest.mark.parametrize("labels", [("a", "b"), ("negative", "neutral", "positive"), ("positive", "mixed")])
def test_other_labels_have_no_pairs(labels: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="pairs are positive and negative; the model's labels are"):
        pairs.positive_label(labels)


def test_the_command(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pairs", "--models", str(finished.request.repository), "--json", str(tmp_path / "pairs.json")]
    assert main([*command, "--data", finished.request.data[0]]) == 0
    printed = capsys.readouterr().out
    listed = json.loads((tmp_path / "pairs.json").read_text(encoding="utf-8"))
    assert list(listed) == ["linear n-gram model", "small/1", "whole/1"]
    for name, scores in listed.items():
        assert name in printed
        assert [score["category"] for score in scores][-1] == "all"
        assert scores[-1]["pairs"] == len(pairs.load())


def test_a_published_version_answers(finished: Finished) -> None:
    answer = pairs.published(finished.folder("whole"))
    assert answer(["i found the film wonderful", "i found the film dull"]) == [True, False]
    console = Console(width=200, record=True)
    pairs.show({"whole": pairs.score(answer, FOUR), "good": pairs.score(says_good, FOUR)}, console)
    printed = console.export_text()
    assert "75.0%" in printed
    assert "87.5%" in printed
    assert "100.0%" in printed
