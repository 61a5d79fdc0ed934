"""What runs next, and on which cores. No lock, no thread, no clock: the scheduler has them.

Every pass holds as many cores as it has threads, background work as many as it says, and never are more held
than there are. The row whose turn it is decides which variant runs; where that needs a second core and one
is free, it waits for the second: narrower passes that went before would keep it waiting for good.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.batcher import Reason, next_batch
from app.errors import ClosingError, DeadlineExceededError
from app.forecast import Forecast
from app.job import Job, Logits, Row
from app.session import Session
from app.turns import Turns, may_go_low, turn
from app.variant import Variant

# A row that would have to take less than this share of its predicted time is late for certain.
_HOPELESS_SHARE = 0.5


@dataclass(eq=False, frozen=True, slots=True)
class Pass:
    """Rows on their way through an engine."""

    variant: Variant
    session: Session
    rows: list[Row]
    reason: Reason
    taken: float
    predicted_seconds: float

    @property
    def longest(self) -> int:
        """The length that all rows are padded to."""
        return max(row.length for row in self.rows)

    def seconds_left(self, now: float) -> float:
        """Predicted."""
        return max(self.taken + self.predicted_seconds - now, 0.0)


class Dispatcher:
    """The waiting rows of all variants, and the cores they are given."""

    def __init__(self, cores: int) -> None:
        self.cores = self.free_cores = cores
        self.variants: list[Variant] = []
        self.forecast = Forecast()
        self._running: set[Pass] = set()
        self._turns = {False: Turns(), True: Turns()}
        self._low_waits_since = 0.0

    @property
    def waiting_rows(self) -> int:
        """Rows in all queues."""
        return sum(len(variant.queue) for variant in self.variants)

    def remove(self, variant: Variant) -> list[Job]:
        """Forget a variant; returns the jobs that waited for it."""
        self.variants.remove(variant)
        return self.fail(_jobs_of([variant]), ClosingError(f"{variant.key} was unloaded"))

    def push(self, job: Job, now: float) -> None:
        """Let a job's rows wait."""
        job.submitted = now
        turns = self._turns[job.low]
        if job.low and not any(variant.queue.low for variant in self.variants):
            self._low_waits_since = now
        threads = job.variant.session.threads
        for row in job.rows:
            row.start = turns.enter(job.flow, row.cost_seconds * threads)
            row.turn = turn(row.start, row.deadline, job.priority, now)
            job.variant.queue.lane(low=job.low).push(row)

    def withdraw(self, job: Job, now: float) -> None:
        """Nobody waits for this job any more: its rows must not cost anything."""
        if now >= job.rows[0].deadline:
            self._learn_from_late(job, now)
        job.finished = True
        self._forget(job.rows)

    def fail(self, jobs: Iterable[Job], error: Exception) -> list[Job]:
        """Give jobs up and forget their waiting rows; returns those that were not over before."""
        done = []
        for job in jobs:
            self._forget(job.rows)
            if job.fail(error):
                done.append(job)
        return done

    def fail_all(self, error: Exception) -> list[Job]:
        """Give up everything that waits."""
        return self.fail(_jobs_of(self.variants), error)

    def drop_late(self, now: float) -> list[Job]:
        """Give up what has expired, and what comes next and would be late for certain."""
        done: list[Job] = []
        for lane in [lane for v in self.variants for lane in (v.queue.ordinary, v.queue.low)]:
            while (row := lane.earliest()) is not None and row.deadline <= now:
                done += self._expire(row.job, now)
            while (row := lane.first()) is not None and self._is_hopeless(row, now):
                done += self._expire(row.job, now)
        return done

    def take(self, now: float) -> Pass | None:
        """The next pass, its cores held; None where nothing waits or the cores do not suffice."""
        seed = self._next_row(now)
        if seed is None:
            return None
        variant, lane = seed.job.variant, seed.job.variant.queue.lane(low=seed.job.low)
        session, limits = variant.session, variant.limits
        if session.threads > self.free_cores:
            return None
        workers = self.free_cores // session.threads
        batch = next_batch(seed, lane.others(seed), session.cost, limits, now, workers)
        if seed.job.low:
            self._low_waits_since = now
        self._forget(batch.rows)
        self._turns[seed.job.low].reach(seed.start)
        session = self._widest(variant, batch.rows)
        longest = max(row.length for row in batch.rows)
        seconds = session.cost(len(batch.rows), longest)
        taken = Pass(variant, session, batch.rows, batch.reason, now, seconds)
        self.free_cores -= session.threads
        self._running.add(taken)
        return taken

    def finish(self, done: Pass, logits: Logits, seconds: float) -> list[Job]:
        """Give the cores back, learn the cost, answer the rows; returns the jobs that are over."""
        self._end(done)
        done.session.cost.observe(len(done.rows), done.longest, seconds)
        jobs = [
            row.job
            for row, row_logits in zip(done.rows, logits, strict=True)
            if row.job.answer(row, row_logits, done.taken - row.job.submitted, seconds, len(done.rows))
        ]
        for job in jobs:
            self.forecast.observe(job.predicted_seconds, _seconds_for_others(job))
        return jobs

    def finish_failed(self, done: Pass, error: Exception) -> list[Job]:
        """Give the cores back and fail the rows' jobs; returns those that were not over before."""
        self._end(done)
        return self.fail({row.job for row in done.rows}, error)

    def hold(self, cores: int) -> bool:
        """Take cores for something else; False where there are not so many free."""
        if cores > self.free_cores:
            return False
        self.free_cores -= cores
        return True

    def give_back(self, cores: int) -> None:
        """What `hold` took."""
        self.free_cores += cores

    def backlog_seconds(self, now: float) -> float:
        """Predicted time until everything that waits would have started."""
        lanes = [(v, lane) for v in self.variants for lane in (v.queue.ordinary, v.queue.low)]
        waiting = sum(lane.cost_seconds * variant.session.threads for variant, lane in lanes)
        return (waiting + self._running_core_seconds(now)) / self.cores

    def wait_seconds(self, job: Job, now: float) -> float:
        """Predicted time until the last row of a job submitted now would start, its own rows not counted."""
        threads, last = job.variant.session.threads, job.rows[-1]
        lead = (job.cost_seconds - last.cost_seconds) * threads
        start = self._turns[job.low].next_start(job.flow) + lead
        mine = turn(start, last.deadline, job.priority, now)
        before = self._running_core_seconds(now)
        for variant in self.variants:
            lane = variant.queue.lane(low=job.low)
            before += lane.cost_before(mine) * variant.session.threads
            if job.low:
                before += variant.queue.ordinary.cost_seconds * variant.session.threads
        return before / self.cores

    def _next_row(self, now: float) -> Row | None:
        ordinary, low = self._first(low=False), self._first(low=True)
        if ordinary is None or low is None:
            return ordinary or low
        earliest = (variant.queue.ordinary.earliest() for variant in self.variants)
        goes = may_go_low(
            now=now,
            low_deadline=low.deadline,
            low_seconds=low.cost_seconds * low.job.variant.session.threads / self.cores,
            low_waits_since=self._low_waits_since,
            deadline=min(row.deadline for row in earliest if row is not None),
            work_seconds=self.backlog_seconds(now),
        )
        return low if goes else ordinary

    def _first(self, *, low: bool) -> Row | None:
        first: Row | None = None
        for variant in self.variants:
            row = variant.queue.lane(low=low).first()
            if row is not None and (first is None or (row.turn, row.arrival) < (first.turn, first.arrival)):
                first = row
        return first

    def _widest(self, variant: Variant, rows: list[Row]) -> Session:
        """All cores for a pass that would leave the others idle, where that makes it faster."""
        wide, longest = variant.lone_session, max(row.length for row in rows)
        if wide is None or wide.threads > self.free_cores or self._running or self.waiting_rows:
            return variant.session
        faster = wide.cost(len(rows), longest) < variant.session.cost(len(rows), longest)
        return wide if faster else variant.session

    def _is_hopeless(self, row: Row, now: float) -> bool:
        threads = row.job.variant.session.threads
        needed = max(row.cost_seconds, row.job.unanswered_seconds * threads / self.cores)
        return now + _HOPELESS_SHARE * needed > row.deadline

    def _expire(self, job: Job, now: float) -> list[Job]:
        self._learn_from_late(job, now)
        return self.fail([job], DeadlineExceededError("the request expired in the queue"))

    def _learn_from_late(self, job: Job, now: float) -> None:
        # It took at least so long: a lower bound of what the forecast should have said.
        self.forecast.observe(job.predicted_seconds, now - job.submitted)

    def _running_core_seconds(self, now: float) -> float:
        return sum(running.seconds_left(now) * running.session.threads for running in self._running)

    def _end(self, done: Pass) -> None:
        self._running.remove(done)
        self.free_cores += done.session.threads

    def _forget(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.waiting:
                row.job.variant.queue.lane(low=row.job.low).remove(row)
                self._turns[row.job.low].leave(row.job.flow)


def _seconds_for_others(job: Job) -> float:
    """What an answered job waited for others: in the queue, and in a pass that it shared with them."""
    shared = job.inference_seconds - max(row.cost_seconds for row in job.rows)
    return job.queue_seconds + max(shared, 0.0)


def _jobs_of(variants: Iterable[Variant]) -> set[Job]:
    return {row.job for variant in variants for row in variant.queue.rows()}
