"""One HTTP exchange: what the edge knows of it, and what the dialects within tell the edge."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import Message, Scope, Send

from app.answer import Answer
from app.logs import TEXTS, fields
from app.protocols.disconnect import UntilDisconnect
from app.protocols.gate import Gate
from app.service import PredictRequest, Service

READ_HEADERS = frozenset({b"x-request-id", b"traceparent", b"tracestate", b"authorization", b"x-api-key"})
"""The headers that the edge looks at."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
# version, trace id, parent id, flags; a trace id of zeros is none. Source: W3C Trace Context, section 3.2
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
# unique in this process by the number, and between processes by the prefix
_PREFIX, _NUMBERS = secrets.token_hex(8), itertools.count(secrets.randbits(32))

# What a browser must know. Answers are as private as the texts they are about.
_FIXED_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class Exchange:
    """One request and its answer. Stands in the ASGI scope's state as `exchange`."""

    __slots__ = (
        "_send",
        "answer",
        "answered_bytes",
        "client",
        "gate",
        "headers",
        "request_id",
        "scope",
        "started",
        "status",
    )

    def __init__(self, scope: Scope, send: Send, gate: Gate) -> None:
        self.started = time.monotonic()
        self.scope, self.gate, self._send = scope, gate, send
        self.headers = {name: value for name, value in scope["headers"] if name in READ_HEADERS}
        self.request_id = request_id(self.headers)
        peer = scope.get("client")
        self.client = str(peer[0]) if peer else ""
        self.status, self.answered_bytes = 0, 0
        self.answer: Answer | None = None

    @property
    def route(self) -> str:
        """The route's template; never the path, which the client chooses."""
        return getattr(self.scope.get("route"), "path", "unmatched")

    async def send(self, message: Message) -> None:
        """Pass the answer on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.request_id.encode()),
                (b"server-timing", self._server_timing()),
                *_FIXED_HEADERS,
            ]
        else:
            self.answered_bytes += len(message.get("body", b""))
        await self._send(message)

    def charge(self, asked: PredictRequest) -> None:
        """Count the texts against their client's rate, and log them where that is asked for.

        Raises:
            BusyError: the client has used up its rate.
        """
        self.gate.charge(self.client, len(asked.texts))
        if not TEXTS.disabled:
            TEXTS.info("asked about", extra=fields(texts=list(asked.texts)))

    def _server_timing(self) -> bytes:
        """Milliseconds, as W3C Server Timing writes them."""
        total_ms = (time.monotonic() - self.started) * 1000
        if self.answer is None:
            return b"total;dur=%.3f" % total_ms
        timing = self.answer.timing
        return b"total;dur=%.3f, queue;dur=%.3f, tokenize;dur=%.3f, inference;dur=%.3f" % (
            total_ms,
            timing.queue_seconds * 1000,
            timing.tokenize_seconds * 1000,
            timing.inference_seconds * 1000,
        )


async def ask(request: Request, service: Service, asked: PredictRequest) -> Answer:
    """What every dialect does between parsing and rendering; the body must have been read.

    Raises:
        BertpressError: the service refuses or fails, or the client has used up its rate.
        ClientDisconnect: the client left.
    """
    exchange: Exchange = request.scope["state"]["exchange"]
    exchange.charge(asked)
    with UntilDisconnect(request):
        exchange.answer = answer = await service.predict(asked)
    return answer


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """The client's X-Request-Id if it is short and plain, else the id of its trace, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return str(given, "ascii")
    traced = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
    return str(traced[1], "ascii") if traced else f"{_PREFIX}{next(_NUMBERS) & 0xFFFFFFFFFFFFFFFF:016x}"
