"""The one shape every error takes, and how OpenAPI tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

_MEANINGS = {
    400: "The request is malformed; the message says what and where.",
    401: "Credentials are missing or wrong.",
    403: "The admin interface is closed because no token is set.",
    404: "No such model, version or path.",
    409: "The present state forbids it: not loaded, or the default.",
    413: "The request exceeds a limit, which `limit` gives.",
    422: "The version cannot be trusted or cannot run here.",
    429: "Busy; come back after the seconds in Retry-After.",
    500: "A fault of the service; the log has the request id.",
    503: "Not ready, or shutting down.",
    504: "The answer would not be, or was not, ready within timeout_ms.",
}


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(
        description="for programs: does not change with the wording", examples=["invalid_request"]
    )
    message: str = Field(description="what was wrong, the limit, and what to do; never the input")
    limit: int | None = Field(None, description="the limit that was exceeded")
    request_id: str = Field(description="the X-Request-Id of this exchange")


class ErrorReply(BaseModel):
    """The body of every error."""

    error: ErrorDetail


def error_response(
    status: int,
    code: str,
    message: str,
    request_id: str,
    limit: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as the client sees it."""
    body = {"error": {"code": code, "message": message, "limit": limit, "request_id": request_id}}
    return Response(orjson.dumps(body), status, headers=dict(headers or {}), media_type="application/json")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these statuses."""
    return {status: {"model": ErrorReply, "description": _MEANINGS[status]} for status in statuses}
