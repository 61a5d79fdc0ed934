"""What every request passes on its way in and out: its id, its metrics, and the last resort for faults."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.metrics import Metrics
from app.protocols.errors import error_response

log = logging.getLogger(__name__)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_CLIENT_LEFT = 499


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = _request_id(scope)
        scope.setdefault("state", {}).update(request_id=request_id, received=started)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server does this when the grace period is over; the task ends here, answered.
            if status:
                raise
            reply = error_response(
                503, "closing", "the service shut down before the answer was ready", request_id
            )
            await reply(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise  # half an answer is out: only closing the connection tells the client
            reply = error_response(
                500, "internal", "a fault of the service; its log has the request id", request_id
            )
            await reply(scope, receive, send_with_id)
        finally:
            elapsed = time.monotonic() - started
            self._metrics.observe_http(scope["method"], _route(scope), status or _CLIENT_LEFT, elapsed)


def _request_id(scope: Scope) -> str:
    """The client's X-Request-Id if it is short and plain, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(16)


def _route(scope: Scope) -> str:
    """The route's template; never the path, which the client chooses."""
    return getattr(scope.get("route"), "path", "unmatched")
