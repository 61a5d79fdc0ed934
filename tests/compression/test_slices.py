from __future__ import annotations

import numpy as np
import pytest

from compression.slices import all_slices, by_length, by_negation, by_value


def test_every_length_stands_in_one_slice() -> None:
    tokens = np.array([2, 64, 65, 128, 256, 257, 512, 513, 4000])
    found = by_length(tokens)
    assert np.stack(list(found.values())).sum(0).tolist() == [1] * 9
    assert found["65 to 128 tokens"].tolist() == [False, False, True, True] + [False] * 5
    assert found["more than 512 tokens"].sum() == 2


@pytest.mark.parametrize(
    ("text", "negated"),
    [
        ("It is NOT bad", True),
        ("I don't mind", True),
        ("I don’t mind", True),
        ("hardly a dull scene", True),
        ("nothing works", True),
        ("a notable knot of nonsense", False),
        ("wonderful", False),
    ],
)
def test_words_of_negation(text: str, negated: bool) -> None:
    found = by_negation([text])
    assert found["with a negation"].tolist() == [negated]
    assert found["without a negation"].tolist() == [not negated]


def test_values_stand_in_order() -> None:
    found = by_value("rating", ["10", "2", "10", "none", ""])
    assert list(found) == ["rating 2", "rating 10", "rating none"]
    assert found["rating 10"].tolist() == [True, False, True, False, False]


def test_only_slices_that_say_something() -> None:
    found = all_slices(["no", "yes", "good"], np.array([3, 3, 30]), 16, {"rating": ["1", "9", "9"]})
    assert set(found) == {
        "read as a whole",
        "truncated",
        "with a negation",
        "without a negation",
        "rating 1",
        "rating 9",
    }
    assert found["truncated"].tolist() == [False, False, True]
