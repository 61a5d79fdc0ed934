"""One loaded version: its tokenizer, engine and queue, its probes and warm-up, and the requests it serves."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app.artifact import TOKENIZER_FILE, Manifest
from app.batcher import BatchLimits
from app.builds import Choice
from app.cost import CostModel
from app.engines import Engine, load_engine
from app.errors import ProbeError
from app.job import Logits, Row
from app.metrics import VariantMetrics
from app.queue import Queue
from app.session import Session
from app.tokenizer import Ids, Tokenizer, pad

_SHORTEST_BUCKET = 8
_serials = itertools.count()
# Two heights give the slope of the cost in rows; taller batches are extrapolated, then learned.
_MEASURED_ROWS = (1, 4)


@dataclass(frozen=True, slots=True, order=True)
class VersionKey:
    """Names one version in the repository."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class Variant:
    """A version in memory. Its queue and cost model belong to the scheduler, its leases to the event loop."""

    def __init__(
        self,
        manifest: Manifest,
        choice: Choice,
        tokenizer: Tokenizer,
        engine: Engine,
        limits: BatchLimits,
        metrics: VariantMetrics,
        threads: int = 1,
    ) -> None:
        self.key = VersionKey(manifest.name, manifest.version)
        self.serial = next(_serials)
        self.manifest, self.build, self.reason = manifest, choice.build, choice.reason
        self.tokenizer, self.metrics = tokenizer, metrics
        self.limits = replace(limits, batch_invariant=choice.build.batch_invariant)
        self.queue = Queue(keep_lengths=choice.build.batch_invariant)
        self.session = Session(engine, threads, CostModel({(1, 1): 1e-3}))
        self.lone_session: Session | None = None
        self.memory_bytes = 0
        self.leases = 0
        self._returned = asyncio.Event()

    def cost(self, rows: int, length: int) -> float:
        """Predicted seconds of an ordinary pass."""
        return self.session.cost(rows, length)

    def logits(self, rows: Sequence[Row], session: Session | None = None) -> Logits:
        """One forward pass over rows of any length; (B, C)."""
        return self.run([row.input_ids for row in rows], session)

    def run(self, ids: Sequence[Ids], session: Session | None = None) -> Logits:
        """One forward pass over token ids, padded where they differ in length; (B, C)."""
        input_ids, attention_mask = pad(ids, self.manifest.tokenizer.pad_token_id)
        return (session or self.session).engine.logits(input_ids, attention_mask)

    def probe_checks(self) -> Iterator[Callable[[], None]]:
        """One call per probe; each raises ProbeError if the build does not give the published logits."""
        for number in range(len(self.manifest.probes)):
            yield lambda number=number: self._check_probe(number)  # type: ignore[misc]

    def warm_up_passes(self) -> Iterator[Callable[[], None]]:
        """One call per length bucket; together they touch every real shape and measure the cost model."""
        measured: dict[tuple[int, int], float] = {}
        lengths = length_buckets(self.manifest.tokenizer.max_tokens)
        heights = [rows for rows in _MEASURED_ROWS if rows <= self.limits.max_rows]
        for rows in heights if self.limits.batch_invariant else [1]:
            for length in lengths:
                yield lambda rows=rows, length=length: self._measure(measured, rows, length)  # type: ignore[misc]
        yield lambda: self._learn(measured)

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold the version in memory while a request needs it."""
        self.leases += 1
        try:
            yield
        finally:
            self.leases -= 1
            self._returned.set()

    async def drained(self) -> None:
        """Wait until every lease is returned."""
        while self.leases:
            self._returned.clear()
            await self._returned.wait()

    def close(self) -> None:
        """Give the engine's memory back."""
        self.session.engine.close()
        if self.lone_session is not None:
            self.lone_session.engine.close()

    def _check_probe(self, number: int) -> None:
        probe, tolerance = self.manifest.probes[number], self.build.probe_tolerance
        expected = np.asarray(probe.logits[self.build.name], dtype=np.float32)
        found = self.run([self.tokenizer.encode(probe.text).input_ids])[0]
        distance = float(np.max(np.abs(found - expected))) if found.shape == expected.shape else float("inf")
        # written so that a NaN fails too
        if not distance <= tolerance:
            raise ProbeError(
                f"build {self.build.name} of {self.key} is {distance:.4g} away from its published logits on "
                f"probe {number}, allowed {tolerance:g}: this machine computes it differently; "
                "publish a build for this CPU or name another in BERTPRESS_BUILD"
            )

    def _measure(self, measured: dict[tuple[int, int], float], rows: int, length: int) -> None:
        ids = np.resize(self.tokenizer.encode(self.manifest.probes[0].text).input_ids, length)
        seconds = []
        for _ in range(2):  # the first pass of a shape allocates
            started = time.perf_counter()
            self.run([ids] * rows)
            seconds.append(time.perf_counter() - started)
        measured[rows, length] = min(seconds)

    def _learn(self, measured: dict[tuple[int, int], float]) -> None:
        self.session.cost = CostModel(measured)


def length_buckets(max_tokens: int) -> list[int]:
    """Powers of two up to the model's length, that length included."""
    buckets = []
    length = _SHORTEST_BUCKET
    while length < max_tokens:
        buckets.append(length)
        length *= 2
    return [*buckets, max_tokens]


def load_variant(
    folder: Path,
    manifest: Manifest,
    choice: Choice,
    threads: int,
    limits: BatchLimits,
    metrics: VariantMetrics,
) -> Variant:
    """Open a verified version's tokenizer and build. Not yet probed, not yet warm.

    Raises:
        ArtifactError: the tokenizer does not open.
        EngineError: the build does not open.
    """
    tokenizer = Tokenizer(folder / TOKENIZER_FILE, manifest.tokenizer)
    engine = load_engine(choice.build.engine, folder / choice.build.file, threads, choice.build.precision)
    return Variant(manifest, choice, tokenizer, engine, limits, metrics, threads)
