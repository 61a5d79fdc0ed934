from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.job import Row
from app.queue import Queue


def make_row(length: int, deadline: float = 1.0) -> Row:
    job: Any = SimpleNamespace()
    return Row(job, 0, np.zeros(length, dtype=np.int64), deadline, cost_seconds=length / 10)


@pytest.fixture(params=[True, False])
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    yield Queue(keep_lengths=request.param)


def test_an_empty_queue(queue: Queue) -> None:
    assert queue.earliest() is None
    assert len(queue) == 0
    assert queue.cost_seconds == 0


def test_the_nearest_deadline_comes_first_and_equals_in_order(queue: Queue) -> None:
    rows = [make_row(3, 9.0), make_row(4, 5.0), make_row(5, 5.0)]
    for row in rows:
        queue.push(row)
    taken = []
    while (first := queue.earliest()) is not None:
        queue.remove([first])
        taken.append(first)
    assert taken == [rows[1], rows[2], rows[0]]


def test_counts_and_costs_follow(queue: Queue) -> None:
    rows = [make_row(length) for length in (1, 2, 3)]
    for row in rows:
        queue.push(row)
    assert len(queue) == 3
    assert queue.cost_seconds == pytest.approx(0.6)
    queue.remove([rows[1], rows[1]])
    assert len(queue) == 2
    assert queue.cost_seconds == pytest.approx(0.4)
    assert set(queue.rows()) == {rows[0], rows[2]}
    queue.remove(rows)
    assert (len(queue), queue.cost_seconds) == (0, 0)


def test_others_are_in_order_of_length() -> None:
    queue, draw = Queue(keep_lengths=True), random.Random(0)
    rows = [make_row(draw.randint(1, 9), draw.random()) for _ in range(50)]
    for row in rows:
        queue.push(row)
    queue.remove(rows[:20])
    seed = rows[30]
    others = queue.others(seed)
    assert set(others) == set(rows[20:]) - {seed}
    assert [row.length for row in others] == sorted(row.length for row in others)


def test_rows_given_up_leave_memory_before_their_deadline(queue: Queue) -> None:
    for _ in range(5):
        rows = [make_row(1, 1e9) for _ in range(200)]
        for row in rows:
            queue.push(row)
        queue.remove(rows)
    assert len(queue._heap) <= 300
