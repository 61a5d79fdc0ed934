"""Does memory creep? `python -m loadtests.soak` sends 200,000 texts of random lengths and watches.

Lengths are spread evenly over their logarithm, one word to several hundred. Memory is the resident size of
the service, read between portions of the load. Growth is counted from just after the warm-up, the first
tenth of the requests, to the end; above 5 % the exit code is 1, and so it is if a request failed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median

import uvloop

from app.errors import BertpressError, SettingsError
from loadtests import driver, memory, picture, texts
from loadtests.server import Service, add_flags, service
from loadtests.summary import ANSWERED

REQUESTS = 200_000
MOST_GROWTH = 0.05
MOST_WORDS = 400
CONNECTIONS = 16
MEGABYTE = 1e6
_SAMPLES = 400
_TIMEOUT_SECONDS = 60.0
_WARM_UP = 0.1
_WINDOW = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory after so many requests."""

    requests: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Creep:
    """What the samples say. Growth is the end over the state after the warm-up, less one."""

    first_bytes: int
    warm_bytes: int
    last_bytes: int
    peak_bytes: int
    growth: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what memory did; the exit code is 1 if it grew by more than 5 %, or a request failed."""
    options = _parser().parse_args(arguments)
    try:
        samples, failed = measure(options.models, options.name, options.build, options.requests, options.seed)
        creep = judge(samples)
        print(_line(creep, samples, failed))
        if options.json is not None:
            document = {"failed": failed, **asdict(creep), "samples": [asdict(sample) for sample in samples]}
            options.json.write_text(json.dumps(document), encoding="utf-8")
        if options.png is not None:
            draw(samples, creep, options.png)
    except BertpressError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    return 1 if failed or creep.growth > MOST_GROWTH else 0


def measure(models: Path, name: str, build: str | None, requests: int, seed: int) -> tuple[list[Sample], int]:
    """Start the service, send the requests, and sample; returns how many failed as well.

    Raises:
        SettingsError: too few requests to tell anything from, or the service does not start.
    """
    if requests < _SAMPLES:
        raise SettingsError(f"{requests} requests are too few; {_SAMPLES} is the least")
    candidates = texts.load()
    with service(models, [name], build=build) as running:
        return uvloop.run(_soak(running, candidates, requests, Random(seed)))


async def _soak(
    running: Service, candidates: Sequence[str], requests: int, random: Random
) -> tuple[list[Sample], int]:
    target = driver.Target(running.url, timeout_seconds=_TIMEOUT_SECONDS, connections=CONNECTIONS)
    started, failed = time.monotonic(), 0
    samples = [Sample(0, 0.0, memory.tree_bytes(running.process.pid))]
    for number in range(_SAMPLES):
        done, upcoming = samples[-1].requests, requests * (number + 1) // _SAMPLES
        portion = [random_text(candidates, random) for _ in range(upcoming - done)]
        outcomes = await driver.closed_loop(
            target,
            driver.bodies(portion, texts_per_request=1, model=None),
            duration_seconds=math.inf,
            max_requests=len(portion),
        )
        failed += sum(outcome.code != ANSWERED for outcome in outcomes)
        running.process.check_alive()
        size = memory.tree_bytes(running.process.pid)
        samples.append(Sample(upcoming, time.monotonic() - started, size))
        if number % (_SAMPLES // 20) == 0:
            print(f"{upcoming} requests, {size / MEGABYTE:.0f} MB", file=sys.stderr, flush=True)
    return samples, failed


def random_text(candidates: Sequence[str], random: Random) -> str:
    """Some consecutive words of one of the texts: how many is spread evenly over its logarithm."""
    words = random.choice(candidates).split()
    count = min(len(words), int(math.exp(random.uniform(0.0, math.log(MOST_WORDS + 1)))))
    start = random.randrange(len(words) - count + 1)
    return " ".join(words[start : start + count])


def judge(samples: Sequence[Sample]) -> Creep:
    """Compare medians over a twentieth of the run: after the warm-up, and at the end."""
    total = samples[-1].requests

    def size(begin: float, end: float) -> int:
        return int(median(one.bytes for one in samples if begin * total <= one.requests <= end * total))

    warm, last = size(_WARM_UP, _WARM_UP + _WINDOW), size(1 - _WINDOW, 1)
    return Creep(samples[0].bytes, warm, last, max(one.bytes for one in samples), last / warm - 1)


def draw(samples: Sequence[Sample], creep: Creep, path: Path) -> None:
    """The memory curve as a picture.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    figure = picture.empty(7, 3.2)
    axes = figure.subplots()
    axes.plot([one.requests for one in samples], [one.bytes / MEGABYTE for one in samples])
    axes.axhline(creep.warm_bytes / MEGABYTE, linestyle=":", linewidth=1, color="gray")
    axes.set(
        xlabel="requests of random lengths",
        ylabel="resident memory, MB",
        title=f"growth after warm-up {creep.growth:+.1%}",
        ylim=(0, creep.peak_bytes / MEGABYTE * 1.15),
    )
    figure.savefig(path, dpi=120)


def _line(creep: Creep, samples: Sequence[Sample], failed: int) -> str:
    sizes = ", ".join(
        f"{name} {size / MEGABYTE:.1f} MB"
        for name, size in (
            ("first", creep.first_bytes),
            ("after warm-up", creep.warm_bytes),
            ("last", creep.last_bytes),
            ("peak", creep.peak_bytes),
        )
    )
    load = f"{samples[-1].requests} requests in {samples[-1].seconds:.0f} s, {failed} failed"
    return f"{load}; resident memory: {sizes}; growth after warm-up {creep.growth:+.1%}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description=__doc__)
    add_flags(parser)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="how many to send (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another gives other texts (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the samples")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curve (needs matplotlib)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
