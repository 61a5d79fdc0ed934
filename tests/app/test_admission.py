from __future__ import annotations

from typing import Any

import pytest

from app.admission import Admission
from app.errors import BusyError, ClosingError, DeadlineExceededError


class FakeScheduler:
    cores = 2

    def __init__(self, backlog: float = 0.0, waiting: int = 0) -> None:
        self._backlog, self._waiting = backlog, waiting

    def backlog_seconds(self) -> float:
        return self._backlog

    def wait_seconds(self, _: Any) -> float:
        return self._backlog

    def waiting_rows(self) -> int:
        return self._waiting


class FakeRow:
    def __init__(self, cost_seconds: float) -> None:
        self.cost_seconds = cost_seconds


class FakeJob:
    def __init__(self, *costs: float) -> None:
        self.rows = [FakeRow(cost) for cost in costs]
        self._cost_seconds = sum(costs)

    def own_seconds(self, _: int) -> float:
        return self._cost_seconds


def admission(
    backlog: float = 0.0, waiting: int = 0, max_requests: int = 2, max_queue_texts: int = 10
) -> Admission:
    scheduler: Any = FakeScheduler(backlog, waiting)
    return Admission(scheduler, max_requests, max_queue_texts)


def check(admission: Admission, *costs: float, deadline: float) -> None:
    job: Any = FakeJob(*costs)
    admission.check(job, deadline, now=100.0)


def test_permits_are_counted_and_come_back() -> None:
    gate = admission(backlog=2.5)
    with gate.permit(), gate.permit():
        assert gate.in_flight == 2
        with pytest.raises(BusyError, match="BERTPRESS_MAX_REQUESTS") as caught, gate.permit():
            pass
        assert caught.value.retry_after_seconds == 2.5
    with pytest.raises(ZeroDivisionError), gate.permit():
        raise ZeroDivisionError
    assert gate.in_flight == 0


def test_nothing_new_once_closing() -> None:
    gate = admission()
    with gate.permit():
        gate.close()
        assert gate.closed
    with pytest.raises(ClosingError), gate.permit():
        pass


def test_in_time_is_admitted() -> None:
    check(admission(backlog=3.0), 1.0, deadline=104.0)


def test_a_late_event_loop_takes_its_share_of_the_time() -> None:
    gate = admission(backlog=3.0)
    check(gate, 0.9, deadline=104.0)
    for _ in range(1000):
        gate.lag.observe(0.1)
    with pytest.raises(BusyError):
        check(gate, 0.9, deadline=104.0)
    check(gate, 0.9, deadline=104.2)


def test_what_would_be_late_anyway_is_not_busy() -> None:
    with pytest.raises(DeadlineExceededError):
        check(admission(backlog=3.0), 5.0, deadline=104.0)


def test_late_because_of_others_says_when_it_would_not_be() -> None:
    with pytest.raises(BusyError) as caught:
        check(admission(backlog=30.0), 1.0, deadline=110.0)
    assert caught.value.retry_after_seconds == pytest.approx(21.0)


def test_a_full_queue() -> None:
    check(admission(waiting=8), 0.1, 0.1, deadline=110.0)
    with pytest.raises(BusyError, match="BERTPRESS_MAX_QUEUE_TEXTS"):
        check(admission(waiting=9), 0.1, 0.1, deadline=110.0)
