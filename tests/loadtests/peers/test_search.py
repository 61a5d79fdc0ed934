from __future__ import annotations

import pytest

from loadtests.peers.search import MOST_RUNS, RESOLUTION, Found, Search


def searched(limit: float, low: float, high: float) -> Found:
    """A search in a world where every rate up to the limit is sustained."""
    search = Search(low, high)
    while (rate := search.next_rate()) is not None:
        search.learn(rate, rate <= limit)
    return search.found


@pytest.mark.parametrize("limit", [45.0, 70.0, 99.0])
def test_a_limit_within_the_bracket_is_found_to_the_resolution(limit: float) -> None:
    found = searched(limit, 40, 105)

    assert found.too_much is not None
    assert found.rate <= limit < found.too_much
    assert found.too_much / found.rate < 1 + RESOLUTION
    assert found.runs <= MOST_RUNS


def test_a_limit_above_the_bracket_is_reached_by_widening() -> None:
    found = searched(120, 40, 105)

    assert 100 < found.rate <= 120


def test_a_limit_below_the_bracket_is_reached_by_widening() -> None:
    found = searched(36, 40, 44)

    assert found.too_much is not None
    assert 30 < found.rate <= 36 < found.too_much


def test_nothing_sustained_is_nothing_found() -> None:
    found = searched(0, 40, 105)

    assert (found.rate, found.runs) == (0, MOST_RUNS)


def test_a_server_that_answered_nothing_is_not_searched() -> None:
    assert Search(0, 0).next_rate() is None
    assert Search(0, 0).found == Found(0, None, 0)
