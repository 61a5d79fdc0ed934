from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.job import Row
from app.queue import Lane, Queue


def make_row(length: int, turn: float = 1.0, deadline: float = 1.0) -> Row:
    job: Any = SimpleNamespace()
    row = Row(job, 0, np.zeros(length, dtype=np.int64), deadline, cost_seconds=length / 10)
    row.turn = turn
    return row


@pytest.fixture(params=[True, False])
def lane(request: pytest.FixtureRequest) -> Iterator[Lane]:
    yield Lane(keep_lengths=request.param)


def test_an_empty_lane(lane: Lane) -> None:
    assert lane.first() is None
    assert lane.earliest() is None
    assert len(lane) == 0
    assert lane.cost_seconds == lane.cost_before(9.0) == 0


def test_the_least_turn_comes_first_and_equals_in_order(lane: Lane) -> None:
    rows = [make_row(3, 9.0), make_row(4, 5.0), make_row(5, 5.0)]
    for row in rows:
        lane.push(row)
    taken = []
    while (first := lane.first()) is not None:
        lane.remove(first)
        taken.append(first)
    assert taken == [rows[1], rows[2], rows[0]]


def test_the_nearest_deadline_may_be_another_row(lane: Lane) -> None:
    rows = [make_row(3, turn=1.0, deadline=9.0), make_row(4, turn=2.0, deadline=5.0)]
    for row in rows:
        lane.push(row)
    assert (lane.first(), lane.earliest()) == (rows[0], rows[1])
    lane.remove(rows[1])
    assert (lane.first(), lane.earliest()) == (rows[0], rows[0])


def test_counts_and_costs_follow(lane: Lane) -> None:
    rows = [make_row(length) for length in (1, 2, 3)]
    for row in rows:
        lane.push(row)
    assert len(lane) == 3
    assert lane.cost_seconds == pytest.approx(0.6)
    lane.remove(rows[1])
    assert len(lane) == 2
    assert lane.cost_seconds == pytest.approx(0.4)
    assert set(lane.rows()) == {rows[0], rows[2]}
    lane.remove(rows[0])
    lane.remove(rows[2])
    assert (len(lane), lane.cost_seconds) == (0, 0)


def test_the_work_before_a_turn(lane: Lane) -> None:
    draw = random.Random(0)
    rows = [make_row(draw.randint(1, 9), turn=draw.uniform(-5, 50)) for _ in range(300)]
    for row in rows:
        lane.push(row)
    for row in rows[:100]:
        lane.remove(row)
    for turn in (-6.0, 0.0, 7.3, 51.0):
        sure = sum(row.cost_seconds for row in rows[100:] if row.turn < turn - 0.1)
        possible = sum(row.cost_seconds for row in rows[100:] if row.turn <= turn + 0.1)
        assert sure - 1e-9 <= lane.cost_before(turn) <= possible + 1e-9


def test_others_are_in_order_of_length() -> None:
    lane, draw = Lane(keep_lengths=True), random.Random(0)
    rows = [make_row(draw.randint(1, 9), draw.random()) for _ in range(50)]
    for row in rows:
        lane.push(row)
    for row in rows[:20]:
        lane.remove(row)
    seed = rows[30]
    others = lane.others(seed)
    assert set(others) == set(rows[20:]) - {seed}
    assert [row.length for row in others] == sorted(row.length for row in others)


def test_rows_given_up_leave_memory_before_their_turn(lane: Lane) -> None:
    for _ in range(5):
        rows = [make_row(1, 1e9, 1e9) for _ in range(200)]
        for row in rows:
            lane.push(row)
        for row in rows:
            lane.remove(row)
    assert len(lane._by_turn) <= 300
    assert len(lane._by_deadline) <= 300


def test_low_rows_have_a_lane_of_their_own() -> None:
    queue = Queue(keep_lengths=False)
    rows = [make_row(1), make_row(2)]
    queue.lane(low=False).push(rows[0])
    queue.lane(low=True).push(rows[1])
    assert (queue.ordinary.first(), queue.low.first()) == (rows[0], rows[1])
    assert len(queue) == 2
    assert queue.rows() == rows
