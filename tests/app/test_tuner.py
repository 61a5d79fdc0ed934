"""What is measured while nobody asks, and what becomes of it. Engines are slowed down to known speeds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from app import artifact, hardware, opening, tuner
from app.engines import Engine, load_engine
from app.engines.base import Ids, Logits
from app.hardware import Hardware
from app.tuner import Tuner
from tests.app.conftest import FailingEngine, Running, Serve
from tests.app.tiny import publish

pytestmark = pytest.mark.anyio

CORES = 2
Pace = Callable[[str, int], float | Callable[[int], float]]
"""Seconds of a pass, by the build's file and its threads; or what gives them by the length of its rows."""


class PacedEngine:
    """Takes its time, and answers as the engine it stands before."""

    description = "paced"

    def __init__(self, engine: Engine, seconds: float | Callable[[int], float]) -> None:
        self._engine, self._seconds = engine, seconds
        self.closed = False

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        length = input_ids.shape[1]
        time.sleep(self._seconds if isinstance(self._seconds, float) else self._seconds(length))
        return self._engine.logits(input_ids, attention_mask)

    def close(self) -> None:
        self.closed = True
        self._engine.close()


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Callable[[Pace], list[PacedEngine]]:
    """`pace(seconds)` slows every engine that is opened; returns those it slowed, as they come."""

    def set_pace(seconds: Pace) -> list[PacedEngine]:
        engines: list[PacedEngine] = []

        def load(engine: str, path: Path, threads: int, *rest: Any) -> PacedEngine:
            engines.append(PacedEngine(load_engine(engine, path, 1), seconds(path.name, threads)))
            return engines[-1]

        monkeypatch.setattr(opening, "load_engine", load)
        return engines

    return set_pace


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Hardware("Some CPU", frozenset(), CORES, 1 << 34)
    monkeypatch.setattr(hardware, "detect", lambda **_: machine)


async def tuned(running: Running) -> None:
    """Wait until everything is measured."""
    tuner = running.parts.registry._tuner
    assert tuner is not None
    await asyncio.gather(*tuner._tasks)


async def test_costs_are_measured_and_kept_for_the_next_start(serve: Serve, tmp_path: Path) -> None:
    async with serve(tune=True, threads=1) as running:
        assert running.default.session.cost.measured == {}
        await tuned(running)
        first = running.default.session.cost.measured
        # Four rows of 32 tokens weigh more pairs of tokens than the longest text, which has 32.
        shapes = {(rows, length) for rows in (1, 4, 16) for length in (8, 16, 32)}
        assert set(first) == {(rows, length) for rows, length in shapes if rows * length**2 <= 32**2}
        too_long = running.default.session.cost(4, 32)
        assert too_long == pytest.approx(first[1, 32] * first[4, 16] / first[1, 16])
    async with serve(tune=False, threads=1) as running:
        assert running.default.session.cost.measured == first
        assert running.default.session.cost(4, 32) == pytest.approx(too_long)
    assert (tmp_path / "tuning.json").exists()


async def test_the_settings_name_the_file(serve: Serve, tmp_path: Path) -> None:
    async with serve(tune=True, threads=1, tuning=tmp_path / "elsewhere/costs.json") as running:
        await tuned(running)
    assert (tmp_path / "elsewhere/costs.json").exists()


async def test_a_file_that_cannot_be_written_is_no_failure(
    serve: Serve, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(tune=True, threads=1, tuning=repository / "tiny/1/model.onnx/tuning.json") as running:
        await tuned(running)
        assert (await running.predict()).status_code == 200
    assert "BERTPRESS_TUNING" in caplog.text


async def test_nothing_is_measured_where_the_settings_say_so(serve: Serve) -> None:
    async with serve() as running:
        assert running.parts.registry._tuner is None


async def test_more_threads_where_they_answer_sooner(
    serve: Serve, pace: Callable[[Pace], list[PacedEngine]]
) -> None:
    engines = pace(lambda _, threads: 0.01 if threads == 1 else 0.003)
    async with serve(tune=True) as running:
        assert running.default.session.threads == 1
        await tuned(running)
        assert running.default.session.threads == 2
        assert running.default.session.engine in engines
        assert (await running.predict(["good", "bad"])).status_code == 200
        assert running.default.cost(1, 8) < 0.01
        assert "bertpress_sessions 1.0" in await running.metrics()
        assert 'bertpress_model_threads{model="tiny",version="1"} 2.0' in await running.metrics()
    async with serve() as running:
        assert running.default.session.threads == 2


async def test_one_thread_where_that_gives_more(
    serve: Serve, pace: Callable[[Pace], list[PacedEngine]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    engines = pace(lambda _, threads: 0.01 if threads == 1 else 0.009)
    async with serve(tune=True) as running:
        await tuned(running)
        assert running.default.session.threads == 1
        assert [engine.closed for engine in engines[:2]] == [False, True]
        assert "with 1 passes of 2 threads" in caplog.text


async def test_one_thread_where_two_are_better_for_long_texts_alone(
    serve: Serve, pace: Callable[[Pace], list[PacedEngine]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "_TRIAL_LENGTHS", (8, 32))
    pace(lambda _, threads: 0.01 if threads == 1 else lambda length: 0.01 if length == 8 else 0.0048)
    async with serve(tune=True) as running:
        await tuned(running)
        assert running.default.session.threads == 1


async def test_a_lone_session_where_the_settings_ask_for_it(
    serve: Serve, pace: Callable[[Pace], list[PacedEngine]]
) -> None:
    pace(lambda _, threads: 0.01 if threads == 1 else 0.008)
    async with serve(tune=True, lone_session=True) as running:
        await tuned(running)
        lone = running.default.lone_session
        assert lone is not None
        assert (running.default.session.threads, lone.threads) == (1, 2)
        assert lone.cost.measured
        assert (await running.predict()).status_code == 200
        assert 'bertpress_model_lone_threads{model="tiny",version="1"} 2.0' in await running.metrics()


@pytest.mark.parametrize(
    ("asked", "most_bytes", "given"),
    [(None, 32_000_000, True), (None, 100, False), (True, 100, True), (False, 32_000_000, False)],
)
async def test_a_lone_session_unasked_for_small_builds_alone(
    serve: Serve,
    pace: Callable[[Pace], list[PacedEngine]],
    monkeypatch: pytest.MonkeyPatch,
    asked: bool | None,
    most_bytes: int,
    given: bool,
) -> None:
    monkeypatch.setattr(tuner, "_MOST_BYTES_OPENED_TWICE", most_bytes)
    pace(lambda _, threads: 0.01 if threads == 1 else 0.008)
    async with serve(tune=True, **({} if asked is None else {"lone_session": asked})) as running:
        await tuned(running)
        assert (running.default.lone_session is not None) == given


async def test_a_faster_build_is_taken_by_the_next_load(
    serve: Serve,
    repository: Path,
    pace: Callable[[Pace], list[PacedEngine]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    publish(repository, version=2, builds={"int8": {"precision": "int8"}, "fp32": {}})
    speeds = iter([0.01, 0.002])
    pace(lambda *_: next(speeds, 0.002))
    async with serve(tune=True, threads=1) as running:
        assert running.default.build.name == "int8"
        await tuned(running)
        assert running.default.build.name == "int8"
        assert "the next load takes build fp32" in caplog.text
    async with serve() as running:
        assert running.default.build.name == "fp32"
        assert "measured here" in running.default.reason


async def test_another_build_that_fails_its_probes_is_not_taken(
    serve: Serve, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    builds = {"int8": {"precision": "int8", "probe_tolerance": 1.0}, "fp32": {}}
    publish(repository, version=2, builds=builds, probe_shift=0.5)
    for _ in range(2):
        async with serve(tune=True, threads=1) as running:
            await tuned(running)
            assert running.default.build.name == "int8"
    assert "build fp32 of tiny/2 is" in caplog.text


async def test_no_trial_without_the_memory_for_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    small = Hardware("Some CPU", frozenset(), CORES, hardware.resident_memory_bytes() // 2)
    monkeypatch.setattr(hardware, "detect", lambda **_: small)
    async with serve(tune=True) as running:
        await tuned(running)
        assert running.default.session.threads == 1
        assert running.default.session.cost.measured
    assert "memory left does not allow" in caplog.text


@pytest.mark.parametrize(("needed_bytes", "tried"), [(1_000_000, True), (3_000_000, False)])
async def test_a_trial_needs_room_for_all_that_the_build_reads(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    needed_bytes: int,
    tried: bool,
) -> None:
    caplog.set_level("INFO")
    limit = 10_000_000
    monkeypatch.setattr(hardware, "detect", lambda **_: Hardware("Some CPU", frozenset(), CORES, limit))
    monkeypatch.setattr(tuner, "resident_memory_bytes", lambda: 0)
    monkeypatch.setattr(artifact.Manifest, "bytes_to_run", lambda *_: needed_bytes)
    async with serve(tune=True) as running:
        await tuned(running)
    assert ("memory left does not allow" in caplog.text) == (not tried)


async def test_unloading_ends_the_measuring(serve: Serve, repository: Path) -> None:
    publish(repository, version=2)
    async with serve(tune=True, preload="tiny/1") as running:
        assert (await running.admin("unload", 1)).status_code == 200
        await tuned(running)
        assert (await running.predict()).status_code == 200


async def test_a_failure_while_measuring_leaves_it_serving(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(tune=True) as running:
        sound, running.default.session.engine = running.default.session.engine, FailingEngine()
        await tuned(running)
        running.default.session.engine = sound
        assert (await running.predict()).status_code == 200
    assert "serves with what is known" in caplog.text


class BusyScheduler:
    """Runs chores at once."""

    cores = 1

    def __init__(self) -> None:
        self.submissions = self.chores = 0

    def run_when_idle(self, call: Callable[[], Any], cores: int) -> Future[Any]:
        assert cores == 1
        self.chores += 1
        future: Future[Any] = Future()
        future.set_result(call())
        return future


@pytest.mark.parametrize(("disturbances", "chores"), [(0, 1), (3, 4), (1000, 20)])
async def test_a_disturbed_measurement_is_made_again(disturbances: int, chores: int) -> None:
    scheduler = BusyScheduler()
    anything: Any = scheduler
    tuner = Tuner(anything, anything, anything, lone_session=False)

    def measure() -> str:
        if scheduler.chores <= disturbances:
            scheduler.submissions += 1
        return "measured"

    assert await tuner._undisturbed(measure, 1) == "measured"
    assert scheduler.chores == chores
