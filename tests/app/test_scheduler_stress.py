"""Many threads on one scheduler: every job ends exactly once, and the cores are never oversubscribed."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import artifact
from app.batcher import BatchLimits
from app.builds import Choice
from app.cost import CostModel
from app.engines.base import Ids, Logits
from app.errors import BertpressError, ClosingError
from app.job import Job, Priority
from app.metrics import Metrics
from app.scheduler import Scheduler
from app.session import Session
from app.tokenizer import Encoded, Tokenizer
from app.variant import Variant
from tests.app.tiny import publish

LATER = 1e12
# Only a lost wake-up is ever waited for so long.
LOST_SECONDS = 120.0
CORES = 3


class Meter:
    """How many cores are busy, and how many ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.busy = self.most = 0

    def keep_busy(self, cores: int, seconds: float) -> None:
        with self._lock:
            self.busy += cores
            self.most = max(self.most, self.busy)
        threading.Event().wait(seconds)  # lets the other threads in
        with self._lock:
            self.busy -= cores


class MeteredEngine:
    """Answers a row with its own ids; now and then it fails."""

    description = "fake"

    def __init__(self, meter: Meter, threads: int, seed: int) -> None:
        self._meter, self._threads, self._draw = meter, threads, random.Random(seed)

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        self._meter.keep_busy(self._threads, self._draw.choice([0.0, 0.0, 1e-4, 1e-3]))
        if self._draw.random() < 0.03:
            raise RuntimeError("now and then")
        return (input_ids * attention_mask)[:, :2].astype(np.float32)

    def close(self) -> None:
        pass


class Crowd:
    """Variants of different width, and threads that ask all of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.meter, self.seed = Meter(), seed
        self.scheduler = Scheduler(CORES)
        self.variants = [self._make_variant(folder, threads) for threads in (1, 1, 2)]
        for variant in self.variants:
            self.scheduler.add(variant)
        self.jobs: list[Job] = []
        self.abandoned: set[Job] = set()
        self.ends: Counter[Job] = Counter()
        self.chores: list[Future[None]] = []
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)

    def _make_variant(self, folder: Path, threads: int) -> Variant:
        manifest = artifact.read(folder)
        costs = {(rows, length): 1e-5 * (20 + rows * length) for rows in (1, 4) for length in (1, 32)}
        variant = Variant(
            manifest,
            Choice(manifest.builds[0], ""),
            Tokenizer(folder / "tokenizer.json", manifest.tokenizer),
            Session(self._engine(threads), threads, CostModel(costs)),
            BatchLimits(4, 1000, batch_invariant=True),
            Metrics().variant("tiny", 1, manifest.labels),
        )
        variant.lone_session = Session(self._engine(CORES), CORES, CostModel(dict.fromkeys(costs, 1e-5)))
        return variant

    def _engine(self, threads: int) -> Any:
        return MeteredEngine(self.meter, threads, self.seed)

    def ask(self, number: int, jobs: int) -> None:
        """One thread's requests: of every kind, some given up at once."""
        draw = random.Random(1000 * self.seed + number)
        priorities: list[Priority] = ["high", "normal", "normal", "low"]
        for _ in range(jobs):
            lengths = [draw.randint(2, 32) for _ in range(draw.choice([1, 1, 1, 2, 12]))]
            texts = [Encoded(np.full(length, number + 1, dtype=np.int64), False) for length in lengths]
            client = draw.choice(["", "a", "b"])
            variant = draw.choice(self.variants)
            job = Job(variant, texts, LATER, self._end, draw.choice(priorities), client)
            try:
                self.scheduler.submit(job)
                if draw.random() < 0.05:
                    self.chores.append(
                        draw.choice([self.scheduler.run_in_background, self.scheduler.run_when_idle])(
                            self._chore(cores := draw.choice([1, CORES])), cores
                        )
                    )
            except ClosingError:
                return
            with self._lock:
                self.jobs.append(job)
            if draw.random() < 0.1:
                with self._lock:
                    self.abandoned.add(job)
                self.scheduler.abandon(job)

    def _chore(self, cores: int) -> Callable[[], None]:
        return lambda: self.meter.keep_busy(cores, 1e-4)

    def _end(self, job: Job) -> None:
        with self._lock:
            self.ends[job] += 1
            self._ended.notify_all()

    def run(self, threads: int, jobs: int) -> None:
        self.scheduler.start()
        askers = [threading.Thread(target=self.ask, args=(number, jobs)) for number in range(threads)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()

    def all_ended(self) -> bool:
        with self._lock:
            return self._ended.wait_for(
                lambda: all(self.ends[job] or job in self.abandoned for job in self.jobs), LOST_SECONDS
            )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return publish(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_every_job_ends_exactly_once(folder: Path, seed: int) -> None:
    crowd = Crowd(folder, seed)
    crowd.run(threads=8, jobs=150)
    assert crowd.all_ended(), "a row waits and nobody runs it"
    for chore in crowd.chores:
        chore.result(timeout=LOST_SECONDS)
    crowd.scheduler.close()
    assert set(crowd.ends.values()) == {1}
    assert len(crowd.jobs) == 8 * 150
    assert crowd.scheduler.failure is None
    answered = [job for job in crowd.jobs if crowd.ends[job] and job.error is None]
    assert len(answered) > 800
    for job in answered:
        assert all(list(row[:2]) == [job.rows[0].input_ids[0]] * 2 for row in job.answers)
    assert any(job.error is not None for job in crowd.jobs)
    assert crowd.meter.busy == 0
    assert crowd.meter.most <= CORES
    assert crowd.scheduler.waiting_rows() == 0


@pytest.mark.parametrize("seed", range(3))
def test_closing_in_the_middle_ends_them_all(folder: Path, seed: int) -> None:
    crowd = Crowd(folder, seed)
    askers = threading.Thread(target=crowd.run, args=(6, 500))
    askers.start()
    with crowd._lock:
        crowd._ended.wait_for(lambda: sum(crowd.ends.values()) > 100, LOST_SECONDS)
    crowd.scheduler.close()
    askers.join()
    assert crowd.all_ended()
    assert set(crowd.ends.values()) == {1}
    for chore in crowd.chores:
        assert chore.done()
        assert chore.exception() is None or isinstance(chore.exception(), ClosingError)
    assert crowd.meter.most <= CORES


def test_unloading_in_the_middle_leaves_the_others_running(folder: Path) -> None:
    crowd = Crowd(folder, seed=9)
    askers = threading.Thread(target=crowd.run, args=(6, 200))
    askers.start()
    with crowd._lock:
        crowd._ended.wait_for(lambda: sum(crowd.ends.values()) > 50, LOST_SECONDS)
    wide = crowd.variants.pop()
    crowd.scheduler.remove(wide)
    askers.join()
    # who had chosen it a moment before
    with crowd.scheduler._wake:
        late = crowd.scheduler._dispatcher.fail({row.job for row in wide.queue.rows()}, ClosingError("gone"))
    for job in late:
        crowd._end(job)
    assert crowd.all_ended()
    crowd.scheduler.close()
    assert set(crowd.ends.values()) == {1}
    errors = {type(job.error) for job in crowd.jobs if job.variant is not wide}
    assert all(error is type(None) or issubclass(error, BertpressError) for error in errors)
