"""Dispatcher and admission on simulated cores under a simulated clock: no threads, no waiting, no luck."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from app.admission import Admission
from app.batcher import BatchLimits
from app.cost import CostModel
from app.dispatch import Dispatcher, Pass
from app.errors import BertpressError
from app.job import Job, Priority
from app.queue import Queue
from app.session import Session
from app.tokenizer import Encoded

LENGTHS = (1, 512)
FOREVER = 1e6


def proportional(rows: int, length: int) -> float:
    """A hundredth of a second per ten tokens."""
    return rows * length / 1000


def cost_model(seconds: Callable[[int, int], float] = proportional) -> CostModel:
    return CostModel({(rows, length): seconds(rows, length) for rows in (1, 8) for length in LENGTHS})


def fake_variant(threads: int = 1, batch_invariant: bool = False, max_rows: int = 8) -> Any:
    """What the dispatcher needs of a variant."""
    engine: Any = SimpleNamespace()
    session = Session(engine, threads, cost_model())
    return SimpleNamespace(
        key="fake/1",
        session=session,
        lone_session=None,
        cost=session.cost,
        limits=BatchLimits(max_rows, 100_000, batch_invariant),
        queue=Queue(keep_lengths=batch_invariant),
    )


@dataclass(frozen=True)
class Request:
    """What somebody asks at a moment."""

    at: float
    lengths: tuple[int, ...] = (10,)
    timeout: float = FOREVER
    client: str = ""
    priority: Priority = "normal"
    variant: int = 0


@dataclass
class Outcome:
    """What became of a request."""

    request: Request
    refused: BertpressError | None = None
    finished_at: float | None = None
    error: Exception | None = None

    @property
    def waited(self) -> float:
        """Seconds from asking to the answer."""
        assert self.finished_at is not None and self.error is None, self
        return self.finished_at - self.request.at

    @property
    def good(self) -> bool:
        """Answered in time."""
        return (
            self.error is None
            and self.finished_at is not None
            and self.finished_at <= self.request.at + self.request.timeout
        )


@dataclass
class Simulation:
    """Runs requests to their ends; a pass takes `slower` times what the cost model says at first."""

    variants: list[Any]
    cores: int = 1
    slower: float = 1.0
    admit: bool = False
    passes: list[Pass] = field(default_factory=list)
    most_cores: int = 0
    busy_core_seconds: float = 0.0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.cores)
        self.dispatcher.variants.extend(self.variants)
        self.admission = Admission(self, max_requests=10**6, max_queue_texts=10**6)
        self._true_cost = [cost_model() for _ in self.variants]
        self._ends: list[tuple[float, int, Pass]] = []
        self._count = itertools.count()

    def run(self, requests: Iterable[Request]) -> list[Outcome]:
        """Every request's outcome, in order."""
        outcomes = []
        for request in sorted(requests, key=lambda request: request.at):
            self._run_until(request.at)
            self.now = request.at
            outcomes.append(self._ask(request))
            self._start_passes()
        self._run_until(float("inf"))
        return outcomes

    # what admission asks

    def waiting_rows(self) -> int:
        return self.dispatcher.waiting_rows

    def backlog_seconds(self) -> float:
        return self.dispatcher.forecast.seconds(self.dispatcher.backlog_seconds(self.now))

    def wait_seconds(self, job: Job) -> float:
        wait = self.dispatcher.wait_seconds(job, self.now)
        job.predicted_seconds = wait + job.own_seconds(self.cores) - job.rows[-1].cost_seconds
        return self.dispatcher.forecast.seconds(wait)

    def _ask(self, request: Request) -> Outcome:
        outcome = Outcome(request)

        def on_done(job: Job) -> None:
            outcome.finished_at, outcome.error = self.now, job.error

        encoded = [Encoded(np.zeros(length, dtype=np.int64), False) for length in request.lengths]
        deadline = request.at + request.timeout
        variant = self.variants[request.variant]
        job = Job(variant, encoded, deadline, on_done, request.priority, request.client)
        try:
            if self.admit:
                self.admission.check(job, deadline, self.now)
        except BertpressError as error:
            outcome.refused = outcome.error = error
        else:
            self.dispatcher.push(job, self.now)
        return outcome

    def _run_until(self, moment: float) -> None:
        while self._ends and self._ends[0][0] <= moment:
            self.now, _, done = heapq.heappop(self._ends)
            logits = np.zeros((len(done.rows), 2), dtype=np.float32)
            for job in self.dispatcher.finish(done, logits, self.now - done.taken):
                job.on_done(job)
            self._start_passes()

    def _start_passes(self) -> None:
        for job in self.dispatcher.drop_late(self.now):
            job.on_done(job)
        while (taken := self.dispatcher.take(self.now)) is not None:
            self._start(taken)
        widest = max(variant.session.threads for variant in self.variants)
        assert not self.dispatcher.waiting_rows or self.dispatcher.free_cores < widest, "idle while rows wait"

    def _start(self, taken: Pass) -> None:
        cost = self._true_cost[self.variants.index(taken.variant)]
        seconds = self.slower * cost(len(taken.rows), taken.longest) / taken.session.threads
        self.passes.append(taken)
        self.busy_core_seconds += seconds * taken.session.threads
        held = sum(running.session.threads for _, _, running in self._ends) + taken.session.threads
        self.most_cores = max(self.most_cores, held)
        heapq.heappush(self._ends, (self.now + seconds, next(self._count), taken))
