"""What orchestrators and Prometheus ask."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel

from app.metrics import CONTENT_TYPE, Metrics
from app.protocols.errors import documented
from app.service import Service


class LiveReply(BaseModel):
    """The process runs."""

    status: str


class ReadyReply(BaseModel):
    """The default model answers."""

    status: str
    model: str
    version: int


def router(service: Service, metrics: Metrics) -> APIRouter:
    """Liveness, readiness, metrics."""
    api = APIRouter(tags=["health"])

    @api.get(
        "/health/live",
        response_class=Response,
        responses={200: {"model": LiveReply}, **documented(free=True)},
    )
    async def live() -> Response:
        """200 unless only a restart helps."""
        service.check_alive()
        return Response(b'{"status":"live"}', media_type="application/json")

    @api.get(
        "/health/ready",
        response_class=Response,
        responses={200: {"model": ReadyReply}, **documented(free=True)},
    )
    async def ready() -> Response:
        """200 when the default model has passed its probes."""
        key = service.check_ready().key
        body = {"status": "ready", "model": key.name, "version": key.version}
        return Response(orjson.dumps(body), media_type="application/json")

    @api.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented(free=True)},
    )
    async def scrape() -> Response:
        """Everything measured, for Prometheus."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return api
