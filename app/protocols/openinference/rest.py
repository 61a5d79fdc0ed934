"""The protocol over REST: POST /v2/models/{name}/infer, metadata, readiness, and the repository.

Parsing is done by hand in `json_tensors`; what stands here for requests is for OpenAPI.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from app.protocols.body import read_body
from app.protocols.decompression import decompress
from app.protocols.errors import documented
from app.protocols.exchange import ask
from app.protocols.fast_lane import busy
from app.protocols.openinference.describing import EXTENSIONS, SERVER, describe, find, read_version
from app.protocols.openinference.json_tensors import HEADER_LENGTH, parse_infer, render_infer
from app.protocols.openinference.schemas import (
    INFER_RESPONSES,
    LiveReply,
    MetadataReply,
    ModelReadyReply,
    ReadyReply,
    ServerReply,
    infer_operation,
)
from app.protocols.paths import Name, Version
from app.protocols.texts import client_of
from app.service import PredictRequest, Service
from app.settings import Settings

_JSON = "application/json"
_BINARY = "application/octet-stream"


def router(service: Service, settings: Settings, version: str) -> APIRouter:
    """The routes of this dialect that everybody may call."""
    api = APIRouter(prefix="/v2", tags=["open inference protocol"])
    _add_server(api, service, version)
    _add_models(api, service)
    _add_infer(api, service, settings)
    return api


def _add_server(api: APIRouter, service: Service, version: str) -> None:
    server = orjson.dumps({"name": SERVER, "version": version, "extensions": EXTENSIONS})

    @api.get("/", include_in_schema=False)
    @api.get(
        "",
        response_class=Response,
        responses={200: {"model": ServerReply}, **documented(flat=True)},
    )
    async def server_metadata() -> Response:
        """Name, version and extensions of the server."""
        return Response(server, media_type=_JSON)

    @api.get(
        "/health/live",
        response_class=Response,
        responses={200: {"model": LiveReply}, **documented(flat=True, free=True)},
    )
    async def server_live() -> Response:
        """200 unless only a restart helps."""
        service.check_alive()
        return Response(b'{"live":true}', media_type=_JSON)

    @api.get(
        "/health/ready",
        response_class=Response,
        responses={200: {"model": ReadyReply}, **documented(flat=True, free=True)},
    )
    async def server_ready() -> Response:
        """200 when the default model answers."""
        service.check_ready()
        return Response(b'{"ready":true}', media_type=_JSON)


def _add_models(api: APIRouter, service: Service) -> None:
    registry = service.registry
    refusals = documented(404, 409, flat=True)
    metadata: dict[int | str, Any] = {200: {"model": MetadataReply}, **refusals}
    ready: dict[int | str, Any] = {200: {"model": ModelReadyReply}, **refusals}

    def tell(name: str, version: int | None) -> Response:
        return Response(orjson.dumps(asdict(describe(registry, name, version))), media_type=_JSON)

    def tell_ready(name: str, version: int | None) -> Response:
        find(registry, name, version)
        return Response(orjson.dumps({"name": name, "ready": True}), media_type=_JSON)

    @api.get("/models/{name}", response_class=Response, responses=metadata)
    async def model_metadata(name: Name) -> Response:
        """What a loaded model reads and gives."""
        return tell(name, None)

    @api.get("/models/{name}/versions/{version}", response_class=Response, responses=metadata)
    async def version_metadata(name: Name, version: Version) -> Response:
        """What a loaded version reads and gives."""
        return tell(name, version)

    @api.get("/models/{name}/ready", response_class=Response, responses=ready)
    async def model_ready(name: Name) -> Response:
        """200 when some version of the model answers."""
        return tell_ready(name, None)

    @api.get("/models/{name}/versions/{version}/ready", response_class=Response, responses=ready)
    async def version_ready(name: Name, version: Version) -> Response:
        """200 when the version answers."""
        return tell_ready(name, version)


def _add_infer(api: APIRouter, service: Service, settings: Settings) -> None:
    responses = {**INFER_RESPONSES, **documented(404, 409, 413, 422, 504, flat=True)}

    async def infer(request: Request, name: str, version: int | None) -> Response:
        body = await read_body(request, settings.max_body_bytes)
        body = decompress(body, request.headers.get("content-encoding"), settings.max_body_bytes)
        asked = parse_infer(body, request.headers.get(HEADER_LENGTH), settings)
        wanted = PredictRequest(
            texts=asked.texts,
            timeout_seconds=asked.schedule.timeout_seconds or settings.default_timeout_ms / 1000,
            received=request.state.received,
            model=name,
            version=version,
            priority=asked.schedule.priority,
            client=client_of(request),
        )
        answer = await ask(request, service, wanted)
        reply, header_length = render_infer(answer, asked)
        if header_length is None:
            return Response(reply, media_type=_JSON)
        return Response(reply, headers={HEADER_LENGTH: str(header_length)}, media_type=_BINARY)

    @api.post(
        "/models/{name}/infer",
        response_class=Response,
        responses=responses,
        openapi_extra=infer_operation(settings, "name"),
    )
    @busy
    async def model_infer(request: Request) -> Response:
        """Classify with a model's promoted version."""
        return await infer(request, request.path_params["name"], None)

    @api.post(
        "/models/{name}/versions/{version}/infer",
        response_class=Response,
        responses=responses,
        openapi_extra=infer_operation(settings, "name", "version"),
    )
    @busy
    async def version_infer(request: Request) -> Response:
        """Classify with one version of a model."""
        named = request.path_params
        return await infer(request, named["name"], read_version(named["version"]))
