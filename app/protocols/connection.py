"""One client's connection: uvicorn's, with the limits that it lacks.

uvicorn waits for ever for headers, for a body and for a client that does not read. Here all connections are
looked at once a second: one that has been waiting for the same thing for too long is ended. A request
that is sent and read as usual pays nothing for it, not even a timer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.metrics import Metrics
from app.protocols.disconnect import ON_DISCONNECT, TELLS_DISCONNECT
from app.protocols.errors import error_response
from app.protocols.exchange import request_id
from app.protocols.joined import JoinedWrites
from app.settings import Settings

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

Phase = Literal["header", "body", "write"]

# What a client can cause as often as it likes does not belong in the log; it is counted.
_CLIENTS_FAULTS = ("Invalid HTTP request received.", "Unsupported upgrade request.", "No supported WebSocket")
# Requests sent before the answer to the first; uvicorn alone would keep as many as a client likes to send.
_MOST_PIPELINED = 32
_ANSWERS: Mapping[str, tuple[int, str]] = {
    "header_timeout": (408, "the headers were not complete in time (BERTPRESS_HEADER_TIMEOUT_SECONDS)"),
    "body_timeout": (408, "the body was not complete in time (BERTPRESS_BODY_TIMEOUT_SECONDS)"),
    "headers_too_large": (431, "the request's headers are longer than BERTPRESS_MAX_HEADER_BYTES; send less"),
    "too_many_connections": (503, "all BERTPRESS_MAX_CONNECTIONS connections are in use; come back later"),
    "malformed": (400, "the request is not HTTP/1.1"),
}


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How much of a connection a client gets, and for how long."""

    max_connections: int
    max_header_bytes: int
    seconds: Mapping[Phase, float]

    @classmethod
    def from_settings(cls, settings: Settings) -> ConnectionLimits:
        """The settings' limits."""
        return cls(
            settings.max_connections,
            settings.max_header_bytes,
            {
                "header": settings.header_timeout_seconds,
                "body": settings.body_timeout_seconds,
                "write": settings.write_timeout_seconds,
            },
        )


class RefusedError(Exception):
    """Ends the parser; never seen outside this file."""


class Connection(HttpToolsProtocol):
    """Made by `connection_class`, which fills `limits` and `metrics` in."""

    limits: ClassVar[ConnectionLimits]
    metrics: ClassVar[Metrics]

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        app_state[TELLS_DISCONNECT] = True
        # received since a head was last complete, that is how long the one coming in can be at most
        self._head_bytes = 0
        self._refused_for = "malformed"
        self._waiting: tuple[Phase, RequestResponseCycle | None] | None = None
        self._waiting_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the client in if there is room."""
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))
        if len(self.connections) > self.limits.max_connections:
            self.refuse("too_many_connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever works on an answer that nobody waits for it."""
        super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            on_disconnect = self.cycle.scope["state"].get(ON_DISCONNECT)
            if on_disconnect is not None:
                on_disconnect()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self.scope is None or (self.cycle is not None and self.cycle.scope is self.scope):
            self._head_bytes = 0
        elif self._head_bytes > self.limits.max_header_bytes and not self.transport.is_closing():
            self.refuse("headers_too_large")

    def on_headers_complete(self) -> None:
        """Start on the request."""
        if self._head_bytes > self.limits.max_header_bytes:
            head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if head_bytes > self.limits.max_header_bytes:
                self._refused_for = "headers_too_large"
                raise RefusedError
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._refused_for = "too_many_pipelined"
            raise RefusedError
        self._head_bytes = 0
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  the text is ours
        """uvicorn's answer to what its parser refuses, and to what it refused above."""
        if self._refused_for in _ANSWERS:
            self.refuse(self._refused_for)
        else:
            self._leave(self._refused_for)

    def refuse(self, reason: str) -> None:
        """Say why, and close the connection."""
        status, message = _ANSWERS[reason]
        scope: Any = self.scope or {}
        known = scope.get("state", {}).get("request_id") or request_id({})
        reply = error_response(status, reason, message, known, path=scope.get("path", ""))
        headers = [*reply.raw_headers, (b"x-request-id", known.encode()), (b"connection", b"close")]
        head = b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())
        head += b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(head + b"\r\n" + bytes(reply.body))
        self.transport.close()
        self.metrics.count_cut(reason)

    def cut_if_slow(self, now: float) -> None:
        """End the connection if it has been waiting for the same thing for too long."""
        phase = self._phase()
        if phase is None:
            self._waiting = None
        elif self._waiting is None or self._waiting[0] != phase or self._waiting[1] is not self.cycle:
            self._waiting, self._waiting_since = (phase, self.cycle), now
        elif now - self._waiting_since > self.limits.seconds[phase]:
            self._waiting_since = now
            self._cut(phase)

    def _phase(self) -> Phase | None:
        """What the connection waits for the client to do."""
        if self.transport.get_write_buffer_size():
            return "write"
        if self.transport.is_closing():
            return None
        if self.cycle is not None and self.cycle.more_body:
            return "body"
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # the client waits for us
        # between requests uvicorn's own timer ends it
        return "header" if self.timeout_keep_alive_task is None else None

    def _cut(self, phase: Phase) -> None:
        unanswered = self.cycle is None or not self.cycle.response_started
        if phase == "write" or (phase == "body" and not unanswered):
            self.transport.abort()
            self.metrics.count_cut(f"{phase}_timeout")
        elif phase == "header" and not self._head_bytes:
            self._leave("header_timeout")  # it never asked anything
        else:
            self.refuse(f"{phase}_timeout")

    def _leave(self, reason: str) -> None:
        """Close without a word: there is no request that one would answer."""
        self.transport.close()
        self.metrics.count_cut(reason)


def connection_class(limits: ConnectionLimits, metrics: Metrics) -> type[Connection]:
    """The protocol for uvicorn's configuration."""
    return type("LimitedConnection", (Connection,), {"limits": limits, "metrics": metrics})


def cut_slow(connections: Iterable[Any]) -> None:
    """Look at every connection; to be called about once a second."""
    now = time.monotonic()
    for connection in list(connections):
        connection.cut_if_slow(now)


def is_worth_logging(record: logging.LogRecord) -> bool:
    """A filter for uvicorn's logger: False for a line that a client can cause."""
    return not str(record.msg).startswith(_CLIENTS_FAULTS)
