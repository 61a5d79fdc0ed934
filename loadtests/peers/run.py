"""One run of load against a server: what is sent, how it is judged, and what counts as sustained."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import orjson

from app.errors import SettingsError
from loadtests import driver, schedule
from loadtests.connection import BrokenConnectionError, Pool
from loadtests.peers.corpus import Corpus
from loadtests.peers.peer import Peer
from loadtests.summary import ANSWERED, Outcome, percentile

DEADLINE_MS = {"short": 100, "long": 500}
IN_FLIGHT = 16
OPEN_CONNECTIONS = 512
# The share that may be late, wrong or refused while a rate still counts as sustained: p99.
ALLOWED_SHARE = 0.01
GIVE_UP_SECONDS = 10.0
_SETTLE_SECONDS = 30.0
_SETTLING_REQUESTS = 4
# A starting server may take a request and lose it: after so long it is asked again.
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Load:
    """What one server is asked, texts of one length, and how its answers are judged."""

    url: str
    peer: Peer
    corpus: Corpus
    deadline_ms: int

    def requests(self, random: Random, wait_ms: int) -> tuple[list[bytes], driver.Judge]:
        """All texts in a random order as bodies of senders who wait so long, and the judge of the answers."""
        order = random.sample(range(len(self.corpus.texts)), len(self.corpus.texts))
        bodies = [orjson.dumps(self.peer.body(self.corpus.texts[index], wait_ms)) for index in order]
        labels = [self.corpus.labels[index] for index in order]
        return bodies, lambda number, body: label_of(self.peer, body) == labels[number]

    def target(self, connections: int) -> driver.Target:
        """The server, over at most so many connections."""
        return driver.Target(
            self.url, timeout_seconds=GIVE_UP_SECONDS, connections=connections, path=self.peer.path
        )


@dataclass(frozen=True)
class Run:
    """Figures of one run. Rates are a second; goodput counts right answers within the deadline.

    The percentiles are over all requests, and one that failed counts as infinitely late (None).
    """

    offered_rate: float | None
    answered_rate: float
    goodput: float
    p50_ms: float | None
    p99_ms: float | None
    failures: dict[str, int]
    requests: int
    client_cpu_share: float


def failed_share(run: Run) -> float:
    """The share of a run's requests that got no right answer."""
    return sum(run.failures.values()) / run.requests if run.requests else 0.0


def wrong_share(run: Run) -> float:
    """The share that was answered with another label than the bare engine's."""
    return run.failures.get(driver.WRONG, 0) / run.requests if run.requests else 0.0


def label_of(peer: Peer, body: bytes) -> str | None:
    """The label in an answer, None where there is none to be found."""
    try:
        return peer.label(orjson.loads(body))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def digest(
    outcomes: Sequence[Outcome],
    *,
    deadline_ms: float,
    offered_rate: float | None,
    duration_seconds: float,
    client_cpu_share: float,
) -> Run:
    """Condense a run. Rates are over the time in which requests were sent, not over what came after it."""
    right = [outcome for outcome in outcomes if outcome.code == ANSWERED]
    latencies = sorted(
        outcome.latency_seconds * 1000 if outcome.code == ANSWERED else math.inf for outcome in outcomes
    )
    in_time = sum(latency <= deadline_ms for latency in latencies)
    return Run(
        offered_rate=offered_rate,
        answered_rate=len(right) / max([duration_seconds, *(outcome.done_seconds for outcome in right)]),
        goodput=in_time / duration_seconds,
        p50_ms=_finite(percentile(latencies, 50)),
        p99_ms=_finite(percentile(latencies, 99)),
        failures=dict(Counter(outcome.code for outcome in outcomes if outcome.code != ANSWERED)),
        requests=len(outcomes),
        client_cpu_share=client_cpu_share,
    )


@dataclass
class Patience:
    """Loses it once more than the allowed share of a run's requests is late or failed."""

    allowed: int
    deadline_seconds: float
    missed: int = field(default=0)

    def __call__(self, outcome: Outcome) -> bool:
        late = outcome.latency_seconds > self.deadline_seconds
        self.missed += late or outcome.code != ANSWERED
        return self.missed > self.allowed


async def closed(load: Load, random: Random, duration_seconds: float) -> Run:
    """As many answers as come with IN_FLIGHT requests always under way."""
    bodies, judge = load.requests(random, int(GIVE_UP_SECONDS * 1000))
    with _CpuShare() as cpu:
        outcomes = await driver.closed_loop(
            load.target(IN_FLIGHT),
            bodies,
            duration_seconds=duration_seconds,
            max_requests=schedule.MAX_REQUESTS,
            judge=judge,
        )
    return digest(
        outcomes,
        deadline_ms=load.deadline_ms,
        offered_rate=None,
        duration_seconds=duration_seconds,
        client_cpu_share=cpu.share,
    )


async def opened(load: Load, random: Random, duration_seconds: float, rate: float) -> Run:
    """What becomes of requests that arrive at a rate, at random moments, whatever the server does."""
    await settle(load)
    bodies, judge = load.requests(random, load.deadline_ms)
    offsets = schedule.scattered(rate, duration_seconds, random)
    with _CpuShare() as cpu:
        outcomes = await driver.open_loop(load.target(OPEN_CONNECTIONS), bodies, offsets, judge=judge)
    return digest(
        outcomes,
        deadline_ms=load.deadline_ms,
        offered_rate=len(offsets) / duration_seconds,
        duration_seconds=duration_seconds,
        client_cpu_share=cpu.share,
    )


async def sustains(load: Load, random: Random, duration_seconds: float, rate: float) -> bool:
    """Whether 99 of 100 requests at this rate are answered right and in time; ends once they cannot be."""
    await settle(load)
    bodies, judge = load.requests(random, load.deadline_ms)
    offsets = schedule.scattered(rate, duration_seconds, random)
    patience = Patience(int(ALLOWED_SHARE * len(offsets)), load.deadline_ms / 1000)
    outcomes = await driver.open_loop(
        load.target(OPEN_CONNECTIONS), bodies, offsets, judge=judge, hopeless=patience
    )
    return len(outcomes) == len(offsets) and patience.missed <= patience.allowed


async def settle(load: Load) -> None:
    """Wait until what earlier runs left in the server's queues is worked off.

    Raises:
        SettingsError: that takes longer than half a minute.
    """
    target = load.target(_SETTLING_REQUESTS)
    body = target.post(orjson.dumps(load.peer.body(load.corpus.texts[0], load.deadline_ms)))
    async with target.pool() as pool:
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                await asyncio.gather(*(_until_right(pool, body, load) for _ in range(_SETTLING_REQUESTS)))
        except TimeoutError as error:
            raise SettingsError(
                f"{load.peer.name} does not answer {_SETTLE_SECONDS:g} s after its load has ended"
            ) from error


async def _until_right(pool: Pool, request: bytes, load: Load) -> None:
    while True:
        try:
            answer = await pool.ask(request)
        except BrokenConnectionError:
            answer = None
        if answer and answer.status == 200 and label_of(load.peer, answer.body) == load.corpus.labels[0]:
            return
        await asyncio.sleep(0.02)


async def first_right_answer(load: Load, check_alive: Callable[[], None], give_up_seconds: float) -> float:
    """The moment (monotonic clock) at which a starting server gave its first right answer.

    Raises:
        SettingsError: the server ended, or gave none in time.
    """
    target = load.target(1)
    body = target.post(orjson.dumps(load.peer.body(load.corpus.texts[0], 60_000)))
    give_up = time.monotonic() + give_up_seconds
    async with target.pool() as pool:
        while time.monotonic() < give_up:
            check_alive()
            try:
                async with asyncio.timeout(min(_PATIENCE_SECONDS, give_up_seconds)):
                    await _until_right(pool, body, load)
                return time.monotonic()
            except TimeoutError:
                continue
    raise SettingsError(f"{load.peer.name} gave no right answer within {give_up_seconds:g} s")


class _CpuShare:
    """This process's share of the CPU time of all cores while the context is open."""

    share = 0.0

    def __enter__(self) -> _CpuShare:
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._started
        cores = len(os.sched_getaffinity(0))
        self.share = (time.process_time() - cpu) / (time.perf_counter() - wall) / cores


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
