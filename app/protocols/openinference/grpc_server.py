"""The protocol over gRPC, on the same event loop, behind the same gate and with the same limits as over REST.

Needs the extra `grpc`; loaded only where a port is set.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from app import errors
from app.logs import REQUEST_ID
from app.protocols.edge import Edge
from app.protocols.exchange import Exchange
from app.protocols.gate import Gate
from app.protocols.openinference.procedures import Call, Procedure, Procedures
from app.settings import Settings

log = logging.getLogger(__name__)

# The first row whose class matches decides, so a class stands above its base.
CODES: tuple[tuple[type[errors.BertpressError], grpc.StatusCode], ...] = (
    (errors.InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    # RESOURCE_EXHAUSTED means "come back later", which does not help here
    (errors.LimitExceededError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.UnsupportedInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.UnknownModelError, grpc.StatusCode.NOT_FOUND),
    (errors.DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.ClosingError, grpc.StatusCode.UNAVAILABLE),
    (errors.NotReadyError, grpc.StatusCode.UNAVAILABLE),
    (errors.NotLoadedError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.ConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.AuthenticationError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.AdminDisabledError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.ArtifactError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.BertpressError, grpc.StatusCode.INTERNAL),
)


class Server:
    """Listens on a port of its own."""

    def __init__(
        self,
        settings: Settings,
        procedures: Procedures,
        edge: Edge,
        gate: Gate,
        status_of: Callable[[errors.BertpressError], int],
    ) -> None:
        self._settings, self._procedures = settings, procedures
        self._edge, self._gate, self._status_of = edge, gate, status_of
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: the address cannot be had.
        """
        settings = self._settings
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=settings.max_connections,
            options=(
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_metadata_size", settings.max_header_bytes),
                ("grpc.so_reuseport", 0),
            ),
        )
        for procedure in self._procedures:
            handler = grpc.unary_unary_rpc_method_handler(self._handler(procedure))
            generic = grpc.method_handlers_generic_handler(procedure.service, {procedure.name: handler})
            self._server.add_generic_rpc_handlers((generic,))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            self.port = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError:
            raise errors.SettingsError(
                f"cannot listen on {host}:{settings.grpc_port}; choose another --host or --grpc-port"
            ) from None
        await self._server.start()
        log.info("listening for gRPC on %s:%d", host, self.port)

    async def stop(self) -> None:
        """Take no new calls and finish the others within the grace period."""
        if self._server is not None:
            await self._server.stop(self._settings.grace_seconds)

    def _handler(self, procedure: Procedure) -> Callable[[bytes, Any], Any]:
        async def answer(data: bytes, context: Any) -> bytes | None:
            exchange = self._exchange(procedure, context)
            REQUEST_ID.set(exchange.request_id)
            code, message = grpc.StatusCode.OK, ""
            metadata = [("x-request-id", exchange.request_id)]
            reply = None
            try:
                reply = await self._run(procedure, data, Call(exchange, context.time_remaining()))
                exchange.status, exchange.answered_bytes = 200, len(reply)
            except errors.BertpressError as error:
                exchange.status, code, message = self._status_of(error), code_of(error), str(error)
                metadata += _when_to_come_back(error)
            except asyncio.CancelledError:
                raise  # the client left, or its deadline passed: gRPC has answered
            except Exception:
                log.exception("request %s failed", exchange.request_id)
                exchange.status, code = 500, grpc.StatusCode.INTERNAL
                message = "a fault of the service; its log has the request id"
            finally:
                self._edge.finish(exchange)
            context.set_trailing_metadata(tuple(metadata))
            context.set_code(code)
            context.set_details(message)
            return reply

        return answer

    async def _run(self, procedure: Procedure, data: bytes, call: Call) -> bytes:
        self._edge.admit(call.exchange)
        try:
            message = procedure.request.FromString(data)
        except DecodeError:
            raise errors.InvalidRequestError(f"not a message of {procedure.name}") from None
        reply: bytes = (await procedure.run(message, call)).SerializeToString()
        return reply

    def _exchange(self, procedure: Procedure, context: Any) -> Exchange:
        """What a gRPC call is over HTTP/2: a POST, whose path is the procedure's name."""
        scope = {
            "type": "http",
            "method": "POST",
            "path": procedure.path,
            "route": SimpleNamespace(path=f"/{procedure.service}/{procedure.name}"),
            "headers": [(name.encode(), _encoded(value)) for name, value in context.invocation_metadata()],
            "client": (_host(context.peer()), 0),
        }
        return Exchange(scope, _send_nothing, self._gate)


def code_of(error: errors.BertpressError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return next(code for kind, code in CODES if isinstance(error, kind))


def _when_to_come_back(error: errors.BertpressError) -> list[tuple[str, str]]:
    """Seconds as over REST, and gRPC's own pushback for clients that retry by themselves."""
    if not isinstance(error, errors.BusyError):
        return []
    seconds = max(1, math.ceil(error.retry_after_seconds))
    return [("retry-after", str(seconds)), ("grpc-retry-pushback-ms", str(seconds * 1000))]


def _encoded(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _host(peer: str) -> str:
    """The address in `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


async def _send_nothing(_: object) -> None:
    """gRPC sends its answers itself."""
