from __future__ import annotations

from collections import Counter

import pytest

from compression.cleaning import clean, stratified_split, unrepeated, unseen


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("one<br />two", "one two"),
        ("one<br/><BR>two<br  />", "one two"),
        ("fish &amp; chips &#39;n&#39; peas &quot;here&quot;", "fish & chips 'n' peas \"here\""),
        ("  a \t b\n\n c\u00a0d ", "a b c d"),
        ("a < b and <i>c</i>", "a < b and <i>c</i>"),
        ("&lt;br /&gt;", "<br />"),
        ("<br />", ""),
    ],
)
def test_clean(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


def test_the_first_of_equal_texts_stays_unless_they_disagree() -> None:
    assert unrepeated(["a", "b", "a", "c", "c"], [0, 1, 0, 0, 1]) == ([0, 1], 1)
    assert unrepeated(["a", "b", "a"], None) == ([0, 1], 0)


def test_rows_that_stand_in_no_other_part() -> None:
    assert unseen(["a", "b", "c"], [["c"], ["x", "a"]]) == [1]


def test_the_split_is_stratified_and_seeded() -> None:
    labels = [index % 10 == 0 for index in range(1000)]
    kept, held = stratified_split([int(label) for label in labels], 0.1, seed=3)
    assert Counter(labels[index] for index in held) == {False: 90, True: 10}
    assert sorted(kept + held) == list(range(1000))
    assert stratified_split([int(label) for label in labels], 0.1, seed=3) == (kept, held)
    assert stratified_split([int(label) for label in labels], 0.1, seed=4) != (kept, held)


def test_the_smallest_class_gives_one_row() -> None:
    _, held = stratified_split([0] * 100 + [1] * 2, 0.05, seed=0)
    assert sum(index >= 100 for index in held) == 1


def test_the_only_row_of_a_class_is_not_held_out() -> None:
    kept, held = stratified_split([0] * 10 + [1], 0.5, seed=0)
    assert 10 in kept
    assert len(held) == 5
