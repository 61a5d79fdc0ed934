"""Owns the cores. Workers take batches from all variants' queues the moment they are free.

One lock guards the queues, the jobs and the cost models; it is never held during a forward pass.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from app.batcher import next_batch
from app.errors import BertpressError, ClosingError, DeadlineExceededError, EngineError
from app.job import Job, Logits, Row
from app.variant import Variant

log = logging.getLogger(__name__)

# Background work gives way to requests, but a busy service must still be able to load a new version.
_BACKGROUND_PATIENCE_SECONDS = 0.1


@dataclass(eq=False, frozen=True, slots=True)
class _Batch:
    variant: Variant
    rows: list[Row]
    taken: float
    predicted_end: float

    @property
    def longest(self) -> int:
        return max(row.length for row in self.rows)


@dataclass(frozen=True, slots=True)
class _Background:
    call: Callable[[], None]
    future: Future[None]
    submitted: float

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.call()
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(None)


class Scheduler:
    """Runs jobs on a fixed number of worker threads."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.workers = workers
        self.failure: BertpressError | None = None
        self._clock = clock
        self._wake = threading.Condition()
        self._variants: list[Variant] = []
        self._background: deque[_Background] = deque()
        self._running: set[_Batch] = set()
        self._idle = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"bertpress-worker-{number}", daemon=True)
            for number in range(workers)
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
        """Take batches from this variant's queue from now on."""
        with self._wake:
            self._variants.append(variant)

    def remove(self, variant: Variant) -> None:
        """Forget a variant; what still waits in its queue fails."""
        with self._wake:
            self._variants.remove(variant)
            done = self._give_up(_jobs_of(variant), ClosingError(f"{variant.key} was unloaded"))
        _deliver(done)

    def submit(self, job: Job) -> None:
        """Let a job's rows wait for a worker.

        Raises:
            ClosingError: the scheduler was closed.
            EngineError: the workers failed.
        """
        with self._wake:
            if self.failure is not None:
                raise self.failure
            if self._closed:
                raise ClosingError("the service is shutting down")
            job.submitted = self._clock()
            for row in job.rows:
                job.variant.queue.push(row)
            self._wake.notify(len(job.rows))

    def abandon(self, job: Job) -> None:
        """Nobody waits for this job any more: drop its rows before they cost anything."""
        with self._wake:
            job.finished = True
            job.variant.queue.remove(job.rows)

    def run_in_background(self, call: Callable[[], None]) -> Future[None]:
        """Run something on a worker when no request wants it, or when it has waited long enough."""
        future: Future[None] = Future()
        with self._wake:
            if self._closed:
                raise ClosingError("the service is shutting down")
            self._background.append(_Background(call, future, self._clock()))
            self._wake.notify()
        return future

    def backlog_seconds(self) -> float:
        """Predicted time until a row submitted now would start."""
        with self._wake:
            now = self._clock()
            waiting = sum(variant.queue.cost_seconds for variant in self._variants)
            running = sum(max(batch.predicted_end - now, 0.0) for batch in self._running)
            return (waiting + running) / self.workers

    def oldest_wait_seconds(self, variant: Variant) -> float:
        """How long the row that has waited longest for this variant has waited; 0 where none waits."""
        with self._wake:
            now = self._clock()
            return max((now - row.job.submitted for row in variant.queue.rows()), default=0.0)

    def waiting_rows(self) -> int:
        """Rows in all queues."""
        return sum(len(variant.queue) for variant in self._variants)

    def _work(self) -> None:
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
        """Wait for the most urgent thing to do; None when closed."""
        with self._wake:
            while not self._closed:
                now = self._clock()
                if expired := self._drop_expired(now):
                    return partial(_deliver, expired)
                variant = self._most_urgent()
                if self._background and (variant is None or self._background_is_due(now)):
                    return self._background.popleft().run
                if variant is not None:
                    return partial(self._run, self._form_batch(variant, now))
                self._idle += 1
                self._wake.wait()
                self._idle -= 1
        return None

    def _drop_expired(self, now: float) -> list[Job]:
        done: list[Job] = []
        for variant in self._variants:
            while (row := variant.queue.earliest()) is not None and row.deadline <= now:
                done += self._give_up([row.job], DeadlineExceededError("the request expired in the queue"))
        return done

    def _most_urgent(self) -> Variant | None:
        best, best_key = None, (float("inf"), 0)
        for variant in self._variants:
            row = variant.queue.earliest()
            if row is not None and (row.deadline, row.arrival) < best_key:
                best, best_key = variant, (row.deadline, row.arrival)
        return best

    def _background_is_due(self, now: float) -> bool:
        return now - self._background[0].submitted > _BACKGROUND_PATIENCE_SECONDS

    def _form_batch(self, variant: Variant, now: float) -> _Batch:
        seed = variant.queue.earliest()
        assert seed is not None  # noqa: S101  _most_urgent saw it under this lock
        others = variant.queue.others(seed)
        rows = next_batch(seed, others, variant.cost, variant.limits, now, self._idle + 1)
        variant.queue.remove(rows)
        longest = max(row.length for row in rows)
        batch = _Batch(variant, rows, now, now + variant.cost(len(rows), longest))
        self._running.add(batch)
        return batch

    def _run(self, batch: _Batch) -> None:
        started = time.perf_counter()
        try:
            logits = batch.variant.logits(batch.rows)
            if len(logits) != len(batch.rows) or not np.isfinite(logits).all():
                raise EngineError(
                    f"{batch.variant.key} gave logits of shape {logits.shape}, or not finite ones, for "
                    f"{len(batch.rows)} texts; load another build or version"
                )
        except Exception as error:
            log.exception("a batch of %s failed", batch.variant.key)
            self._finish_failed(batch, error)
        else:
            self._finish(batch, logits, time.perf_counter() - started)

    def _finish(self, batch: _Batch, logits: Logits, seconds: float) -> None:
        variant, longest = batch.variant, batch.longest
        with self._wake:
            self._running.discard(batch)
            variant.cost.observe(len(batch.rows), longest, seconds)
            done = [
                row.job
                for row, row_logits in zip(batch.rows, logits, strict=True)
                if row.job.answer(row, row_logits, batch.taken - row.job.submitted, seconds, len(batch.rows))
            ]
        # Before the answers go out: who has one may look at the metrics at once.
        _observe(batch, seconds)
        _deliver(done)

    def _finish_failed(self, batch: _Batch, error: Exception) -> None:
        known = error if isinstance(error, BertpressError) else EngineError(f"{batch.variant.key}: {error!r}")
        with self._wake:
            self._running.discard(batch)
            done = self._give_up({row.job for row in batch.rows}, known)
        _deliver(done)

    def _give_up(self, jobs: Iterable[Job], error: Exception) -> list[Job]:
        """Fail jobs and forget their waiting rows; returns those that were not over before."""
        done = []
        for job in jobs:
            job.variant.queue.remove(job.rows)
            if job.fail(error):
                done.append(job)
        return done

    def _stop(self, error: Exception) -> None:
        with self._wake:
            self._closed = True
            background, self._background = self._background, deque()
            waiting = {job for variant in self._variants for job in _jobs_of(variant)}
            done = self._give_up(waiting, error)
            self._wake.notify_all()
        _deliver(done)
        for item in background:
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(error)


def _jobs_of(variant: Variant) -> set[Job]:
    return {row.job for row in variant.queue.rows()}


def _observe(batch: _Batch, seconds: float) -> None:
    metrics, rows = batch.variant.metrics, len(batch.rows)
    tokens = sum(row.length for row in batch.rows)
    metrics.inference_seconds.observe(seconds)
    metrics.batch_rows.observe(rows)
    metrics.tokens.inc(tokens)
    metrics.padding.inc(rows * batch.longest - tokens)
    metrics.cost_ratio.observe(seconds / (batch.predicted_end - batch.taken))


def _deliver(jobs: Iterable[Job]) -> None:
    for job in jobs:
        try:
            job.on_done(job)
        except Exception:  # one caller's broken callback must not cost the others their answers
            log.exception("a caller could not be told that its answer is ready")
