from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import artifact
from app.batcher import BatchLimits
from app.builds import Choice
from app.cost import CostModel
from app.errors import ClosingError, DeadlineExceededError, EngineError
from app.job import Job
from app.metrics import Metrics
from app.scheduler import Scheduler
from app.session import Session
from app.tokenizer import Encoded, Tokenizer
from app.variant import Variant
from tests.app.conftest import FailingEngine, HeldEngine, RecordingEngine
from tests.app.tiny import publish

LATER = 1e12


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A scheduler, a variant with a fake engine, and the jobs that came back."""

    def __init__(self, folder: Path, cores: int = 1, engine: Any = None) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(cores, self.clock)
        self.engine = engine or RecordingEngine()
        self.variant = self.make_variant(folder)
        self.scheduler.add(self.variant)
        self.done: queue.Queue[Job] = queue.Queue()

    def make_variant(self, folder: Path) -> Variant:
        manifest = artifact.read(folder)
        tokenizer = Tokenizer(folder / "tokenizer.json", manifest.tokenizer)
        limits = BatchLimits(8, 1000, batch_invariant=True)
        metrics = Metrics().variant("tiny", 1, manifest.labels)
        costs = {(rows, length): 1.0 + rows * length for rows in (1, 8) for length in (1, 32)}
        session = Session(self.engine, 1, CostModel(costs))
        return Variant(manifest, Choice(manifest.builds[0], ""), tokenizer, session, limits, metrics)

    def job(self, *texts: list[int], deadline: float = LATER) -> Job:
        encoded = [Encoded(np.array(ids, dtype=np.int64), truncated=False) for ids in texts]
        return Job(self.variant, encoded, deadline, self.done.put)

    def submit(self, *texts: list[int], deadline: float = LATER) -> Job:
        job = self.job(*texts, deadline=deadline)
        self.scheduler.submit(job)
        return job


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(publish(tmp_path))
    yield bench
    bench.scheduler.close()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Bench, HeldEngine]]:
    """One worker, already inside a pass that does not end before it is released."""
    engine = HeldEngine(RecordingEngine())
    bench = Bench(publish(tmp_path), engine=engine)
    bench.scheduler.start()
    bench.submit([1, 1])
    engine.entered.wait()
    yield bench, engine
    engine.release()
    bench.scheduler.close()


def test_rows_come_back_in_their_own_order(bench: Bench) -> None:
    job = bench.submit([5, 1], [6, 2, 0, 0, 0], [7, 3])
    bench.scheduler.start()
    assert bench.done.get() is job
    assert [list(row) for row in job.answers] == [[5, 1], [6, 2], [7, 3]]
    assert job.error is None


def test_waiting_rows_share_a_batch(held: tuple[Bench, HeldEngine]) -> None:
    bench, engine = held
    jobs = {bench.submit([2, 2, 2]), bench.submit([3, 3, 3], [4, 4, 4])}
    engine.release()
    bench.done.get()
    assert {bench.done.get(), bench.done.get()} == jobs
    assert engine.shapes == [(1, 2), (3, 3)]


def test_the_nearest_deadline_runs_first(held: tuple[Bench, HeldEngine]) -> None:
    bench, engine = held
    bench.variant.limits = BatchLimits(1, 1000, batch_invariant=True)
    late, soon = bench.submit([2, 2], deadline=900.0), bench.submit([3, 3], deadline=500.0)
    engine.release()
    bench.done.get()
    assert [bench.done.get(), bench.done.get()] == [soon, late]


def test_expired_rows_never_run(held: tuple[Bench, HeldEngine]) -> None:
    bench, engine = held
    job = bench.submit([2, 2], [3, 3], deadline=5.0)
    bench.clock.now = 6.0
    engine.release()
    results = [bench.done.get(), bench.done.get()]
    assert isinstance(job.error, DeadlineExceededError)
    assert job in results
    assert engine.shapes == [(1, 2)]


def test_abandoned_rows_never_run(held: tuple[Bench, HeldEngine]) -> None:
    bench, engine = held
    job = bench.submit([2, 2], [3, 3])
    assert bench.scheduler.waiting_rows() == 2
    bench.scheduler.abandon(job)
    assert bench.scheduler.waiting_rows() == 0
    last = bench.submit([4, 4])
    engine.release()
    bench.done.get()
    assert bench.done.get() is last
    assert engine.shapes == [(1, 2), (1, 2)]


def test_the_backlog_is_what_waits_and_what_runs(held: tuple[Bench, HeldEngine]) -> None:
    bench, _ = held
    assert bench.scheduler.backlog_seconds() == pytest.approx(3.0)
    bench.submit([2, 2], [3, 3, 3])
    assert bench.scheduler.backlog_seconds() == pytest.approx(3.0 + 3.0 + 4.0)
    bench.clock.now = 2.0
    assert bench.scheduler.backlog_seconds() == pytest.approx(1.0 + 3.0 + 4.0)


def test_a_failed_batch_reaches_every_caller(tmp_path: Path) -> None:
    bench = Bench(publish(tmp_path), engine=FailingEngine())
    jobs = {bench.submit([1, 1]), bench.submit([2, 2], [3, 3])}
    bench.scheduler.start()
    assert {bench.done.get(), bench.done.get()} == jobs
    assert all(isinstance(job.error, EngineError) and "no luck" in str(job.error) for job in jobs)
    bench.variant.session.engine = RecordingEngine()
    job = bench.submit([4, 4])
    assert bench.done.get() is job
    assert job.error is None
    bench.scheduler.close()


@pytest.mark.parametrize("logits", [[[np.nan, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
def test_logits_that_make_no_sense_are_a_failure(bench: Bench, logits: list[list[float]]) -> None:
    engine: Any = RecordingEngine()
    engine.logits = lambda *_: np.array(logits, dtype=np.float32)
    bench.variant.session.engine = engine
    job = bench.submit([1, 1])
    bench.scheduler.start()
    assert bench.done.get() is job
    assert isinstance(job.error, EngineError)


def test_one_failed_row_fails_its_job_and_drops_the_rest(bench: Bench) -> None:
    bench.variant.session.engine = FailingEngine()
    bench.variant.limits = BatchLimits(1, 1000, batch_invariant=False)
    job = bench.submit([1, 1], [2, 2], [3, 3])
    bench.scheduler.start()
    assert bench.done.get() is job
    assert bench.scheduler.waiting_rows() == 0


def test_a_callers_broken_callback_costs_nobody_else(bench: Bench) -> None:
    broken = bench.job([1, 1])
    broken.on_done = lambda _: 1 / 0  # type: ignore[assignment]
    bench.scheduler.submit(broken)
    job = bench.submit([2, 2])
    bench.scheduler.start()
    assert bench.done.get() is job


def test_two_workers_share_what_waits(tmp_path: Path) -> None:
    engine = HeldEngine(RecordingEngine())
    bench = Bench(publish(tmp_path), cores=2, engine=engine)
    bench.scheduler.start()
    for ids in ([1, 1], [2, 2]):  # both are inside a pass at once
        bench.submit(ids)
        engine.entered.wait()
        engine.entered.clear()
    engine.release()
    bench.done.get(), bench.done.get()
    bench.scheduler.close()


def test_background_work_waits_for_requests(held: tuple[Bench, HeldEngine]) -> None:
    bench, engine = held
    order: list[str] = []
    future = bench.scheduler.run_in_background(lambda: order.append("background"))
    job = bench.job([2, 2])
    job.on_done = lambda _: order.append("request")
    bench.scheduler.submit(job)
    engine.release()
    future.result()
    assert order == ["request", "background"]


def test_background_work_is_not_starved(held: tuple[Bench, HeldEngine]) -> None:
    bench, engine = held
    order: list[str] = []
    future = bench.scheduler.run_in_background(lambda: order.append("background"))
    job = bench.submit([2, 2])
    job.on_done = lambda _: order.append("request")
    bench.clock.now = 10.0
    engine.release()
    future.result()
    assert order[0] == "background"


def test_background_failures_reach_who_asked(bench: Bench) -> None:
    bench.scheduler.start()
    with pytest.raises(ZeroDivisionError):
        bench.scheduler.run_in_background(lambda: 1 / 0).result()


def test_cancelled_background_work_does_not_run(held: tuple[Bench, HeldEngine]) -> None:
    bench, engine = held
    ran = threading.Event()
    cancelled = bench.scheduler.run_in_background(ran.set)
    assert cancelled.cancel()
    last = bench.scheduler.run_in_background(lambda: None)
    engine.release()
    last.result()
    assert not ran.is_set()


def test_closing_fails_what_waits_and_lets_passes_end(held: tuple[Bench, HeldEngine]) -> None:
    bench, engine = held
    waiting = bench.submit([2, 2])
    background = bench.scheduler.run_in_background(lambda: None)
    closing = threading.Thread(target=bench.scheduler.close)
    closing.start()
    assert bench.done.get() is waiting
    assert isinstance(waiting.error, ClosingError)
    with pytest.raises(ClosingError):
        background.result()
    engine.release()
    closing.join()
    assert bench.done.get().error is None
    for refused in (lambda: bench.submit([1, 1]), lambda: bench.scheduler.run_in_background(lambda: None)):
        with pytest.raises(ClosingError):
            refused()


def test_removing_a_variant_fails_what_waits_for_it(held: tuple[Bench, HeldEngine]) -> None:
    bench, _ = held
    waiting = bench.submit([2, 2])
    bench.scheduler.remove(bench.variant)
    assert bench.done.get() is waiting
    assert isinstance(waiting.error, ClosingError)


def test_a_worker_that_breaks_is_not_silent(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def broken(rows: int, length: int) -> float:
        raise ZeroDivisionError

    job = bench.submit([1, 1])
    bench.variant.session.cost = broken  # type: ignore[assignment]
    bench.scheduler.start()
    assert bench.done.get() is job
    assert isinstance(job.error, EngineError)
    assert "a worker failed outside a forward pass" in caplog.text
    assert bench.scheduler.failure is not None
    bench.variant.session.cost = CostModel({(1, 1): 1.0})
    with pytest.raises(EngineError, match="restart"):
        bench.submit([1, 1])


def test_observed_costs_are_learned(bench: Bench) -> None:
    before = bench.variant.cost(1, 2)
    bench.submit([1, 1])
    bench.scheduler.start()
    bench.done.get()
    assert bench.variant.cost(1, 2) < before
