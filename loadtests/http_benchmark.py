"""What the service answers over HTTP: `python -m loadtests.http_benchmark` starts it, drives it, stops it.

For every model of the repository: the throughput with 16 requests always in flight, then latency in an
open loop at 70 % of that throughput, counted from the moment a request should have left.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from app import artifact
from app.errors import BertpressError, SettingsError
from loadtests import open_loop, texts
from loadtests.server import service
from loadtests.summary import Summary

OPEN_LOOP_SHARE = 0.7


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each model; JSON with `--json`."""
    options = _parser().parse_args(arguments)
    try:
        results = measure(options.models, options.duration_seconds)
    except BertpressError as error:
        print(f"http_benchmark: {error}", file=sys.stderr)
        return 1
    print(
        f"{'model':24} {'closed loop, 16':>16} {'open loop at':>13} {'p50':>9} {'p99':>9} {'client CPU':>11}"
    )
    for name, (closed, opened) in results.items():
        print(_line(name, closed, opened))
    if options.json is not None:
        figures = {name: [summary.as_dict() for summary in pair] for name, pair in results.items()}
        options.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 0


def measure(models: Path, duration_seconds: float) -> dict[str, tuple[Summary, Summary]]:
    """Drive every model of the repository through one service; closed loop first, then open loop."""
    names = list(artifact.newest_folders(models))
    if not names:
        raise SettingsError(f"{models} holds no published version; run `bertpress compress` first")
    lines = texts.load()
    with service(models, names) as running:
        return {name: _drive(running.url, name, lines, duration_seconds) for name in names}


def _drive(url: str, model: str, lines: list[str], duration_seconds: float) -> tuple[Summary, Summary]:
    common = ["--url", url, "--model", model, "--duration-seconds", str(duration_seconds)]
    closed = open_loop.run(open_loop.parser().parse_args(common), lines)
    rate = f"{closed.achieved_rate * OPEN_LOOP_SHARE:.1f}"
    return closed, open_loop.run(open_loop.parser().parse_args([*common, "--rate", rate]), lines)


def _line(name: str, closed: Summary, opened: Summary) -> str:
    errors = closed.requests - closed.answered + opened.requests - opened.answered
    failed = f"  {errors} not answered" if errors else ""
    return (
        f"{name:24} {closed.achieved_rate:10.1f} req/s {opened.offered_rate or 0:7.1f} req/s "
        f"{opened.p50_ms or 0:6.1f} ms {opened.p99_ms or 0:6.1f} ms {closed.client_cpu_share:10.0%}{failed}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.http_benchmark", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="model repository (%(default)s)")
    parser.add_argument(
        "--duration-seconds", type=float, default=15.0, help="length of each of the two loops (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
