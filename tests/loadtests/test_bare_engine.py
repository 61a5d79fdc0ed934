from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from loadtests import bare_engine
from loadtests.bare_engine import InFlight, Schedule, rows_of, texts_per_second
from tests.app.tiny import publish


def row(length: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.zeros(length, dtype=np.int64)


def lengths(taken: list[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> list[int]:
    return [len(one) for one in taken]


def test_the_oldest_request_leaves_with_those_nearest_to_it_in_length() -> None:
    in_flight = InFlight(itertools.cycle(map(row, (5, 90, 7, 50, 4, 60, 1, 2, 3))), 5)

    assert lengths(in_flight.take(3)) == [5, 7, 4]
    in_flight.answered(3)
    assert lengths(in_flight.take(2)) == [90, 60]
    assert lengths(in_flight.take(1)) == [50]


def test_what_is_computed_is_in_flight_until_it_is_answered() -> None:
    in_flight = InFlight(itertools.cycle(map(row, (5, 90, 7, 50))), 3)

    assert lengths(in_flight.take(2)) == [5, 7]
    assert lengths(in_flight.take(2)) == [90]
    in_flight.answered(2)
    assert lengths(in_flight.take(3)) == [50, 5]


def test_the_last_requests_leave_nothing_in_flight() -> None:
    in_flight = InFlight(map(row, (5, 90, 7)), 2)

    assert lengths(in_flight.take(2)) == [5, 90]
    in_flight.answered(2)
    assert lengths(in_flight.take(2)) == [7]
    in_flight.answered(1)
    assert in_flight.take(2) == []


def test_texts_are_encoded_as_they_are_taken_or_all_beforehand() -> None:
    encoded: list[str] = []

    def encode(text: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        encoded.append(text)
        return row(len(text))

    late = rows_of(["a", "bb"], encode, True)(3)()
    assert encoded == []
    assert lengths(list(late)) == [1, 2, 1]
    assert encoded == ["a", "bb", "a"]

    early = rows_of(["a", "bb"], encode, False)(3)()
    assert encoded[3:] == ["a", "bb"]
    assert lengths(list(early)) == [1, 2, 1]
    assert len(encoded) == 5


def test_workers_share_one_turn_through_the_texts() -> None:
    supply = rows_of(["a", "bb", "ccc"], lambda text: row(len(text)), True)(4)
    first, second = supply(), supply()

    assert [len(next(worker)) for worker in (first, second, second, first)] == [1, 2, 3, 1]
    assert (next(first, None), next(second, None)) == (None, None)


def test_all_workers_go_on_until_there_is_no_text_left() -> None:
    ticks, work = itertools.count(step=20), [iter([2, 2, 1, 0]), iter([3, 0])]

    rate = texts_per_second([work[0].__next__, work[1].__next__], lambda: float(next(ticks)))

    assert rate == 8 / 20


def test_a_failing_engine_is_not_a_slow_one() -> None:
    with pytest.raises(ZeroDivisionError):
        texts_per_second([lambda: 1 // 0])


@pytest.mark.parametrize("schedule", [Schedule(1, 2), Schedule(2, 1), Schedule(1, 1, 4)])
@pytest.mark.parametrize("tokenize", [True, False])
def test_every_schedule_gives_a_rate(
    schedule: Schedule,
    tokenize: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    order = {
        "folder": str(publish(tmp_path)),
        "build": "onnx-fp32",
        "schedule": [schedule.sessions, schedule.threads, schedule.rows],
        "texts": ["a great film", "bad"],
        "tokenize": tokenize,
        "count": 25,
        "in_flight": 8,
    }
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(order)))

    bare_engine.main()

    assert float(capsys.readouterr().out) > 0


def test_a_schedule_is_said_in_words() -> None:
    assert str(Schedule(1, 2)) == "1 session x 2 threads, one text at a time"
    assert str(Schedule(2, 1, 8)) == "2 sessions x 1 thread, batches of 8 of like length"
