"""What share of the bare engine is left over HTTP: `python -m loadtests.engine_ratio`.

Both sides answer the same texts, all of them once a turn, with 16 requests in flight. One is the service,
closed loop over HTTP, its cache and coalescing off. The other is the engine in a process of its own with
nothing before it, under the best of its schedules: one session of all threads, a session for each thread,
and, where the build's answers do not depend on their batch, batches of like length. The engine's work is text
to logits, tokenization included; without tokenization it is given too.

The sides take turns in one run. Once started the service is left alone for a while, in which it tunes itself;
afterwards it stands still (SIGSTOP) while the engine is measured. The load comes from this process, which
holds no engine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from statistics import median

import uvloop

from app import artifact
from app.errors import BertpressError, SettingsError
from app.hardware import detect
from loadtests import driver, texts
from loadtests.bare_engine import Schedule
from loadtests.server import Service, add_flags, service
from loadtests.summary import Summary, summarize

IN_FLIGHT = 16
BATCHES = (4, 8, 16)
WARM_UP_PARTS = 4
# A turn with short texts has so many times the texts that one with long ones has: it takes as long.
SHORT_FACTOR = 10
REST_SECONDS = 10.0
_TIMEOUT_SECONDS = 60.0
_LONGEST_TURN_SECONDS = 120.0


@dataclass(frozen=True)
class Turn:
    """One turn of each side, texts of one length. The engine's rates are by schedule, texts a second."""

    http: Summary
    text_to_logits: dict[str, float]
    ids_to_logits: dict[str, float]


@dataclass(frozen=True)
class Ratio:
    """Medians over the turns; the shares are medians of the shares of single turns.

    The best schedule is the one with the highest median.
    """

    http_rate: float
    schedule: str
    text_rate: float
    share: float
    ids_schedule: str
    ids_rate: float
    ids_share: float
    client_cpu_share: float
    not_answered: int


@dataclass(frozen=True)
class _Engine:
    """The build that the service runs, and how it can be run by itself."""

    folder: Path
    build: str
    schedules: Sequence[Schedule]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the shares."""
    options = _parser().parse_args(arguments)
    try:
        turns, facts = measure(options.models, options.name, options.build, options.texts, options.rounds)
    except BertpressError as error:
        print(f"engine_ratio: {error}", file=sys.stderr)
        return 1
    ratios = {length: condense(of_length) for length, of_length in turns.items()}
    print(table(ratios, facts))
    if options.json is not None:
        document = {
            "facts": facts,
            "ratios": {length: asdict(ratio) for length, ratio in ratios.items()},
            "turns": {length: [asdict(turn) for turn in of_length] for length, of_length in turns.items()},
        }
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 0


def measure(
    models: Path, name: str, wanted: str | None, long_texts: int, rounds: int
) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """Turns by length of text, and what was measured.

    Raises:
        ArtifactError: the repository holds no version of the model.
        SettingsError: the service or the engine cannot be run.
    """
    folder = artifact.newest_folder(models, name)
    manifest = artifact.read(folder)
    counts = {"short": long_texts * SHORT_FACTOR, "long": long_texts}
    samples = {
        length: list(islice(cycle(Random(0).sample(some, len(some))), counts[length]))
        for length, some in texts.sentences_and_reviews().items()
    }
    turns: dict[str, list[Turn]] = {length: [] for length in samples}
    with service(models, [name], build=wanted) as running:
        build = next(one for one in manifest.builds if one.name == build_of(running.url, name))
        cores = detect().cores
        schedules = schedules_of(cores, build.batch_invariant)
        engine = _Engine(folder, build.name, schedules)
        time.sleep(REST_SECONDS)
        for number in range(rounds):
            for length, sample in samples.items():
                turns[length].append(_turn(running, engine, sample))
                print(f"round {number + 1}: {_progress(length, turns[length])}", file=sys.stderr, flush=True)
    facts = {"model": f"{manifest.name}/{manifest.version}", "build": build.name, "cores": str(cores)}
    return turns, facts


def build_of(url: str, name: str) -> str:
    """The build of a model that a service has loaded."""
    with urllib.request.urlopen(f"{url}/v1/models") as response:  # noqa: S310 - loopback, http
        rows = json.load(response)["models"]
    return str(next(row["build"] for row in rows if row["name"] == name and row["state"] == "ready"))


def schedules_of(cores: int, batch_invariant: bool) -> list[Schedule]:
    """Every way to use the cores that may be the best one."""
    shapes = sorted({(1, cores), (cores, 1)})
    alone = [Schedule(sessions, threads) for sessions, threads in shapes]
    if not batch_invariant:
        return alone
    # no more rows in all than there are requests in flight
    return alone + [
        Schedule(sessions, threads, rows)
        for sessions, threads in shapes
        for rows in BATCHES
        if sessions * rows <= IN_FLIGHT
    ]


def condense(turns: Sequence[Turn]) -> Ratio:
    """The figures of one length of text."""

    def best(rates: Callable[[Turn], Mapping[str, float]]) -> tuple[str, float, float]:
        name = max(rates(turns[0]), key=lambda name: median(rates(turn)[name] for turn in turns))
        share = median(turn.http.achieved_rate / rates(turn)[name] for turn in turns)
        return name, median(rates(turn)[name] for turn in turns), share

    schedule_name, text_rate, share = best(lambda turn: turn.text_to_logits)
    ids_schedule, ids_rate, ids_share = best(lambda turn: turn.ids_to_logits)
    return Ratio(
        http_rate=median(turn.http.achieved_rate for turn in turns),
        schedule=schedule_name,
        text_rate=text_rate,
        share=share,
        ids_schedule=ids_schedule,
        ids_rate=ids_rate,
        ids_share=ids_share,
        client_cpu_share=max(turn.http.client_cpu_share for turn in turns),
        not_answered=sum(turn.http.requests - turn.http.answered for turn in turns),
    )


def table(ratios: Mapping[str, Ratio], facts: Mapping[str, str]) -> str:
    """The shares as Markdown."""
    header = ["texts", "over HTTP", "engine, text to logits", "share", "engine, ids to logits", "share"]
    header += ["schedule of the engine", "load generator's CPU", "not answered"]
    rows = [
        [
            length,
            f"{ratio.http_rate:.1f}/s",
            f"{ratio.text_rate:.1f}/s",
            f"**{ratio.share:.1%}**",
            f"{ratio.ids_rate:.1f}/s",
            f"{ratio.ids_share:.1%}",
            ratio.schedule,
            f"{ratio.client_cpu_share:.1%} of the machine",
            str(ratio.not_answered),
        ]
        for length, ratio in ratios.items()
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([", ".join(f"{name} {value}" for name, value in facts.items()), "", *lines])


def _turn(running: Service, engine: _Engine, sample: list[str]) -> Turn:
    http = uvloop.run(_drive(running.url, sample))
    os.kill(running.process.pid, signal.SIGSTOP)
    try:
        rates = {
            tokenize: {str(one): _bare(engine, sample, one, tokenize) for one in engine.schedules}
            for tokenize in (True, False)
        }
    finally:
        os.kill(running.process.pid, signal.SIGCONT)
    return Turn(http, rates[True], rates[False])


async def _drive(url: str, sample: list[str]) -> Summary:
    target = driver.Target(url, timeout_seconds=_TIMEOUT_SECONDS, connections=IN_FLIGHT)
    bodies = driver.bodies(sample, texts_per_request=1, model=None)

    async def load(count: int) -> Summary:
        cpu_before = time.process_time()
        outcomes = await driver.closed_loop(
            target, bodies, duration_seconds=_LONGEST_TURN_SECONDS, max_requests=count
        )
        return summarize(
            outcomes,
            mode="closed loop",
            duration_seconds=0.0,
            offered_rate=None,
            goal_ms=_TIMEOUT_SECONDS * 1000,
            client_cpu_seconds=time.process_time() - cpu_before,
            cores=len(os.sched_getaffinity(0)),
        )

    await load(max(len(sample) // WARM_UP_PARTS, 1))
    return await load(len(sample))


def _bare(engine: _Engine, sample: list[str], one: Schedule, tokenize: bool) -> float:
    order = {
        "folder": str(engine.folder),
        "build": engine.build,
        "schedule": [one.sessions, one.threads, one.rows],
        "texts": sample,
        "tokenize": tokenize,
        "count": len(sample),
        "in_flight": IN_FLIGHT,
    }
    finished = subprocess.run(
        [sys.executable, "-m", "loadtests.bare_engine"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise SettingsError(f"the bare engine could not be measured: {finished.stderr.strip()[-300:]}")
    return float(finished.stdout.split()[-1])


def _progress(length: str, turns: Sequence[Turn]) -> str:
    last = turns[-1]
    rates = ", ".join(f"{name}: {rate:.1f}/s" for name, rate in last.text_to_logits.items())
    return f"{length}, over HTTP {last.http.achieved_rate:.1f}/s; engine, text to logits, {rates}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.engine_ratio",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_flags(parser)
    add(
        "--texts",
        type=int,
        default=300,
        help="long texts in a turn; ten times as many short ones (%(default)s)",
    )
    add("--rounds", type=int, default=5, help="turns of each side (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="keep all figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
