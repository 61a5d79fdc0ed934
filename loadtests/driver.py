"""Sends prepared requests to a service on this machine and notes what became of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from itertools import cycle, islice
from urllib.parse import urlsplit

import aiohttp

from app.errors import DataError, SettingsError
from loadtests.summary import Outcome

LOOPBACK = "127.0.0.1"


class Target:
    """A service under load: where it is, how long to wait for it, and over how many connections."""

    def __init__(self, url: str, *, timeout_seconds: float, connections: int) -> None:
        check_loopback(url)
        self.url = url.rstrip("/")
        self.timeout_seconds = timeout_seconds
        self.connections = connections

    def session(self) -> aiohttp.ClientSession:
        """A session whose connections are kept alive and reused; waiting for one counts as latency."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.connections),
            headers={"Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None),
        )


def check_loopback(url: str) -> None:
    """Refuse to send load anywhere but to this machine.

    Raises:
        SettingsError: the URL is not `http://127.0.0.1[:PORT]`.
    """
    parts = urlsplit(url)
    if (parts.scheme, parts.hostname) != ("http", LOOPBACK):
        raise SettingsError(
            f"{url!r} is not on this machine; load is sent to http://{LOOPBACK}:PORT and nowhere else"
        )


def bodies(texts: Sequence[str], *, texts_per_request: int, model: str | None) -> list[bytes]:
    """Requests to /v1/predict, encoded before the clock starts: as many as there are whole groups of texts.

    Raises:
        DataError: there are fewer texts than one request takes.
    """
    if not 1 <= texts_per_request <= len(texts):
        raise DataError(f"a request of {texts_per_request} texts cannot be made from {len(texts)} texts")
    named = {} if model is None else {"model": model}
    starts = range(0, len(texts) - texts_per_request + 1, texts_per_request)
    groups = [list(texts[start : start + texts_per_request]) for start in starts]
    inputs = [group[0] if texts_per_request == 1 else group for group in groups]
    return [json.dumps({"inputs": one, **named}).encode() for one in inputs]


async def check_ready(target: Target) -> None:
    """Fail at once, in one line, where there is nothing to measure.

    Raises:
        SettingsError: nothing listens, or the service is not ready.
    """
    async with target.session() as session:
        url = f"{target.url}/health/ready"
        try:
            async with asyncio.timeout(target.timeout_seconds), session.get(url) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise SettingsError(f"no answer from {url} ({error}); start the service: make serve") from error
        if status != 200:
            raise SettingsError(f"{url} answers {status}; wait until the service is ready")


async def open_loop(target: Target, requests: Sequence[bytes], offsets: Sequence[float]) -> list[Outcome]:
    """Send one request at each offset, whatever became of those before; return all outcomes."""
    async with target.session() as session, asyncio.TaskGroup() as group:
        start = time.perf_counter()
        tasks = []
        for offset, body in zip(offsets, cycle(requests), strict=False):
            await asyncio.sleep(max(0.0, start + offset - time.perf_counter()))
            tasks.append(group.create_task(_send(session, target, body, start, offset)))
    return [task.result() for task in tasks]


async def closed_loop(
    target: Target, requests: Sequence[bytes], *, duration_seconds: float, max_requests: int
) -> list[Outcome]:
    """Keep every connection busy, each sending when its last answer came; return all outcomes."""
    waiting = islice(cycle(requests), max_requests)
    start = time.perf_counter()
    async with target.session() as session, asyncio.TaskGroup() as group:

        async def keep_sending() -> list[Outcome]:
            outcomes = []
            for body in waiting:
                now = time.perf_counter() - start
                if now >= duration_seconds:
                    break
                outcomes.append(await _send(session, target, body, start, now))
            return outcomes

        senders = [group.create_task(keep_sending()) for _ in range(target.connections)]
    return [outcome for sender in senders for outcome in sender.result()]


async def _send(
    session: aiohttp.ClientSession, target: Target, body: bytes, start: float, intended: float
) -> Outcome:
    sent = time.perf_counter() - start
    try:
        async with asyncio.timeout(intended + target.timeout_seconds - sent):
            code = await _post(session, f"{target.url}/v1/predict", body)
    except TimeoutError:
        code = "timeout"
    except aiohttp.ClientError:
        code = "connection"
    return Outcome(intended, sent, time.perf_counter() - start, code)


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> str:
    async with session.post(url, data=body, allow_redirects=False) as response:
        await response.read()
        return str(response.status)
