"""Owns the cores. Workers take passes from all variants' queues the moment they are free.

One lock guards the dispatcher, the jobs and the cost models; it is never held during a forward pass.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

import numpy as np

from app.background import Background, Chore
from app.cost import Point
from app.dispatch import Dispatcher, Pass
from app.errors import BertpressError, ClosingError, EngineError
from app.job import Job, Logits
from app.session import Session
from app.variant import Variant

log = logging.getLogger(__name__)
T = TypeVar("T")

# A tenth of the weight of the event loop's thread, as Linux counts it.
_NICENESS = 10


class Scheduler:
    """Runs jobs on as many worker threads as there are cores to use."""

    def __init__(self, cores: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.cores = cores
        self.failure: BertpressError | None = None
        self._clock = clock
        self._wake = threading.Condition()
        self._dispatcher = Dispatcher(cores)
        self._background = Background()
        self._chores = 0
        self._submissions = 0
        self._quiet_since = clock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"bertpress-worker-{number}", daemon=True)
            for number in range(cores)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Fail what waits, let running passes end, and join the workers."""
        self._stop(ClosingError("the service is shutting down"))
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()

    def add(self, variant: Variant) -> None:
        """Take passes from this variant's queue from now on."""
        with self._wake:
            self._dispatcher.variants.append(variant)

    def remove(self, variant: Variant) -> None:
        """Forget a variant; what still waits in its queue fails."""
        with self._wake:
            done = self._dispatcher.remove(variant)
            self._wake.notify()  # the row that waited for more cores than were free may be gone
        _deliver(done)

    def change_session(self, variant: Variant, session: Session, lone: Session | None) -> None:
        """Run a variant's passes with other sessions from now on; what runs ends as it began."""
        with self._wake:
            variant.session, variant.lone_session = session, lone
            self._wake.notify_all()

    def submit(self, job: Job) -> None:
        """Let a job's rows wait for a worker.

        Raises:
            ClosingError: the scheduler was closed.
            EngineError: the workers failed.
        """
        with self._wake:
            if self.failure is not None:
                raise self.failure
            self._refuse_if_closed()
            self._submissions += 1
            self._dispatcher.push(job, self._clock())
            self._wake.notify(len(job.rows))

    def abandon(self, job: Job) -> None:
        """Nobody waits for this job any more: drop its rows before they cost anything."""
        with self._wake:
            self._dispatcher.withdraw(job, self._clock())
            self._wake.notify()  # the row that waited for more cores than were free may be gone

    def run_in_background(self, call: Callable[[], T], cores: int = 1) -> Future[T]:
        """Run something on a worker when no request wants it, or when it has waited long enough."""
        return self._add_chore(call, cores, when_idle=False)

    def run_when_idle(self, call: Callable[[], T], cores: int = 1) -> Future[T]:
        """Run something on a worker once nothing has waited or run for a while."""
        return self._add_chore(call, cores, when_idle=True)

    def measured(self, session: Session, point: Point, seconds: float) -> None:
        """Set a point of a session's cost to what it took."""
        with self._wake:
            session.cost.measure(point, seconds)

    def all_measured(self, session: Session) -> None:
        """Let what cannot be measured of a session's cost follow from what was."""
        with self._wake:
            session.cost.extend()

    @property
    def submissions(self) -> int:
        """Jobs submitted so far: who measures can tell whether it was disturbed."""
        return self._submissions

    def backlog_seconds(self) -> float:
        """Predicted time until everything that waits would have started."""
        with self._wake:
            return self._dispatcher.forecast.seconds(self._dispatcher.backlog_seconds(self._clock()))

    def wait_seconds(self, job: Job) -> float:
        """Seconds that a job submitted now would wait for others, as far as experience goes.

        The job remembers what the costs alone predict, so that the forecast can learn how that came true.
        """
        with self._wake:
            wait = self._dispatcher.wait_seconds(job, self._clock())
            job.predicted_seconds = wait + job.own_seconds(self.cores) - job.rows[-1].cost_seconds
            return self._dispatcher.forecast.seconds(wait)

    def oldest_wait_seconds(self, variant: Variant) -> float:
        """How long the row that has waited longest for this variant has waited; 0 where none waits."""
        with self._wake:
            now = self._clock()
            return max((now - row.job.submitted for row in variant.queue.rows()), default=0.0)

    def waiting_rows(self) -> int:
        """Rows in all queues."""
        return self._dispatcher.waiting_rows

    def _work(self) -> None:
        _stand_back()
        try:
            while (task := self._take()) is not None:
                task()
                del task  # an idle worker must not keep an unloaded variant in memory
        except Exception as error:
            log.critical(
                "a worker failed outside a forward pass; the service must be restarted", exc_info=True
            )
            self.failure = EngineError(f"the workers failed: {error!r}; restart the service")
            self._stop(self.failure)

    def _take(self) -> Callable[[], None] | None:
        """Wait for the next thing to do; None when closed."""
        with self._wake:
            while not self._closed:
                now = self._clock()
                if task := self._next_task(now):
                    return task
                self._wake.wait(self._background.seconds_until_quiet(now, self._silence))
        return None

    def _next_task(self, now: float) -> Callable[[], None] | None:
        if late := self._dispatcher.drop_late(now):
            return partial(_deliver, late)
        chore = self._background.overdue(now)
        if chore is None:
            if taken := self._dispatcher.take(now):
                if self._dispatcher.waiting_rows and self._dispatcher.free_cores:
                    self._wake.notify()  # each worker that finds more than it takes wakes the next
                return partial(self._run, taken)
            if self._dispatcher.waiting_rows:
                return None  # for cores; a chore would take them away again
            chore = self._background.next(now, self._silence)
        if chore is None or not self._dispatcher.hold(chore.cores):
            return None
        self._background.start(chore)
        self._chores += 1
        return partial(self._run_chore, chore)

    @property
    def _silence(self) -> float | None:
        """Since when nothing waits and nothing runs; None while something does."""
        busy = self._chores or self._dispatcher.waiting_rows
        return None if busy or self._dispatcher.free_cores < self.cores else self._quiet_since

    def _run(self, taken: Pass) -> None:
        started = time.perf_counter()
        try:
            logits = taken.variant.logits(taken.rows, taken.session)
            if len(logits) != len(taken.rows) or not np.isfinite(logits).all():
                raise EngineError(
                    f"{taken.variant.key} gave logits of shape {logits.shape}, or not finite ones, for "
                    f"{len(taken.rows)} texts; load another build or version"
                )
        except Exception as error:
            log.exception("a batch of %s failed", taken.variant.key)
            self._finish_failed(taken, error)
        else:
            self._finish(taken, logits, time.perf_counter() - started)

    def _finish(self, taken: Pass, logits: Logits, seconds: float) -> None:
        with self._wake:
            self._quiet_since = self._clock()
            done = self._dispatcher.finish(taken, logits, seconds)
        # Before the answers go out: who has one may look at the metrics at once.
        _observe(taken, seconds)
        _deliver(done)

    def _finish_failed(self, taken: Pass, error: Exception) -> None:
        known = error if isinstance(error, BertpressError) else EngineError(f"{taken.variant.key}: {error!r}")
        with self._wake:
            self._quiet_since = self._clock()
            done = self._dispatcher.finish_failed(taken, known)
        _deliver(done)

    def _run_chore(self, chore: Chore) -> None:
        try:
            chore.run()
        finally:
            with self._wake:
                self._chores -= 1
                self._dispatcher.give_back(chore.cores)

    def _add_chore(self, call: Callable[[], T], cores: int, *, when_idle: bool) -> Future[T]:
        future: Future[T] = Future()
        with self._wake:
            self._refuse_if_closed()
            chore = Chore(call, min(cores, self.cores), future, self._clock())
            self._background.add(chore, when_idle=when_idle)
            self._wake.notify()
        return future

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ClosingError("the service is shutting down")

    def _stop(self, error: Exception) -> None:
        with self._wake:
            self._closed = True
            chores = self._background.drain()
            done = self._dispatcher.fail_all(error)
            self._wake.notify_all()
        _deliver(done)
        for chore in chores:
            if chore.future.set_running_or_notify_cancel():
                chore.future.set_exception(error)


def _observe(taken: Pass, seconds: float) -> None:
    metrics, rows = taken.variant.metrics, len(taken.rows)
    tokens = sum(row.length for row in taken.rows)
    metrics.inference_seconds.observe(seconds)
    metrics.batch_rows.observe(rows)
    metrics.tokens.inc(tokens)
    metrics.padding.inc(rows * taken.longest - tokens)
    metrics.batches[taken.reason].inc()
    metrics.cost_ratio.observe(seconds / taken.predicted_seconds)


def _stand_back() -> None:
    """Let the event loop go before this thread: it needs microseconds where a pass takes milliseconds.

    Without it a pass keeps the loop, which may hold the interpreter's lock, waiting for a core.
    """
    with suppress(OSError):  # a system without priorities of threads serves as well, if not as fast
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + _NICENESS)


def _deliver(jobs: Iterable[Job]) -> None:
    for job in jobs:
        try:
            job.on_done(job)
        except Exception:  # one caller's broken callback must not cost the others their answers
            log.exception("a caller could not be told that its answer is ready")
