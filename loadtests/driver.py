"""Sends prepared requests to a service on this machine and notes what became of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle, islice
from urllib.parse import urlsplit

from app.errors import DataError, SettingsError
from loadtests.connection import BrokenConnectionError, Pool
from loadtests.summary import ANSWERED, Outcome

LOOPBACK = "127.0.0.1"
WRONG = "wrong"

# Given which request it was and the body of a 200: is it the right answer?
Judge = Callable[[int, bytes], bool]
# Shown every outcome as it comes; once it says True nothing more is sent and what is under way is dropped.
Hopeless = Callable[[Outcome], bool]


class Target:
    """A service under load: where it is, how long to wait for it, and over how many connections."""

    def __init__(
        self, url: str, *, timeout_seconds: float, connections: int, path: str = "/v1/predict"
    ) -> None:
        check_loopback(url)
        self.url = url.rstrip("/")
        self.path = path
        self.timeout_seconds = timeout_seconds
        self.connections = connections
        self._port = urlsplit(url).port or 80

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[Pool]:
        """Connections that are kept alive and reused; waiting for one counts as latency."""
        pool = Pool(LOOPBACK, self._port, self.connections)
        try:
            yield pool
        finally:
            pool.close()

    def get(self, path: str) -> bytes:
        """A GET request, whole."""
        return self._head("GET", path) + b"\r\n"

    def post(self, body: bytes) -> bytes:
        """A POST of JSON to `path`, whole, as it goes over the wire."""
        fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return self._head("POST", self.path) + fields.encode() + body

    def _head(self, method: str, path: str) -> bytes:
        return f"{method} {path} HTTP/1.1\r\nHost: {LOOPBACK}:{self._port}\r\n".encode()


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


def bodies(
    texts: Sequence[str], *, texts_per_request: int, model: str | None, timeout_ms: int | None = None
) -> list[bytes]:
    """Requests to /v1/predict, encoded before the clock starts: as many as there are whole groups of texts.

    Raises:
        DataError: there are fewer texts than one request takes.
    """
    if not 1 <= texts_per_request <= len(texts):
        raise DataError(f"a request of {texts_per_request} texts cannot be made from {len(texts)} texts")
    asked = {"model": model, "timeout_ms": timeout_ms}
    named = {key: value for key, value in asked.items() if value is not None}
    starts = range(0, len(texts) - texts_per_request + 1, texts_per_request)
    groups = [list(texts[start : start + texts_per_request]) for start in starts]
    inputs = [group[0] if texts_per_request == 1 else group for group in groups]
    return [json.dumps({"inputs": one, **named}).encode() for one in inputs]


async def check_ready(target: Target) -> None:
    """Fail at once, in one line, where there is nothing to measure.

    Raises:
        SettingsError: nothing listens, or the service is not ready.
    """
    path = "/health/ready"
    async with target.pool() as pool:
        try:
            async with asyncio.timeout(target.timeout_seconds):
                status = (await pool.ask(target.get(path))).status
        except (BrokenConnectionError, TimeoutError) as error:
            raise SettingsError(
                f"no answer from {target.url}{path} ({error}); start the service: make serve"
            ) from error
    if status != 200:
        raise SettingsError(f"{target.url}{path} answers {status}; wait until the service is ready")


async def open_loop(
    target: Target,
    requests: Sequence[bytes],
    offsets: Sequence[float],
    *,
    judge: Judge | None = None,
    hopeless: Hopeless | None = None,
) -> list[Outcome]:
    """Send one request at each offset, whatever became of those before; return all outcomes.

    `requests` are bodies, sent in turn from the first. Where `hopeless` ended the run, the outcomes are
    those there were until then.
    """
    payloads = [target.post(body) for body in requests[: len(offsets)]]
    sending: list[asyncio.Task[Outcome]] = []
    async with target.pool() as pool, asyncio.TaskGroup() as group:
        start = time.perf_counter()

        async def send(index: int, offset: float) -> Outcome:
            outcome = await _send(pool, target, payloads[index], start, offset, index, judge)
            if hopeless is not None and hopeless(outcome):
                for task in {pacing, *sending} - {asyncio.current_task()}:
                    task.cancel()
            return outcome

        async def pace() -> None:
            for number, offset in enumerate(offsets):
                await asyncio.sleep(max(0.0, start + offset - time.perf_counter()))
                sending.append(group.create_task(send(number % len(payloads), offset)))

        pacing = group.create_task(pace())
    return [task.result() for task in sending if not task.cancelled()]


async def closed_loop(
    target: Target,
    requests: Sequence[bytes],
    *,
    duration_seconds: float,
    max_requests: int,
    judge: Judge | None = None,
) -> list[Outcome]:
    """Keep every connection busy, each sending when its last answer came; return all outcomes."""
    payloads = [target.post(body) for body in requests[:max_requests]]
    waiting = islice(cycle(enumerate(payloads)), max_requests)
    async with target.pool() as pool, asyncio.TaskGroup() as group:
        start = time.perf_counter()

        async def keep_sending() -> list[Outcome]:
            outcomes = []
            for index, payload in waiting:
                now = time.perf_counter() - start
                if now >= duration_seconds:
                    break
                outcomes.append(await _send(pool, target, payload, start, now, index, judge))
            return outcomes

        senders = [group.create_task(keep_sending()) for _ in range(target.connections)]
    return [outcome for sender in senders for outcome in sender.result()]


async def _send(
    pool: Pool,
    target: Target,
    payload: bytes,
    start: float,
    intended: float,
    index: int,
    judge: Judge | None,
) -> Outcome:
    sent = time.perf_counter() - start
    try:
        async with asyncio.timeout(intended + target.timeout_seconds - sent):
            answer = await pool.ask(payload)
    except TimeoutError:
        code = "timeout"
    except BrokenConnectionError:
        code = "connection"
    else:
        code = str(answer.status)
        if code == ANSWERED and judge is not None and not judge(index, answer.body):
            code = WRONG
    return Outcome(intended, sent, time.perf_counter() - start, code)
