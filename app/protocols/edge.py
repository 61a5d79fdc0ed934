"""What every request passes on its way in and out: the gate, its metrics, the last resort for faults."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import BertpressError, TooManyHeadersError
from app.logs import REQUEST_ID, fields
from app.metrics import Metrics, known_method
from app.protocols.errors import error_response
from app.protocols.exchange import Exchange
from app.protocols.gate import Gate

AnswerError = Callable[[Request, Exception], Awaitable[Response]]
Trace = Callable[[Exchange, float], None]
"""Told of an exchange that is over and of the seconds it took."""

log = logging.getLogger(__name__)
access_log = logging.getLogger("bertpress.access")
_CLIENT_LEFT = 499


class Edge:
    """ASGI middleware around the whole application. Answers and hides what nobody within has caught."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        gate: Gate,
        answer_error: AnswerError,
        max_headers: int,
        log_access: bool = False,
        trace: Trace | None = None,
    ) -> None:
        self._app, self._metrics, self._gate, self._answer_error = app, metrics, gate, answer_error
        self._gate_is_open, self._max_headers = gate.is_open, max_headers
        self._log_access, self._trace = log_access, trace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, send, self._gate)
        REQUEST_ID.set(exchange.request_id)
        state = scope.setdefault("state", {})
        state["request_id"], state["received"] = exchange.request_id, exchange.started
        state["exchange"] = exchange
        try:
            self.admit(exchange)
            state["client"] = exchange.client
            await self._app(scope, receive, exchange.send)
        except BertpressError as error:  # the gate's: those within are answered there
            reply = await self._answer_error(Request(scope), error)
            await reply(scope, receive, exchange.send)
        except asyncio.CancelledError:
            # The server does this when the grace period is over; the task ends here, answered.
            if exchange.status:
                raise
            message = "the service shut down before the answer was ready"
            await self._reply(exchange, receive, 503, "closing", message)
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            if exchange.status:
                raise  # half an answer is out: only closing the connection tells the client
            message = "a fault of the service; its log has the request id"
            await self._reply(exchange, receive, 500, "internal", message)
        finally:
            self.finish(exchange)

    def admit(self, exchange: Exchange) -> None:
        """Let an exchange in, and find out who asks.

        Raises:
            TooManyHeadersError: more headers than are read.
            AuthenticationError: the path needs credentials, and they are missing or wrong.
            BusyError: the client has used up its rate.
        """
        headers = len(exchange.scope["headers"])
        if headers > self._max_headers:
            raise TooManyHeadersError(
                f"the request has {headers} headers, at most {self._max_headers} (BERTPRESS_MAX_HEADERS) "
                "are read; send fewer",
                limit=self._max_headers,
            )
        if not self._gate_is_open:
            exchange.client = self._gate.admit(exchange.scope["path"], exchange.headers, exchange.client)

    async def _reply(
        self, exchange: Exchange, receive: Receive, status: int, code: str, message: str
    ) -> None:
        path = exchange.scope["path"]
        reply = error_response(status, code, message, exchange.request_id, path=path)
        await reply(exchange.scope, receive, exchange.send)

    def finish(self, exchange: Exchange) -> None:
        """Count, log and trace an exchange that is over."""
        seconds = time.monotonic() - exchange.started
        status = exchange.status or _CLIENT_LEFT
        self._metrics.observe_http(exchange.scope["method"], exchange.route, status, seconds)
        if self._log_access:
            _log_access(exchange, status, seconds)
        if self._trace is not None:
            self._trace(exchange, seconds)


def _log_access(exchange: Exchange, status: int, seconds: float) -> None:
    """One line. The path and the query string are the client's words; the route's template is ours."""
    method, route = known_method(exchange.scope["method"]), exchange.route
    values = fields(
        method=method,
        route=route,
        status=status,
        duration_ms=round(seconds * 1000, 3),
        bytes=exchange.answered_bytes,
        client=exchange.client,
    )
    access_log.info("%s %s %d", method, route, status, extra=values)
