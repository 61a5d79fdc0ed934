"""How errors look in each dialect, and how OpenAPI tells of them.

bertpress's own routes answer `{"error": {"code", "message", "limit", "request_id"}}`. Clients of the other
dialects expect `error` to be the message itself, so theirs is the same in one level:
`{"error": message, "error_type", "code", "limit", "request_id"}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

_MEANINGS = {
    400: "The request is malformed; the message says what and where.",
    401: "Credentials are missing or wrong.",
    403: "The admin interface is closed because no token is set.",
    404: "No such model, version or path.",
    408: "The request was not complete in time.",
    409: "The present state forbids it: not loaded, or the default.",
    413: "The request exceeds a limit, which `limit` gives.",
    422: "The version cannot be trusted or run here, or no model here can do what is asked.",
    429: "Busy, or more than a key may ask; come back after the seconds in Retry-After.",
    431: "More or longer headers than are read.",
    500: "A fault of the service; the log has the request id.",
    503: "Not ready, shutting down, or out of connections.",
    504: "The answer would not be, or was not, ready in time.",
}
_REQUEST_ID: dict[str, Any] = {
    "X-Request-Id": {
        "description": "names this exchange; the client's own if it sent one",
        "schema": {"type": "string"},
    }
}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "how to authenticate", "schema": {"type": "string"}}},
    429: {
        "Retry-After": {
            "description": "seconds until it is worth trying",
            "schema": {"type": "string", "pattern": "^[0-9]+$"},
        }
    },
}
# what the connection and the edge answer before a route is asked
_EVERYWHERE = (400, 408, 431, 500, 503)
_AT_THE_GATE = (401, 429)
_FLAT_PATHS = frozenset({"/", "/predict", "/info", "/health", "/v2"})

ErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation"]


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(
        description="for programs: does not change with the wording", examples=["invalid_request"]
    )
    message: str = Field(description="what was wrong, the limit, and what to do; never the input")
    limit: int | None = Field(None, description="the limit that was exceeded")
    request_id: str = Field(description="the X-Request-Id of this exchange")


class ErrorReply(BaseModel):
    """The body of every error of bertpress's own routes."""

    error: ErrorDetail


class FlatErrorReply(BaseModel):
    """The body of every error of the dialects that other servers speak."""

    error: str = Field(description="what was wrong, the limit, and what to do; never the input")
    error_type: ErrorType = Field(description="the error's kind as text-embeddings-inference names it")
    code: str = Field(
        description="for programs: does not change with the wording", examples=["invalid_request"]
    )
    limit: int | None = Field(None, description="the limit that was exceeded")
    request_id: str = Field(description="the X-Request-Id of this exchange")


def error_response(
    status: int,
    code: str,
    message: str,
    request_id: str,
    limit: int | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    path: str = "",
) -> Response:
    """An error as the client sees it, in the dialect of the path it called."""
    if is_flat(path):
        body: dict[str, Any] = {
            "error": message,
            "error_type": error_type(status),
            "code": code,
            "limit": limit,
            "request_id": request_id,
        }
    else:
        body = {"error": {"code": code, "message": message, "limit": limit, "request_id": request_id}}
    return Response(orjson.dumps(body), status, headers=dict(headers or {}), media_type="application/json")


def is_flat(path: str) -> bool:
    """Whether a path belongs to a dialect whose clients read `error` as a string."""
    return path in _FLAT_PATHS or path.startswith("/v2/")


def error_type(status: int) -> ErrorType:
    """The name that text-embeddings-inference has for what a status tells."""
    if status == 429:
        return "Overloaded"
    if status == 503:
        return "Unhealthy"
    return "Backend" if status >= 500 else "Validation"


def documented(*statuses: int, flat: bool = False, free: bool = False) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these statuses and for those that every route can answer with.

    A `free` route is open to everybody at any rate, unless a setting protects it.
    """
    model = FlatErrorReply if flat else ErrorReply
    gate = _AT_THE_GATE[:1] if free else _AT_THE_GATE
    return {
        status: {
            "model": model,
            "description": _MEANINGS[status],
            "headers": {**_REQUEST_ID, **_HEADERS.get(status, {})},
        }
        for status in sorted({*statuses, *_EVERYWHERE, *gate})
    }
