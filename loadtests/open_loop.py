"""Load test of a running bertpress: `python -m loadtests.open_loop --rate 50 --duration-seconds 20`.

With `--rate` the load is open: every request has a moment at which it leaves, fixed before the run, and
its latency counts from that moment, so a stalled server cannot hide its stall by stalling the client
(coordinated omission). Without it the load is closed: each connection sends when its last answer came,
which finds the throughput, and whose latencies say little about users.

The timer of the event loop is good to about a millisecond, and what it is late counts as latency.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from random import Random

import uvloop

from app.errors import BertpressError, SettingsError
from loadtests import driver, schedule, texts
from loadtests.summary import Outcome, Summary, summarize, table

CLOSED_LOOP_CONNECTIONS = 16
OPEN_LOOP_CONNECTIONS = 512
INTERRUPTED = 130  # as shells have it: 128 + SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one load test; JSON goes to standard output, the table to standard error."""
    options = parser().parse_args(arguments)
    try:
        summary = run(options, texts.load())
    except BertpressError as error:
        print(f"open_loop: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("open_loop: stopped; nothing is reported of a run cut short", file=sys.stderr)
        return INTERRUPTED
    print(json.dumps(summary.as_dict()))
    print(table(summary), file=sys.stderr)
    return 0


def run(options: argparse.Namespace, lines: Sequence[str]) -> Summary:
    """Prepare the requests, warm the service, drive it, and condense what happened."""
    _check(options)
    random = Random(options.seed)
    requests = driver.bodies(
        random.sample(lines, len(lines)), texts_per_request=options.texts_per_request, model=options.model
    )
    target = driver.Target(
        options.url, timeout_seconds=options.timeout_seconds, connections=_connections(options)
    )
    outcomes, client_cpu_seconds = uvloop.run(_measure(options, target, requests, random))
    return summarize(
        outcomes,
        mode="closed loop" if options.rate is None else f"open loop, {options.arrivals}",
        duration_seconds=options.duration_seconds,
        offered_rate=None if options.rate is None else len(outcomes) / options.duration_seconds,
        goal_ms=options.goal_ms,
        client_cpu_seconds=client_cpu_seconds,
        cores=len(os.sched_getaffinity(0)),
    )


async def _measure(
    options: argparse.Namespace, target: driver.Target, requests: list[bytes], random: Random
) -> tuple[list[Outcome], float]:
    await driver.check_ready(target)
    await driver.closed_loop(
        target,
        requests,
        duration_seconds=schedule.MAX_DURATION_SECONDS,
        max_requests=options.warmup_requests,
    )
    offsets = _offsets(options, random)
    cpu_before = time.process_time()
    if offsets is None:
        outcomes = await driver.closed_loop(
            target,
            requests,
            duration_seconds=options.duration_seconds,
            max_requests=schedule.MAX_REQUESTS,
        )
    else:
        outcomes = await driver.open_loop(target, requests, offsets)
    return outcomes, time.process_time() - cpu_before


def _offsets(options: argparse.Namespace, random: Random) -> list[float] | None:
    if options.rate is None:
        return None
    if options.arrivals == "constant":
        return schedule.constant(options.rate, options.duration_seconds)
    return schedule.poisson(options.rate, options.duration_seconds, random)


def _connections(options: argparse.Namespace) -> int:
    if options.connections is None:
        return CLOSED_LOOP_CONNECTIONS if options.rate is None else OPEN_LOOP_CONNECTIONS
    return int(options.connections)


def _check(options: argparse.Namespace) -> None:
    schedule.check_duration(options.duration_seconds)
    if options.rate is not None:
        schedule.check(options.rate, options.duration_seconds)
    for name in ("connections", "timeout_seconds", "goal_ms", "warmup_requests"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            flag = "--" + name.replace("_", "-")
            raise SettingsError(f"{flag} is {value:g}; it must be more than 0")


def parser() -> argparse.ArgumentParser:
    """The options of a load test."""
    options = argparse.ArgumentParser(
        prog="python -m loadtests.open_loop",
        description=__doc__,
        epilog="Texts: IMDB's test reviews where BERTPRESS_DATA names the folder that holds imdb/ (needs "
        "pyarrow), else loadtests/texts.txt.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add(
        "--url", default="http://127.0.0.1:8000", help="the service; only 127.0.0.1 is accepted (%(default)s)"
    )
    add("--rate", type=float, help="open loop at this many requests a second; without it, closed loop")
    add(
        "--arrivals",
        choices=("poisson", "constant"),
        default="poisson",
        help="with --rate: poisson sends at random moments, bursts included, as independent users do; "
        "constant sends at even distances, which is gentler than life (%(default)s)",
    )
    add(
        "--duration-seconds",
        type=float,
        default=20.0,
        help=f"stop sending after this long, at most {schedule.MAX_DURATION_SECONDS:g}; "
        "requests on their way are waited for (%(default)s)",
    )
    add(
        "--connections",
        type=int,
        help=f"closed loop: that many requests are always in flight ({CLOSED_LOOP_CONNECTIONS}); open loop: "
        f"at most that many are, and waiting for a free one counts as latency ({OPEN_LOOP_CONNECTIONS})",
    )
    add(
        "--goal-ms",
        type=float,
        default=500.0,
        help="goodput counts only the answers that come within this time (%(default)s)",
    )
    add(
        "--timeout-seconds",
        type=float,
        default=10.0,
        help="give a request up this long after it should have left, and count it as `timeout` (%(default)s)",
    )
    add(
        "--texts-per-request",
        type=int,
        default=1,
        help="send this many texts in each request; rates still count requests (%(default)s)",
    )
    add("--model", help="ask for this model; without it the service's default answers")
    add(
        "--warmup-requests",
        type=int,
        default=50,
        help="send this many requests before the clock starts (%(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="another seed gives another order of texts and other arrival moments (%(default)s)",
    )
    return options


if __name__ == "__main__":
    sys.exit(main())
