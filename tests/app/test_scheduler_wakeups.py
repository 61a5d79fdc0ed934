"""Workers that sleep are woken whenever there is something for them: a lost wake-up is a lost request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import artifact
from app.batcher import BatchLimits
from app.builds import Choice
from app.cost import CostModel
from app.engines.base import Ids, Logits
from app.job import Job
from app.metrics import Metrics
from app.scheduler import Scheduler
from app.session import Session
from app.tokenizer import Encoded, Tokenizer
from app.variant import Variant
from tests.app.tiny import publish

LATER = 1e12
# Only a lost wake-up is ever waited for so long.
LOST_SECONDS = 60.0
CORES = 3


class Turnstile:
    """Passes go in and stay until they are let out; the first id of a row tells them apart."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._out: set[int] = set()
        self.inside: list[int] = []

    def logits(self, input_ids: Ids, _: Ids) -> Logits:
        names = [int(row[0]) for row in input_ids]
        with self._changed:
            self.inside += names
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._out.issuperset(names))
            self.inside = [name for name in self.inside if name not in names]
        return np.zeros((len(names), 2), dtype=np.float32)

    def let_out(self, *names: int) -> None:
        with self._changed:
            self._out.update(names)
            self._changed.notify_all()

    def expect(self, *names: int) -> None:
        with self._changed:
            arrived = self._changed.wait_for(lambda: sorted(self.inside) == sorted(names), LOST_SECONDS)
            assert arrived, f"{self.inside} run, expected {names}"

    def close(self) -> None:
        pass


class Place:
    """Three cores, a narrow variant, a variant as wide as two cores, and what they answered."""

    def __init__(self, folder: Path) -> None:
        self.scheduler, self.turnstile = Scheduler(CORES), Turnstile()
        self.narrow, self.wide, self.widest = (self._variant(folder, threads) for threads in (1, 2, CORES))
        self.jobs: list[Job] = []

    def _variant(self, folder: Path, threads: int) -> Variant:
        manifest = artifact.read(folder)
        engine: Any = self.turnstile
        variant = Variant(
            manifest,
            Choice(manifest.builds[0], ""),
            Tokenizer(folder / "tokenizer.json", manifest.tokenizer),
            Session(engine, threads, CostModel({(1, 1): 1.0})),
            BatchLimits(1, 1000, batch_invariant=True),
            Metrics().variant("tiny", 1, manifest.labels),
        )
        self.scheduler.add(variant)
        return variant

    def submit(self, variant: Variant, *names: int, done: Callable[[Job], None] = lambda _: None) -> Job:
        texts = [Encoded(np.full(2, name, dtype=np.int64), False) for name in names]
        job = Job(variant, texts, LATER, done)
        self.scheduler.submit(job)
        self.jobs.append(job)
        return job

    def all_asleep_but(self, awake: int) -> None:
        """Wait until every other worker sleeps, so that only a wake-up can bring it back."""
        sleeping = self.scheduler._wake._waiters  # type: ignore[attr-defined]
        give_up = time.monotonic() + LOST_SECONDS
        while len(sleeping) != CORES - awake:
            assert time.monotonic() < give_up
            time.sleep(0.001)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(publish(tmp_path))
    place.scheduler.start()
    place.all_asleep_but(0)
    yield place
    place.turnstile.let_out(*range(100))
    place.scheduler.close()


def test_a_row_wakes_a_worker(place: Place) -> None:
    for name in range(20):
        ended = threading.Event()
        place.submit(place.narrow, name, done=lambda _, ended=ended: ended.set())  # type: ignore[misc]
        place.turnstile.expect(name)
        place.turnstile.let_out(name)
        assert ended.wait(LOST_SECONDS)
        place.all_asleep_but(0)


def test_the_rows_of_a_job_wake_as_many_workers(place: Place) -> None:
    place.submit(place.narrow, 1, 2, 3)
    place.turnstile.expect(1, 2, 3)


def test_the_end_of_a_wide_pass_wakes_more_than_one(place: Place) -> None:
    place.submit(place.widest, 1)
    place.turnstile.expect(1)
    place.submit(place.narrow, 2, 3, 4)
    place.all_asleep_but(1)
    place.turnstile.let_out(1)
    place.turnstile.expect(2, 3, 4)


def test_the_end_of_a_wide_chore_wakes_more_than_one(place: Place) -> None:
    started, released = threading.Event(), threading.Event()

    def chore() -> None:
        started.set()
        released.wait()

    place.scheduler.run_in_background(chore, CORES)
    assert started.wait(LOST_SECONDS)
    place.submit(place.narrow, 2, 3, 4)
    place.all_asleep_but(1)
    released.set()
    place.turnstile.expect(2, 3, 4)


@pytest.mark.parametrize("how", ["abandoned", "unloaded"])
def test_what_waited_behind_a_wide_row_runs_when_that_row_is_gone(place: Place, how: str) -> None:
    place.submit(place.wide, 1)
    place.turnstile.expect(1)
    held_back = place.submit(place.widest, 2)
    place.submit(place.narrow, 3)
    place.all_asleep_but(1)
    place.turnstile.expect(1)
    if how == "abandoned":
        place.scheduler.abandon(held_back)
    else:
        place.scheduler.remove(place.widest)
    place.turnstile.expect(1, 3)


def test_a_narrower_session_lets_a_row_run_that_waited_for_cores(place: Place) -> None:
    place.submit(place.wide, 1)
    place.turnstile.expect(1)
    place.submit(place.widest, 2)
    place.all_asleep_but(1)
    place.scheduler.change_session(place.widest, place.narrow.session, None)
    place.turnstile.expect(1, 2)


def test_a_chore_wakes_a_worker(place: Place) -> None:
    for _ in range(5):
        assert place.scheduler.run_in_background(lambda: None).result(timeout=LOST_SECONDS) is None
        place.all_asleep_but(0)
    assert place.scheduler.run_when_idle(lambda: None).result(timeout=LOST_SECONDS) is None


def test_measuring_waits_until_the_last_pass_is_over(place: Place) -> None:
    place.submit(place.narrow, 1)
    place.turnstile.expect(1)
    ran_beside: list[list[int]] = []
    chore = place.scheduler.run_when_idle(lambda: ran_beside.append(list(place.turnstile.inside)))
    place.all_asleep_but(1)
    assert not chore.done()
    place.turnstile.let_out(1)
    chore.result(timeout=LOST_SECONDS)
    assert ran_beside == [[]]
