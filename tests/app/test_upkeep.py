"""Memory is given back after a load, and not while somebody asks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.upkeep import trim_after_load
from tests.app.conftest import RecordingEngine
from tests.app.test_scheduler import Bench

pytestmark = pytest.mark.anyio

QUIET_SECONDS = 0.02


class TrimmedEngine(RecordingEngine):
    """Counts how often its memory was given back, and after how many passes."""

    def __init__(self) -> None:
        super().__init__()
        self.trims: list[int] = []

    def trim(self) -> None:
        self.trims.append(len(self.shapes))


async def test_once_after_every_load(repository: Path) -> None:
    engine = TrimmedEngine()
    bench = Bench(repository / "tiny" / "1", engine=engine)
    bench.scheduler.start()
    upkeep = asyncio.create_task(trim_after_load(bench.scheduler, lambda: [bench.variant], QUIET_SECONDS))
    try:
        await asyncio.sleep(5 * QUIET_SECONDS)
        assert not engine.trims, "nothing ran yet"
        for passes in (1, 2):
            bench.scheduler.submit(bench.job([5, 6, 7]))
            await asyncio.to_thread(bench.done.get)
            while len(engine.trims) < passes:
                bench.clock.now += 1.0  # the scheduler's own idea of idleness
                await asyncio.sleep(QUIET_SECONDS)
            await asyncio.sleep(5 * QUIET_SECONDS)
            assert engine.trims == [1, 2][:passes], "once is enough"
    finally:
        upkeep.cancel()
        bench.scheduler.close()


async def test_it_ends_with_the_scheduler(repository: Path) -> None:
    bench = Bench(repository / "tiny" / "1", engine=TrimmedEngine())
    bench.scheduler.start()
    upkeep = asyncio.create_task(trim_after_load(bench.scheduler, lambda: [bench.variant], QUIET_SECONDS))
    await asyncio.sleep(0)  # it has begun
    bench.scheduler.submit(bench.job([5, 6, 7]))
    await asyncio.to_thread(bench.done.get)
    bench.scheduler.close()
    await upkeep
