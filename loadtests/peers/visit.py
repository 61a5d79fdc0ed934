"""One start of one server, and everything that is measured before it is stopped again."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from loadtests import memory
from loadtests.peers import run
from loadtests.peers.corpus import Corpus
from loadtests.peers.peer import Launch, Peer, Setting, sibling_python
from loadtests.peers.run import DEADLINE_MS, Load, Run
from loadtests.peers.search import Found, Search
from loadtests.process import running, unused_port

# Engines that read a float model in Hugging Face's form; all others read the artifact.
FLOAT_ENGINES = frozenset({"transformers", "torch"})
START_SECONDS = 120.0
GRACE_SECONDS = 2.0
WARM_UP_SECONDS = 1.0
OVERLOAD = 2.0
# Where the search begins: in shares of the closed loop's throughput, later of what was found before.
FIRST_BRACKET, LATER_BRACKET = (0.4, 1.05), (0.88, 1.14)


@dataclass(frozen=True)
class Bench:
    """What is the same for every server of a table.

    Between its start and its load a server is left alone for `rest_seconds`, as one that runs for weeks is.
    """

    environments: Path
    model: Path
    float_model: Path
    build_name: str
    build_file: str
    corpora: Mapping[str, Corpus]
    seconds: Mapping[str, float]
    rest_seconds: float = 0.0


@dataclass(frozen=True)
class LengthFigures:
    """What a server did with texts of one length.

    `sustained` is the highest rate at which 99 of 100 requests were answered right within the deadline.
    """

    closed: Run
    sustained: Found
    equal: Run
    overload: Run


@dataclass(frozen=True)
class Visit:
    """All that was measured of one start."""

    peer: str
    cold_start_seconds: float
    ready_bytes: int
    loaded_bytes: int
    lengths: dict[str, LengthFigures]


@dataclass(frozen=True)
class Trial:
    """What a setting gave in the closed loop, answers a second by length; or why it could not be tried."""

    peer: str
    setting: Setting
    lengths: dict[str, Run]
    error: str | None = None


@dataclass(frozen=True)
class _Up:
    loads: dict[str, Load]
    pid: int
    cold_start_seconds: float


def launch(bench: Bench, peer: Peer, setting: Setting, port: int, scratch: Path) -> Launch:
    """What a peer's `start` needs to know. The float model goes to the engines that read one."""
    python = Path(sys.executable) if not peer.requirements else sibling_python(bench.environments, peer.name)
    model = bench.float_model if setting.engine in FLOAT_ENGINES else bench.model
    return Launch(python, model, bench.build_name, bench.build_file, port, scratch, setting)


async def try_setting(bench: Bench, peer: Peer, setting: Setting) -> Trial:
    """Start a server with a setting and take its closed-loop throughput.

    Raises:
        SettingsError: it does not start, or does not answer right.
    """
    async with _up(bench, peer, setting) as up:
        lengths = {
            length: await run.closed(load, Random(length), bench.seconds[length])
            for length, load in up.loads.items()
        }
    return Trial(peer.name, setting, lengths)


async def visit(
    bench: Bench,
    peer: Peer,
    setting: Setting,
    equal_rates: Mapping[str, float],
    before: Sequence[Visit],
) -> Visit:
    """Start a server, measure everything, stop it.

    `before` are the earlier visits to it: their number chooses the arrivals, alike for all servers, and
    the search for the highest rate begins around what the last of them found.

    Raises:
        SettingsError: it does not start, or does not answer right.
    """
    async with _up(bench, peer, setting) as up:
        ready_bytes = memory.tree_bytes(up.pid)
        await asyncio.sleep(bench.rest_seconds)
        lengths = {}
        for length, load in up.loads.items():
            known_rate = before[-1].lengths[length].sustained.rate if before else 0.0
            lengths[length] = await _measure(
                load, bench.seconds[length], equal_rates[length], f"{len(before)} {length}", known_rate
            )
        loaded_bytes = memory.tree_bytes(up.pid)
    return Visit(peer.name, up.cold_start_seconds, ready_bytes, loaded_bytes, lengths)


async def _measure(
    load: Load, seconds: float, equal_rate: float, seed: str, known_rate: float
) -> LengthFigures:
    closed = await run.closed(load, Random(seed), seconds)
    middle, bracket = (known_rate, LATER_BRACKET) if known_rate else (closed.answered_rate, FIRST_BRACKET)
    sustained = await _search(load, seconds, Search(bracket[0] * middle, bracket[1] * middle), seed)
    equal = await run.opened(load, Random(seed), seconds, equal_rate)
    overload = await run.opened(load, Random(seed), seconds, OVERLOAD * closed.answered_rate)
    await run.settle(load)
    return LengthFigures(closed, sustained, equal, overload)


async def _search(load: Load, seconds: float, search: Search, seed: str) -> Found:
    while (rate := search.next_rate()) is not None:
        search.learn(rate, await run.sustains(load, Random(f"{seed} {rate}"), seconds, rate))
    return search.found


@contextlib.asynccontextmanager
async def _up(bench: Bench, peer: Peer, setting: Setting) -> AsyncIterator[_Up]:
    """A started, warm server."""
    port = unused_port()
    with tempfile.TemporaryDirectory() as scratch:
        started = peer.start(launch(bench, peer, setting, port, Path(scratch)))
        with running(
            started.command,
            environment=started.environment,
            folder=started.folder,
            grace_seconds=GRACE_SECONDS,
        ) as process:
            loads = {
                length: Load(f"http://127.0.0.1:{port}", peer, corpus, DEADLINE_MS[length])
                for length, corpus in bench.corpora.items()
            }
            first = await run.first_right_answer(loads["short"], process.check_alive, START_SECONDS)
            for load in loads.values():
                await run.closed(load, Random(0), WARM_UP_SECONDS)
            yield _Up(loads, process.pid, first - process.started_seconds)
