"""Gives memory back that a load took, once nobody has asked for a while.

Engines keep what their largest passes needed for the next ones; after the last of them it is of no use to
anybody else on the machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from app.errors import ClosingError
from app.hardware import MIB, resident_memory_bytes, trim_memory
from app.scheduler import Scheduler
from app.variant import Variant

log = logging.getLogger(__name__)

# Long enough that who asks now and then never waits for memory to be had again.
QUIET_SECONDS = 10.0


async def trim_after_load(
    scheduler: Scheduler, loaded: Callable[[], Iterable[Variant]], quiet_seconds: float = QUIET_SECONDS
) -> None:
    """Until cancelled, trim everything loaded each time that jobs were submitted and none has been since."""
    seen = trimmed = scheduler.submissions
    while True:
        await asyncio.sleep(quiet_seconds)
        quiet, seen = scheduler.submissions == seen, scheduler.submissions
        if not quiet or seen == trimmed:
            continue
        before = resident_memory_bytes()
        try:
            for call in (*(variant.trim for variant in loaded()), trim_memory):
                await asyncio.wrap_future(scheduler.run_when_idle(call))
        except ClosingError:
            return
        trimmed = seen
        log.info("nobody asks: resident %d MiB, before %d MiB", resident_memory_bytes() // MIB, before // MIB)
