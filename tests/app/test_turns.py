from __future__ import annotations

import random

import pytest

from app.turns import LEAD_WEIGHT, LOW_PATIENCE_SECONDS, Turns, may_go_low, turn


def test_a_clients_rows_start_one_after_another() -> None:
    turns = Turns()
    assert [turns.enter("a", 2.0) for _ in range(3)] == [0.0, 2.0, 4.0]
    assert turns.enter("b", 1.0) == 0.0
    assert (turns.next_start("a"), turns.next_start("b"), turns.next_start("c")) == (6.0, 1.0, 0.0)


def test_who_comes_later_starts_where_the_others_are() -> None:
    turns = Turns()
    for _ in range(3):
        turns.enter("a", 2.0)
    turns.reach(2.0)
    turns.leave("a")
    assert turns.enter("b", 1.0) == 2.0
    assert turns.next_start("a") == 6.0


def test_virtual_time_does_not_go_back() -> None:
    turns = Turns()
    for _ in range(3):
        turns.enter("a", 2.0)
    turns.reach(4.0)
    turns.reach(0.0)
    assert turns.next_start("b") == 4.0


def test_nothing_is_remembered_once_nothing_waits() -> None:
    turns = Turns()
    for client in ("a", "b"):
        turns.enter(client, 5.0)
    for client in ("a", "b"):
        turns.leave(client)
        turns.reach(5.0)
    assert not turns._flows
    assert turns.next_start("a") == 0.0


@pytest.mark.parametrize("number", range(20))
def test_busy_clients_get_equal_shares(number: int) -> None:
    """Served by start tag alone, two clients who always wait differ by at most one row each."""
    draw = random.Random(number)
    turns, served, waiting = Turns(), {"a": 0.0, "b": 0.0}, []
    for client in ("a", "b"):
        for _ in range(300):
            cost = draw.uniform(0.5, 5.0 if client == "a" else 1.0)
            waiting.append((turns.enter(client, cost), cost, client))
    for start, cost, client in sorted(waiting)[:200]:
        turns.reach(start)
        turns.leave(client)
        served[client] += cost
        assert abs(served["a"] - served["b"]) <= 5.0 + 1.0


def test_the_deadline_decides_between_equals() -> None:
    assert turn(1.0, 5.0, "normal", 0.0) < turn(1.0, 6.0, "normal", 0.0)


def test_a_lead_counts_as_lateness() -> None:
    assert turn(0.1, 10.0, "normal", 0.0) == pytest.approx(turn(0.0, 10.0 + 0.1 * LEAD_WEIGHT, "normal", 0.0))


def test_high_goes_before_normal_of_equal_slack() -> None:
    assert turn(0.0, 10.0, "high", 0.0) < turn(0.0, 10.0, "normal", 0.0)
    assert turn(0.0, 10.0, "high", 0.0) < turn(0.0, 2.0, "normal", 0.0)
    assert turn(0.0, 10.0, "high", 0.0) > turn(0.0, 0.5, "normal", 0.0)


def low(**changed: float) -> bool:
    asked = {
        "now": 100.0,
        "low_deadline": 102.0,
        "low_seconds": 1.0,
        "low_waits_since": 99.9,
        "deadline": 104.0,
        "work_seconds": 2.0,
    }
    return may_go_low(**{**asked, **changed})


def test_low_goes_where_nobody_is_late_for_it() -> None:
    assert low()
    assert not low(low_deadline=105.0), "the others are due first"
    assert not low(work_seconds=3.5), "the others would be late"


def test_low_is_not_starved() -> None:
    starving = {"low_deadline": 1e9, "work_seconds": 1e9}
    assert not low(**starving, low_waits_since=100.1 - LOW_PATIENCE_SECONDS)
    assert low(**starving, low_waits_since=100.0 - LOW_PATIENCE_SECONDS)
