"""Swaps variants while requests flow, and counts what failed: `python -m loadtests.swap_under_load`.

Sixteen requests are always in flight, none of them naming a model. Meanwhile every model of the repository in
turn is loaded and promoted, and the one before is unloaded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from app import artifact
from app.errors import BertpressError, SettingsError
from loadtests import driver, texts
from loadtests.server import service
from loadtests.summary import ANSWERED, Outcome

CONNECTIONS = 16
SETTLE_SECONDS = 1.0
MAX_REQUESTS = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what happened; the exit code is 1 if a single request failed."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.swap_under_load", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="model repository (%(default)s)")
    parser.add_argument("--swaps", type=int, default=6, help="how often to swap (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        outcomes = measure(options.models, options.swaps)
    except BertpressError as error:
        print(f"swap_under_load: {error}", file=sys.stderr)
        return 1
    codes = Counter(outcome.code for outcome in outcomes)
    failed = len(outcomes) - codes[ANSWERED]
    worst = max(outcome.latency_seconds for outcome in outcomes)
    print(f"{options.swaps} swaps, {len(outcomes)} requests, {failed} failed, slowest {worst * 1e3:.0f} ms")
    if failed:
        print(f"answers by status: {dict(codes)}", file=sys.stderr)
    return 1 if failed else 0


def measure(models: Path, swaps: int) -> list[Outcome]:
    """Start the service, keep it busy, swap, and return what became of every request."""
    versions = _versions(models)
    if len(versions) < 2:
        raise SettingsError(f"{models} holds {len(versions)} models; a swap needs two")
    token = secrets.token_hex(16)
    bodies = driver.bodies(texts.load(), texts_per_request=1, model=None)
    with service(models, [versions[0][0]], {"admin_token": token}) as running:
        return asyncio.run(_swap_under_load(running.url, token, versions, bodies, swaps))


def _versions(models: Path) -> list[tuple[str, int]]:
    """The newest version of every model; cascades are left out, whose tiers cannot be unloaded under them."""
    manifests = map(artifact.read_any, artifact.newest_folders(models).values())
    return [(found.name, found.version) for found in manifests if isinstance(found, artifact.Manifest)]


async def _swap_under_load(
    url: str, token: str, versions: Sequence[tuple[str, int]], bodies: Sequence[bytes], swaps: int
) -> list[Outcome]:
    target = driver.Target(url, timeout_seconds=30.0, connections=CONNECTIONS)
    swapping = asyncio.create_task(_swap(url, token, versions, swaps))
    outcomes: list[Outcome] = []
    while not swapping.done():
        outcomes += await driver.closed_loop(
            target, bodies, duration_seconds=SETTLE_SECONDS, max_requests=MAX_REQUESTS
        )
    await swapping
    return outcomes


async def _swap(url: str, token: str, versions: Sequence[tuple[str, int]], swaps: int) -> None:
    """Load and promote the next, unload the one before, and let traffic settle in between."""
    for number in range(1, swaps + 1):
        new, old = versions[number % len(versions)], versions[(number - 1) % len(versions)]
        await asyncio.sleep(SETTLE_SECONDS)
        for (name, version), operation in ((new, "load"), (new, "promote"), (old, "unload")):
            await asyncio.to_thread(_admin, f"{url}/admin/models/{name}/{version}/{operation}", token)
    await asyncio.sleep(SETTLE_SECONDS)


def _admin(url: str, token: str) -> None:
    request = urllib.request.Request(url, method="POST", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    with urllib.request.urlopen(request) as response:  # noqa: S310 - loopback, http
        json.load(response)


if __name__ == "__main__":
    sys.exit(main())
