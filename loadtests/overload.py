"""What is left of the goodput when more comes than can be answered: `python -m loadtests.overload`.

Goodput is what is answered 200 within the deadline, a second. The service's capacity is taken first, in a
closed loop with 16 requests in flight; then requests arrive at random moments at multiples of that rate,
whatever the service does. Every request states the deadline as its `timeout_ms`, so that the service can
refuse at once what would come too late. The rounds go up and down the multiples in turn; figures are medians
over the rounds, and each round has its own capacity, taken just before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median

import uvloop

from app.errors import BertpressError
from loadtests import driver, picture, schedule, texts
from loadtests.server import Service, add_flags, service
from loadtests.summary import Outcome, Summary, summarize

MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
DEADLINE_MS = {"short": 100, "long": 500}
LONG_FACTOR = 2
IN_FLIGHT = 16
CONNECTIONS = 512
TEXTS = 1000
_WARM_UP_SECONDS = 1.0
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Round:
    """One capacity, requests a second, and the runs at multiples of it."""

    capacity: float
    runs: dict[float, Summary]


@dataclass(frozen=True)
class Point:
    """Medians over the rounds at one multiple of the capacity. Shares are of the capacity."""

    multiple: float
    offered_rate: float
    goodput: float
    share: float
    share_of_full: float
    """Of the goodput of the run at the capacity, in the same round."""
    refused_share: float
    p99_ms: float | None
    client_cpu_share: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the curve, and draw it where asked."""
    options = _parser().parse_args(arguments)
    try:
        rounds = measure(options.models, options.name, options.build, options.seconds, options.rounds)
        curves = {length: condense(of_length) for length, of_length in rounds.items()}
        print(table(curves))
        if options.json is not None:
            document = {length: [asdict(point) for point in curve] for length, curve in curves.items()}
            options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
        if options.png is not None:
            draw(curves, options.png)
    except BertpressError as error:
        print(f"overload: {error}", file=sys.stderr)
        return 1
    return 0


def measure(
    models: Path, name: str, build: str | None, seconds: float, rounds: int
) -> dict[str, list[Round]]:
    """Start the service and offer it ever more; rounds by length of text.

    Raises:
        SettingsError: the service does not start.
    """
    samples = {
        length: Random(0).sample(all_texts, min(TEXTS, len(all_texts)))
        for length, all_texts in texts.sentences_and_reviews().items()
    }
    found: dict[str, list[Round]] = {length: [] for length in samples}
    with service(models, [name], build=build) as running:
        for number in range(rounds):
            for length, sample in samples.items():
                found[length].append(uvloop.run(_round(running, sample, length, seconds, number)))
                print(f"round {number + 1}: {_progress(length, found[length][-1])}", file=sys.stderr)
    return found


async def _round(running: Service, sample: Sequence[str], length: str, seconds: float, number: int) -> Round:
    long = seconds * LONG_FACTOR if length == "long" else seconds
    goal_ms = DEADLINE_MS[length]
    patient = driver.bodies(sample, texts_per_request=1, model=None)
    closed = driver.Target(running.url, timeout_seconds=_TIMEOUT_SECONDS, connections=IN_FLIGHT)
    await _closed(closed, patient, _WARM_UP_SECONDS, goal_ms)
    capacity = (await _closed(closed, patient, long, goal_ms)).achieved_rate
    hurried = driver.bodies(sample, texts_per_request=1, model=None, timeout_ms=goal_ms)
    many = driver.Target(running.url, timeout_seconds=_TIMEOUT_SECONDS, connections=CONNECTIONS)
    runs: dict[float, Summary] = {}
    for multiple in MULTIPLES if number % 2 == 0 else reversed(MULTIPLES):
        offsets = schedule.poisson(capacity * multiple, long, Random(f"{number} {length} {multiple}"))
        cpu_before = time.process_time()
        outcomes = await driver.open_loop(many, hurried, offsets)
        runs[multiple] = _summary(outcomes, long, goal_ms, time.process_time() - cpu_before, len(offsets))
    return Round(capacity, runs)


async def _closed(target: driver.Target, bodies: Sequence[bytes], seconds: float, goal_ms: float) -> Summary:
    cpu_before = time.process_time()
    outcomes = await driver.closed_loop(
        target, bodies, duration_seconds=seconds, max_requests=schedule.MAX_REQUESTS
    )
    return _summary(outcomes, seconds, goal_ms, time.process_time() - cpu_before, None)


def _summary(
    outcomes: Sequence[Outcome], seconds: float, goal_ms: float, cpu_seconds: float, offered: int | None
) -> Summary:
    return summarize(
        outcomes,
        mode="closed loop" if offered is None else "open loop, poisson",
        duration_seconds=seconds,
        offered_rate=None if offered is None else offered / seconds,
        goal_ms=goal_ms,
        client_cpu_seconds=cpu_seconds,
        cores=len(os.sched_getaffinity(0)),
    )


def condense(rounds: Sequence[Round]) -> list[Point]:
    """The curve of one length of text, by rising multiple."""
    return [_point(multiple, rounds) for multiple in sorted(rounds[0].runs)]


def _point(multiple: float, rounds: Sequence[Round]) -> Point:
    runs = [(one.runs[multiple], one.capacity) for one in rounds]
    p99 = [run.p99_ms for run, _ in runs if run.p99_ms is not None]
    return Point(
        multiple=multiple,
        offered_rate=median(run.offered_rate or 0.0 for run, _ in runs),
        goodput=median(run.goodput for run, _ in runs),
        share=median(run.goodput / capacity for run, capacity in runs),
        share_of_full=median(
            one.runs[multiple].goodput / one.runs[1.0].goodput if one.runs[1.0].goodput else 0.0
            for one in rounds
        ),
        refused_share=median(run.errors.get("429", 0) / max(run.requests, 1) for run, _ in runs),
        p99_ms=median(p99) if p99 else None,
        client_cpu_share=max(run.client_cpu_share for run, _ in runs),
    )


def table(curves: Mapping[str, Sequence[Point]]) -> str:
    """The curves as Markdown."""
    header = ["texts", "offered, of capacity", "offered", "goodput", "of capacity", "of goodput at 1x"]
    header += ["refused (429)", "p99 of answers", "load generator's CPU"]
    rows = [
        [
            f"{length}, {DEADLINE_MS[length]} ms",
            f"{point.multiple:g}x",
            f"{point.offered_rate:.0f}/s",
            f"{point.goodput:.0f}/s",
            f"{point.share:.0%}",
            f"{point.share_of_full:.0%}",
            f"{point.refused_share:.0%}",
            "-" if point.p99_ms is None else f"{point.p99_ms:.0f} ms",
            f"{point.client_cpu_share:.1%} of the machine",
        ]
        for length, curve in curves.items()
        for point in curve
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def draw(curves: Mapping[str, Sequence[Point]], path: Path) -> None:
    """The curves as a picture.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    figure = picture.empty(7, 3.6)
    axes = figure.subplots()
    axes.plot([0, 1, max(MULTIPLES)], [0, 1, 1], linestyle=":", linewidth=1, color="gray", label="ideal")
    for length, curve in curves.items():
        label = f"{length} texts, {DEADLINE_MS[length]} ms"
        axes.plot([point.multiple for point in curve], [point.share for point in curve], "o-", label=label)
    axes.set(
        xlabel="offered load, multiples of the capacity",
        ylabel="answered in time, of capacity",
        title="Goodput under overload",
        ylim=(0, None),
        xlim=(0, None),
    )
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path, dpi=120)


def _progress(length: str, one: Round) -> str:
    shares = ", ".join(
        f"{multiple:g}x {run.goodput / one.capacity:.0%}" for multiple, run in sorted(one.runs.items())
    )
    return f"{length}: capacity {one.capacity:.0f}/s; goodput at {shares}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_flags(parser)
    add("--seconds", type=float, default=3.0, help="length of a run; long texts take twice (%(default)s)")
    add("--rounds", type=int, default=2, help="times through all the multiples (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="keep the figures")
    add("--png", type=Path, metavar="FILE", help="draw the curve (needs matplotlib)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
