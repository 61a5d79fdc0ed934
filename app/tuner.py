"""Measures a loaded version while nobody asks, and chooses by what it finds.

In this order: what passes cost at the shapes not measured yet; how many threads a pass should have; a second
session on all cores for a lone request, where that costs little memory or the settings ask for it; what the
other builds would give.
Every piece is about one pass long and runs when nothing has waited or run for a while, so a request waits for
one pass at most. A measurement during which somebody asked is thrown away and made again. What is found is
kept for the next start; another build is taken then, not while this one serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from statistics import geometric_mean
from typing import TypeVar

from app.artifact import Build, Manifest
from app.errors import BertpressError, EngineError
from app.hardware import Hardware, resident_memory_bytes, return_free_memory
from app.opening import Opener
from app.scheduler import Scheduler
from app.session import Session
from app.threads import best_threads
from app.trials import pass_seconds, texts_per_second
from app.tuning import Trial
from app.variant import Variant

log = logging.getLogger(__name__)
T = TypeVar("T")

# A longer pass would keep a request waiting; what it costs follows from the shorter ones.
_LONGEST_PIECE_SECONDS = 0.1
# Short texts and long ones count alike: threads that share a pass gain most on long ones.
_TRIAL_LENGTHS = (32, 128)
_TRIAL_ROWS = (1, 4)
_TRIAL_ROUNDS = 4
_ATTEMPTS = 20
# While it is tried, a second copy of a build must not take more of the memory that is left.
_MEMORY_SHARE = 0.5
_COPIES_WHILE_OPENING = 2
# A session for lone requests costs the memory of the build once more: unasked it is given to none above this.
_MOST_BYTES_OPENED_TWICE = 32_000_000


class Tuner:
    """One version at a time. Lives on the event loop."""

    def __init__(
        self, opener: Opener, scheduler: Scheduler, hardware: Hardware, lone_session: bool | None
    ) -> None:
        self._opener, self._scheduler, self._hardware = opener, scheduler, hardware
        self._lone_session = lone_session
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, variant: Variant) -> None:
        """Tune a version that was just loaded, when there is time."""
        task = asyncio.create_task(self._tune_quietly(variant))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Begin nothing more."""
        for task in self._tasks:
            task.cancel()

    async def tune(self, variant: Variant) -> None:
        """Measure what is not known yet, and use it."""
        await self._measure_costs(variant, variant.session)
        await self._choose_threads(variant)
        if self._wants_lone_session(variant):
            await self._add_lone_session(variant)
        await self._try_other_builds(variant)
        await self._when_idle(variant.trim)
        await self._when_idle(return_free_memory)

    async def _tune_quietly(self, variant: Variant) -> None:
        try:
            async with self._one_at_a_time:
                await self.tune(variant)
        except BertpressError as error:
            if not variant.closed:
                log.info("measuring %s while idle ended: %s", variant.key, error)
        except Exception:
            log.exception("measuring %s while idle failed; it serves with what is known", variant.key)

    async def _measure_costs(self, variant: Variant, session: Session) -> None:
        missing = [
            point
            for point in sorted(session.cost.estimated)
            if session.cost(*point) <= _LONGEST_PIECE_SECONDS and variant.limits.hold(*point)
        ]
        for point in missing:
            rows, length = point
            measure = partial(pass_seconds, session, variant.some_ids(length), rows)
            self._scheduler.measured(session, point, await self._undisturbed(measure, session.threads))
        self._scheduler.all_measured(session)
        if missing:
            place, tuning = self._opener.place(variant.build), self._opener.tuning
            measured = tuning.get(place).with_cost(session.threads, session.cost.measured)
            await asyncio.to_thread(tuning.put, place, measured)
            log.info("%s: costs of %d shapes are measured", variant.key, len(missing))

    async def _choose_threads(self, variant: Variant) -> None:
        place, tuning = self._opener.place(variant.build), self._opener.tuning
        candidates = self._opener.thread_candidates(variant.build)
        if len(candidates) < 2:
            return
        for threads in candidates:
            if threads not in tuning.get(place).trials:
                await self._try(variant, variant.build, threads)
        best = best_threads({t: trial for t, trial in tuning.get(place).trials.items() if t in candidates})
        if best is not None and best != variant.session.threads:
            await self._change_threads(variant, best)

    async def _change_threads(self, variant: Variant, threads: int) -> None:
        async with self._session(variant, variant.build, threads) as session:
            await self._measure_costs(variant, session)
            before = variant.session
            self._scheduler.change_session(variant, session, None)
        log.info("%s: passes have %d threads now, %d before", variant.key, threads, before.threads)

    def _wants_lone_session(self, variant: Variant) -> bool:
        if self._lone_session is not None:
            return self._lone_session
        return variant.manifest.bytes_to_run(variant.build) <= _MOST_BYTES_OPENED_TWICE

    async def _add_lone_session(self, variant: Variant) -> None:
        threads = self._scheduler.cores
        if variant.session.threads == threads or not self._opener.thread_candidates(variant.build):
            return
        async with self._session(variant, variant.build, threads) as session:
            await self._measure_costs(variant, session)
            self._scheduler.change_session(variant, variant.session, session)
        log.info("%s: a request that is alone has all %d cores", variant.key, threads)

    async def _try_other_builds(self, variant: Variant) -> None:
        ranked = [choice.build for choice in self._opener.rank(variant.manifest)]
        if len(ranked) < 2:
            return
        for build in ranked:
            if self._opener.tuning.get(self._opener.place(build)).best_rate is None:
                await self._try(variant, build, variant.session.threads)
        best = self._opener.rank(variant.manifest)[0]
        if best.build.name != variant.build.name:
            log.info("%s: the next load takes build %s: %s", variant.key, best.build.name, best.reason)

    async def _try(self, variant: Variant, build: Build, threads: int) -> None:
        """Measure what a build gives on so many threads, and keep it."""
        async with self._session(variant, build, threads) as session:
            longest = variant.manifest.tokenizer.max_tokens
            lengths = sorted({min(length, longest) for length in _TRIAL_LENGTHS})
            rates = [await self._rate(variant, build, session, length) for length in lengths]
            lone = partial(pass_seconds, session, variant.some_ids(lengths[-1]), 1)
            lone_seconds = await self._undisturbed(lone, threads)
        trial = Trial(geometric_mean(rates), lone_seconds)
        place, tuning = self._opener.place(build), self._opener.tuning
        await asyncio.to_thread(tuning.put, place, tuning.get(place).with_trials({threads: trial}))
        log.info(
            "%s: build %s with %d passes of %d threads: %s, %.1f ms for one alone",
            variant.key,
            build.name,
            self._passes(session),
            threads,
            ", ".join(f"{r:.1f} texts/s of {n} tokens" for r, n in zip(rates, lengths, strict=True)),
            trial.lone_seconds * 1000,
        )

    async def _rate(self, variant: Variant, build: Build, session: Session, length: int) -> float:
        """Texts of so many tokens a second, in the batches that give most."""
        ids, rates = variant.some_ids(length), []
        for rows in self._trial_rows(variant.manifest, build, session, length):
            measure = partial(texts_per_second, session, ids, rows, self._passes(session))
            rates += [await self._undisturbed(measure, self._scheduler.cores) for _ in range(_TRIAL_ROUNDS)]
        return max(rates)

    def _passes(self, session: Session) -> int:
        return max(self._scheduler.cores // session.threads, 1)

    def _trial_rows(self, manifest: Manifest, build: Build, session: Session, length: int) -> list[int]:
        limits = self._opener.limits(manifest, build)
        most = limits.max_rows if build.batch_invariant else 1
        fits = [rows for rows in _TRIAL_ROWS if rows <= most and limits.hold(rows, length)]
        return [rows for rows in fits if rows == 1 or session.cost(rows, length) <= _LONGEST_PIECE_SECONDS]

    @asynccontextmanager
    async def _session(self, variant: Variant, build: Build, threads: int) -> AsyncIterator[Session]:
        """The version's own session, or another one that is closed afterwards unless the version took it.

        Raises:
            EngineError: the build does not open, or there is no memory to open it.
            ProbeError: it does not give the published logits here.
        """
        if build is variant.build and threads == variant.session.threads:
            yield variant.session
            return
        if not self._has_room(variant.manifest.bytes_to_run(build)):
            raise EngineError(f"the memory left does not allow build {build.name} to be opened for a trial")
        # What it keeps for good must not lie between what passes took and leave behind.
        await self._when_idle(variant.trim)
        session = await self._when_idle(partial(self._opener.open_session, variant.manifest, build, threads))
        try:
            numbers = range(len(variant.manifest.probes))
            checks = [partial(variant.check_probe, number, build, session) for number in numbers]
            calls = (*checks, partial(variant.longest_pass, session))
            session.cost.fit([await self._when_idle(call, threads) for call in calls])
            yield session
        finally:
            if session not in (variant.session, variant.lone_session):
                session.engine.close()

    def _has_room(self, needed_bytes: int) -> bool:
        limit = self._hardware.memory_limit_bytes
        left = limit - resident_memory_bytes()
        return not limit or _COPIES_WHILE_OPENING * needed_bytes <= _MEMORY_SHARE * left

    async def _undisturbed(self, measure: Callable[[], T], cores: int) -> T:
        """The result of a measurement during which nobody asked for anything."""
        for _ in range(_ATTEMPTS):
            result, disturbed = await self._when_idle(partial(self._watched, measure), cores)
            if not disturbed:
                break
        return result

    def _watched(self, measure: Callable[[], T]) -> tuple[T, bool]:
        before = self._scheduler.submissions
        result = measure()
        return result, self._scheduler.submissions != before

    async def _when_idle(self, call: Callable[[], T], cores: int = 1) -> T:
        return await asyncio.wrap_future(self._scheduler.run_when_idle(call, cores))
