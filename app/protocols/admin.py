"""Hot swap: load, promote, unload. For the operator alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPBearer

from app.protocols.auth import check_admin
from app.protocols.errors import documented
from app.protocols.native import ModelReply, render_status
from app.protocols.paths import Name, Version
from app.registry import Registry
from app.settings import Settings
from app.variant import VersionKey


def router(registry: Registry, settings: Settings) -> APIRouter:
    """The routes of the operator."""

    def authenticate(request: Request) -> None:
        check_admin(request, settings.admin_token)

    # HTTPBearer stands here for OpenAPI alone; `authenticate` decides.
    guards = [
        Depends(authenticate),
        Depends(HTTPBearer(auto_error=False, description="BERTPRESS_ADMIN_TOKEN")),
    ]
    api = APIRouter(prefix="/admin/models/{name}/{version}", tags=["admin"], dependencies=guards)
    responses = {200: {"model": ModelReply}, **documented(403, 404, 409, 422)}

    async def carry_out(operation: Callable[[VersionKey], Awaitable[None]], key: VersionKey) -> Response:
        await operation(key)
        status = next(row for row in await registry.status() if row.key == key)
        return Response(orjson.dumps(render_status(status)), media_type="application/json")

    @api.post("/load", response_class=Response, responses=responses)
    async def load(name: Name, version: Version) -> Response:
        """Bring a version into memory beside the others; traffic stays where it is."""
        return await carry_out(registry.load, VersionKey(name, version))

    @api.post("/promote", response_class=Response, responses=responses)
    async def promote(name: Name, version: Version) -> Response:
        """Make a loaded version its model's default, and that model the service's."""
        return await carry_out(registry.promote, VersionKey(name, version))

    @api.post("/unload", response_class=Response, responses=responses)
    async def unload(name: Name, version: Version) -> Response:
        """Finish what a version serves, then give its memory back; refused for the default."""
        return await carry_out(registry.unload, VersionKey(name, version))

    return api
