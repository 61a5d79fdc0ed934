"""One loaded version: its tokenizer, sessions and queue, its probes, and the requests it serves."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from app.artifact import Build, Manifest
from app.batcher import BatchLimits
from app.builds import Choice
from app.cost import CostModel, Point, shape_of
from app.engines import KeepsMemory
from app.errors import ProbeError
from app.job import Logits, Row
from app.leases import Leases
from app.metrics import VariantMetrics
from app.published import latencies
from app.queue import Queue
from app.session import Session
from app.tokenizer import Ids, Tokenizer, pad

_SHORTEST_BUCKET = 8
_HEIGHTS = (1, 4, 16)
_serials = itertools.count()


@dataclass(frozen=True, slots=True, order=True)
class VersionKey:
    """Names one version in the repository."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class Variant:
    """A version in memory. Its queue and sessions belong to the scheduler, its leases to the event loop."""

    def __init__(
        self,
        manifest: Manifest,
        choice: Choice,
        tokenizer: Tokenizer,
        session: Session,
        limits: BatchLimits,
        metrics: VariantMetrics,
    ) -> None:
        self.key = VersionKey(manifest.name, manifest.version)
        self.serial = next(_serials)
        self.manifest, self.build, self.reason = manifest, choice.build, choice.reason
        self.tokenizer, self.metrics = tokenizer, metrics
        self.limits = replace(limits, batch_invariant=choice.build.batch_invariant)
        self.queue = Queue(keep_lengths=choice.build.batch_invariant)
        self.session = session
        self.lone_session: Session | None = None
        self.leases = Leases()
        self.memory_bytes = 0
        self.closed = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of an answer's probabilities."""
        return self.manifest.labels

    @property
    def max_tokens(self) -> int:
        """Most tokens it reads of a text."""
        return self.manifest.tokenizer.max_tokens

    @property
    def precision(self) -> str:
        """Precision of the build in memory."""
        return self.build.precision

    @property
    def build_name(self) -> str:
        """Name of the build in memory."""
        return self.build.name

    @property
    def platform(self) -> str:
        """What runs it."""
        return self.build.engine

    @property
    def threads(self) -> int:
        """Threads of a forward pass."""
        return self.session.threads

    def lease(self) -> AbstractContextManager[None]:
        """Hold the version in memory while a request needs it."""
        return self.leases.lease()

    def cost(self, rows: int, length: int) -> float:
        """Predicted seconds of an ordinary pass."""
        return self.session.cost(rows, length)

    def logits(self, rows: Sequence[Row], session: Session | None = None) -> Logits:
        """One forward pass over rows of any length; (B, C)."""
        return self.run([row.input_ids for row in rows], session)

    def run(self, ids: Sequence[Ids], session: Session | None = None) -> Logits:
        """One forward pass over token ids, padded where they differ in length; (B, C)."""
        session, longest = session or self.session, max(map(len, ids))
        length = min(longest + -longest % session.length_step, self.max_tokens)
        input_ids, attention_mask = pad(ids, self.manifest.tokenizer.pad_token_id, length)
        return session.engine.logits(input_ids, attention_mask)

    def longest_pass(self, session: Session | None = None) -> tuple[int, float]:
        """Run as many tokens as the model reads; returns how many, and how many seconds that took."""
        ids = self.some_ids(self.manifest.tokenizer.max_tokens)
        started = time.perf_counter()
        self.run([ids], session)
        return len(ids), time.perf_counter() - started

    def some_ids(self, length: int) -> Ids:
        """Token ids of a probe, repeated or cut to this length, to measure with."""
        return np.resize(self.tokenizer.encode(self.manifest.probes[0].text).input_ids, length)

    def check_probe(
        self, number: int, build: Build | None = None, session: Session | None = None
    ) -> tuple[int, float]:
        """Run a probe on this build, or on another; returns its tokens and how many seconds its pass took.

        Raises:
            ProbeError: the build does not give the published logits here.
        """
        build = build or self.build
        probe, tolerance = self.manifest.probes[number], build.probe_tolerance
        expected = np.asarray(probe.logits[build.name], dtype=np.float32)
        ids = self.tokenizer.encode(probe.text).input_ids
        started = time.perf_counter()
        found = self.run([ids], session)[0]
        seconds = time.perf_counter() - started
        distance = float(np.max(np.abs(found - expected))) if found.shape == expected.shape else float("inf")
        # written so that a NaN fails too
        if not distance <= tolerance:
            raise ProbeError(
                f"build {build.name} of {self.key} is {distance:.4g} away from its published logits on "
                f"probe {number}, allowed {tolerance:g}: this machine computes it differently; "
                "publish a build for this CPU or name another in BERTPRESS_BUILD"
            )
        return len(ids), seconds

    def trim(self) -> None:
        """Give back what was kept for passes as large as the largest so far."""
        # the sessions of a version are of one engine, whose memory they share: to trim one is to trim both
        if isinstance(self.session.engine, KeepsMemory):
            self.session.engine.trim()

    def close(self) -> None:
        """Give the engines' memory back."""
        self.closed = True
        self.session.engine.close()
        if self.lone_session is not None:
            self.lone_session.engine.close()


def length_buckets(max_tokens: int) -> list[int]:
    """Powers of two up to the model's length, that length included."""
    buckets = []
    length = _SHORTEST_BUCKET
    while length < max_tokens:
        buckets.append(length)
        length *= 2
    return [*buckets, max_tokens]


def cost_grid(manifest: Manifest, limits: BatchLimits) -> list[Point]:
    """The shapes at which a build's cost is to be known; single rows alone where it runs no others."""
    heights = [rows for rows in _HEIGHTS if rows <= limits.max_rows] if limits.batch_invariant else [1]
    return [(rows, length) for rows in heights for length in length_buckets(manifest.tokenizer.max_tokens)]


def published_cost(manifest: Manifest, build: str, limits: BatchLimits, threads: int) -> CostModel:
    """The manifest's latencies of a build over the grid, all of them estimates; a plain guess without any."""
    shape, grid = shape_of(latencies(manifest, build, threads)), cost_grid(manifest, limits)
    return CostModel({point: shape(*point) for point in grid}, estimated=grid)
