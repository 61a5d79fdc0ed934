"""How long from start to ready, and how much memory then: `python -m loadtests.start`.

The service is started anew each time, as an operator starts it, with one model. Ready is when `/health/ready`
answers 200, asked every few milliseconds; memory is the resident size after one answer and a pause. Run it
with the default install's Python to see what that takes. The first start, which reads the disk, is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from app.errors import BertpressError
from loadtests import memory
from loadtests.process import answers_200, running, unused_port, wait_until
from loadtests.server import add_flags, command, environment

_TEXT = "A quiet, beautifully acted film that stays with you for days."
_SETTLED_SECONDS = 6.0


@dataclass(frozen=True)
class Start:
    """One start: seconds from the exec until ready, and resident memory after one answer."""

    ready_seconds: float
    resident_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the medians."""
    options = _parser().parse_args(arguments)
    try:
        starts = [start(options.models, options.name, options.build) for _ in range(options.starts + 1)][1:]
    except BertpressError as error:
        print(f"start: {error}", file=sys.stderr)
        return 1
    seconds = [one.ready_seconds for one in starts]
    sizes = [one.resident_bytes / 1e6 for one in starts]
    print(
        f"{options.name}, {len(starts)} starts: ready after {median(seconds):.2f} s "
        f"({min(seconds):.2f} to {max(seconds):.2f}); resident after one answer {median(sizes):.1f} MB "
        f"({min(sizes):.1f} to {max(sizes):.1f})"
    )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in starts], indent=1), encoding="utf-8")
    return 0


def start(models: Path, name: str, build: str | None) -> Start:
    """Start the service, ask it once, and stop it.

    Raises:
        SettingsError: it does not start.
    """
    port = unused_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as scratch:
        started = command(models, port, Path(scratch) / "promoted.json", [name])
        with running(started, environment=environment({"build": build} if build else {})) as process:
            wait_until(process, answers_200(f"{url}/health/ready"))
            ready = time.monotonic() - process.started_seconds
            body = json.dumps({"inputs": _TEXT}).encode()
            with urllib.request.urlopen(f"{url}/v1/predict", body) as reply:  # noqa: S310 - loopback, http
                reply.read()
            time.sleep(_SETTLED_SECONDS)
            return Start(ready, memory.tree_bytes(process.pid))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_flags(parser)
    add("--starts", type=int, default=5, help="how many starts are counted (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="keep the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
