"""Assembly: one application from its settings, and the one table from errors to HTTP statuses."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from app import errors, hardware
from app.admission import Admission
from app.cache import AnswerCache
from app.gauges import add_gauges
from app.head_start import HeadStart
from app.machine_metrics import add_machine_metrics
from app.metrics import Metrics
from app.protocols import admin, docs, health, huggingface, native, text_embeddings_inference
from app.protocols.cors import allow_origins
from app.protocols.edge import Edge
from app.protocols.errors import error_response
from app.protocols.fast_lane import FastLane, busy_routes
from app.protocols.gate import Gate
from app.protocols.openapi import correct
from app.protocols.openinference import repository_rest, rest
from app.protocols.tracing import Tracing, start_tracing
from app.registry import Registry
from app.scheduler import Scheduler
from app.service import Service
from app.settings import Settings
from app.threads import core_budget
from app.upkeep import trim_after_load

if TYPE_CHECKING:
    from app.protocols.openinference.grpc_server import Server

log = logging.getLogger(__name__)

# The first row whose class matches decides, so a class stands above its base.
STATUSES: tuple[tuple[type[errors.BertpressError], int], ...] = (
    (errors.InvalidRequestError, 400),
    (errors.TooManyHeadersError, 431),
    (errors.LimitExceededError, 413),
    (errors.UnsupportedInputError, 422),
    (errors.UnknownModelError, 404),
    (errors.DeadlineExceededError, 504),
    (errors.BusyError, 429),
    (errors.ClosingError, 503),
    (errors.NotReadyError, 503),
    (errors.NotLoadedError, 409),
    (errors.ConflictError, 409),
    (errors.AuthenticationError, 401),
    (errors.AdminDisabledError, 403),
    (errors.ArtifactError, 422),
    (errors.BertpressError, 500),
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an application consists of."""

    settings: Settings
    hardware: hardware.Hardware
    metrics: Metrics
    scheduler: Scheduler
    registry: Registry
    admission: Admission
    service: Service
    gate: Gate
    tracing: Tracing | None


def assemble(settings: Settings, head_start: HeadStart | None = None) -> Parts:
    """Put the parts together; nothing runs yet."""
    # The workers own the cores; a tokenizer with threads of its own would fight them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    machine = hardware.detect(features_override=settings.cpu_features)
    metrics = Metrics()
    scheduler = Scheduler(core_budget(settings, machine.cores))
    registry = Registry(settings, machine, scheduler, metrics, head_start)
    admission = Admission(scheduler, settings.max_requests, settings.max_queue_texts)
    cache = AnswerCache(settings.cache_bytes)
    service = Service(registry, scheduler, admission, metrics, cache, settings.coalesce)
    gate, tracing = Gate(settings, metrics), start_tracing(settings, _version())
    parts = Parts(settings, machine, metrics, scheduler, registry, admission, service, gate, tracing)
    add_gauges(parts.metrics, registry, scheduler, admission, cache, machine)
    add_machine_metrics(metrics, machine, settings)
    return parts


def create_app(
    settings: Settings,
    on_failed_start: Callable[[Exception], None] | None = None,
    head_start: HeadStart | None = None,
    on_started: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application. It answers /health/live at once and loads the default model beside that.

    `on_failed_start` is told if the default model cannot be served, `on_started` when all that the settings
    name is loaded; `head_start` may have opened the default model already.
    """
    parts = assemble(settings, head_start)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts.scheduler.start()
        app.state.start = asyncio.create_task(_start(parts, grpc, on_failed_start, on_started))
        upkeep = asyncio.create_task(trim_after_load(parts.scheduler, lambda: parts.registry.loaded))
        try:
            yield
        finally:
            parts.admission.close()
            for task in (app.state.start, upkeep):
                task.cancel()
            await asyncio.gather(app.state.start, upkeep, return_exceptions=True)
            if grpc is not None:
                await grpc.stop()
            await asyncio.to_thread(parts.scheduler.close)
            parts.service.close()
            parts.registry.close()
            if parts.tracing is not None:
                await asyncio.to_thread(parts.tracing.close)

    version = _version()
    grpc = _grpc_server(parts, version)
    routers = [
        native.router(parts.service, settings),
        huggingface.router(parts.service, settings, version),
        text_embeddings_inference.router(parts.service, settings, version),
        rest.router(parts.service, settings, version),
        repository_rest.router(parts.registry, settings),
        admin.router(parts.registry, settings),
        health.router(parts.service, parts.metrics),
        docs.router(),
    ]
    app = _Application(
        title="bertpress",
        version=version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts, app.state.grpc = parts, grpc
    app.add_middleware(Edge, **_edge_options(parts))
    app.routers, app.busy_routes = routers, busy_routes(routers)
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(errors.BertpressError, _answer_known)
    app.add_exception_handler(RequestValidationError, _answer_invalid_path)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    return app


class _Application(FastAPI):
    """FastAPI, with a lane past its middleware and route matching for the routes that carry the load."""

    routers: Sequence[APIRouter]
    busy_routes: Mapping[str, APIRoute]

    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, corrected once."""
        if self.openapi_schema is None:
            correct(super().openapi(), self.state.parts.gate.needs_key)
        return super().openapi()

    def build_middleware_stack(self) -> ASGIApp:
        parts: Parts = self.state.parts
        edge = partial(Edge, **_edge_options(parts))
        return allow_origins(
            FastLane(super().build_middleware_stack(), self.busy_routes, _answer, edge),
            parts.settings.allowed_origins,
        )


def _edge_options(parts: Parts) -> dict[str, Any]:
    settings = parts.settings
    return {
        "metrics": parts.metrics,
        "gate": parts.gate,
        "answer_error": _answer_known,
        "max_headers": settings.max_headers,
        "log_access": settings.access_log,
        "trace": parts.tracing,
    }


def status_of(error: errors.BertpressError) -> int:
    """The HTTP status of an error."""
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def _grpc_server(parts: Parts, version: str) -> Server | None:
    """The server of a second port, if the settings name one; only then is gRPC loaded.

    Raises:
        SettingsError: the extra `grpc` is not installed.
    """
    if parts.settings.grpc_port is None:
        return None
    try:
        from app.protocols.openinference.grpc_server import Server
        from app.protocols.openinference.procedures import Procedures
    except ModuleNotFoundError as error:
        raise errors.SettingsError(
            f"BERTPRESS_GRPC_PORT is set and {error.name} is not installed; pip install 'bertpress[grpc]'"
        ) from None
    procedures = Procedures(parts.service, parts.settings, version)
    edge = Edge(_no_application, **_edge_options(parts))
    return Server(parts.settings, procedures, edge, parts.gate, status_of)


async def _no_application(_: Scope, __: Receive, ___: Send) -> None:
    """gRPC's calls pass the edge one by one, not through an application."""


async def _start(
    parts: Parts,
    grpc: Server | None,
    on_failed_start: Callable[[Exception], None] | None,
    on_started: Callable[[], None],
) -> None:
    machine = parts.hardware
    log.info(
        "%s with %s; %d usable cores, passes on %d of them, %d MiB of memory",
        machine.cpu,
        "+".join(sorted(machine.features)) or "no known features",
        machine.cores,
        parts.scheduler.cores,
        machine.memory_limit_bytes >> 20,
    )
    try:
        if grpc is not None:
            await grpc.start()
        await parts.registry.start()
    except Exception as error:
        if not isinstance(error, errors.BertpressError):
            log.exception("starting failed")
        if on_failed_start is None:
            raise
        on_failed_start(error)
    else:
        on_started()
        log.info("ready; resident %d MiB", hardware.resident_memory_bytes() >> 20)


async def _answer(request: Request, error: Exception) -> Response:
    """What a busy route raises; a fault of ours goes on to the edge."""
    if isinstance(error, errors.BertpressError):
        return await _answer_known(request, error)
    if isinstance(error, ClientDisconnect):
        return await _answer_nobody(request, error)
    raise error


async def _answer_known(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.BertpressError)  # noqa: S101  registered for this class
    headers = {}
    if isinstance(error, errors.BusyError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, errors.AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    limit = error.limit if isinstance(error, errors.LimitExceededError) else None
    return _refuse(request, status_of(error), error.code, str(error), limit, headers)


async def _answer_invalid_path(request: Request, _: Exception) -> Response:
    """Bodies are parsed by hand; what FastAPI validates is the path. Its own answer would echo it."""
    message = "the path names no model version; GET /v1/models lists them"
    return _refuse(request, 404, "unknown_model", message)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this class
    codes = {404: ("not_found", "there is no such path; /docs lists them all")}
    codes[405] = ("method_not_allowed", "the path does not take this method; /docs lists what it takes")
    code, message = codes.get(error.status_code, ("http", "the request cannot be answered"))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request)) or headers.get("Allow", "")
    return _refuse(request, error.status_code, code, message, headers=headers)


async def _answer_nobody(request: Request, _: Exception) -> Response:
    """The client left; nobody reads this."""
    return _refuse(request, 499, "client_left", "the client left")


def _methods(request: Request) -> list[str]:
    """What a path takes; Starlette's own Allow names the methods of one route alone."""
    path = request.scope["path"]
    return sorted(
        {
            method
            for router in request.app.routers
            for route in router.routes
            if isinstance(route, APIRoute) and route.path_regex.match(path)
            for method in route.methods or ()
        }
    )


def _refuse(
    request: Request,
    status: int,
    code: str,
    message: str,
    limit: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    path, request_id = request.scope["path"], request.state.request_id
    return error_response(status, code, message, request_id, limit, headers, path=path)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("bertpress")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"
