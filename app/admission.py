"""Who gets in: a permit per request, then a look at whether its answer can be ready in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from app.errors import BusyError, ClosingError, DeadlineExceededError
from app.forecast import LoopLag
from app.job import Job


class Workload(Protocol):
    """What admission asks the scheduler."""

    @property
    def cores(self) -> int:
        """Cores that passes share."""
        ...

    def waiting_rows(self) -> int:
        """Rows in all queues."""
        ...

    def backlog_seconds(self) -> float:
        """Predicted time until everything that waits would have started."""
        ...

    def wait_seconds(self, job: Job) -> float:
        """Predicted time that a job submitted now would wait for others."""
        ...


class Admission:
    """Lives on the event loop. Refuses rather than letting anybody wait for what cannot come in time.

    Retry-After is the time by which the work before the request is too much: it drains a second a second.
    It carries no jitter. Who was refused at different moments comes back at different moments, and a client
    that sends many requests at once spreads them better than we, who cannot tell its requests apart.
    """

    def __init__(self, scheduler: Workload, max_requests: int, max_queue_texts: int) -> None:
        self._scheduler = scheduler
        self._max_requests, self._max_queue_texts = max_requests, max_queue_texts
        self._closed = False
        self.in_flight = 0
        self.lag = LoopLag()

    @property
    def closed(self) -> bool:
        """True once the service is shutting down."""
        return self._closed

    def close(self) -> None:
        """Admit nothing new; what was admitted goes on."""
        self._closed = True

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold one of the permits.

        Raises:
            ClosingError: the service is shutting down.
            BusyError: all permits are held.
        """
        if self._closed:
            raise ClosingError("the service is shutting down; send the request to another instance")
        if self.in_flight >= self._max_requests:
            raise BusyError(
                f"{self.in_flight} requests are being answered, the most at once (BERTPRESS_MAX_REQUESTS)",
                retry_after_seconds=self._scheduler.backlog_seconds(),
            )
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def check(self, job: Job, deadline: float, now: float) -> None:
        """Judge a job by when it would be finished.

        Raises:
            DeadlineExceededError: it would be late even if nobody else were waiting.
            BusyError: the queue is full, or others make it late; carries when it could be in time.
        """
        own = job.own_seconds(self._scheduler.cores)
        if now + own > deadline:
            raise DeadlineExceededError(
                f"the texts need about {own * 1000:.0f} ms, more than is left of timeout_ms; "
                "give it more, or send fewer or shorter texts"
            )
        waiting = self._scheduler.waiting_rows()
        if waiting + len(job.rows) > self._max_queue_texts:
            raise BusyError(
                f"{waiting} texts are waiting and {self._max_queue_texts} may (BERTPRESS_MAX_QUEUE_TEXTS); "
                "come back after Retry-After",
                retry_after_seconds=self._scheduler.backlog_seconds(),
            )
        allowance = self.lag.allowance(deadline - now - own)
        late = now + self._scheduler.wait_seconds(job) + own + allowance - deadline
        if late > 0:
            raise BusyError(
                f"the answer would come {late * 1000:.0f} ms after timeout_ms because others are waiting; "
                "come back after Retry-After",
                retry_after_seconds=late,
            )
