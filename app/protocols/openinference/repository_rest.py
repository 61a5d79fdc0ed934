"""The model repository extension over REST. For the operator alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPBearer

from app.errors import InvalidRequestError
from app.protocols.auth import check_admin
from app.protocols.body import read_body
from app.protocols.errors import documented
from app.protocols.openinference import repository
from app.protocols.openinference.schemas import (
    IndexBody,
    IndexRowReply,
    LoadBody,
    UnloadBody,
    optional_body,
)
from app.protocols.paths import Name
from app.protocols.texts import check_fields, object_of, true_or_false
from app.registry import Registry
from app.settings import Settings


def router(registry: Registry, settings: Settings) -> APIRouter:
    """The routes of the operator in this dialect."""

    def authenticate(request: Request) -> None:
        check_admin(request, settings.admin_token)

    # HTTPBearer stands here for OpenAPI alone; `authenticate` decides.
    guards = [
        Depends(authenticate),
        Depends(HTTPBearer(auto_error=False, description="BERTPRESS_ADMIN_TOKEN")),
    ]
    api = APIRouter(prefix="/v2/repository", tags=["open inference protocol"], dependencies=guards)
    refusals = documented(403, 404, 409, 413, 422, flat=True)
    rows: dict[int | str, Any] = {200: {"model": list[IndexRowReply]}, **refusals}

    async def read(request: Request) -> object:
        body = await read_body(request, settings.max_body_bytes)
        return parse_optional(body)

    async def tell(only_ready: bool, name: str | None = None) -> Response:
        listed = [asdict(row) for row in await repository.index(registry, only_ready)]
        return Response(
            orjson.dumps([row for row in listed if name in (None, row["name"])]),
            media_type="application/json",
        )

    @api.post("/index", response_class=Response, responses=rows, openapi_extra=optional_body(IndexBody))
    async def index(request: Request) -> Response:
        """Every version in the repository."""
        fields = check_fields(await read(request), ("ready",))
        return await tell(true_or_false(fields, "ready"))

    @api.post(
        "/models/{name}/load",
        response_class=Response,
        responses=rows,
        openapi_extra=optional_body(LoadBody),
    )
    async def load(request: Request, name: Name) -> Response:
        """Load a model's highest version and promote it; answers with the model's versions."""
        fields = check_fields(await read(request), ("parameters",))
        await repository.load(registry, name, object_of(fields, "parameters"))
        return await tell(False, name)

    @api.post(
        "/models/{name}/unload",
        response_class=Response,
        responses=rows,
        openapi_extra=optional_body(UnloadBody),
    )
    async def unload(request: Request, name: Name) -> Response:
        """Unload every version of a model, unless it is the default; answers with the model's versions."""
        fields = check_fields(await read(request), ("parameters",))
        known = check_fields(object_of(fields, "parameters"), ("unload_dependents",), "parameters")
        true_or_false(known, "unload_dependents")
        await repository.unload(registry, name)
        return await tell(False, name)

    return api


def parse_optional(body: bytes) -> object:
    """A JSON body that may be absent.

    Raises:
        InvalidRequestError: something else than JSON.
    """
    if not body:
        return {}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(
            f"the body is not valid JSON in UTF-8 (line {error.lineno}, column {error.colno}); leave it out"
        ) from None
