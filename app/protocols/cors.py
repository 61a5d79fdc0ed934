"""Which web pages may ask: none, unless a setting names their origins."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

_ASKED = ("authorization", "content-type", "traceparent", "tracestate", "x-api-key", "x-request-id")
_SHOWN = ("x-request-id", "server-timing", "retry-after")
_REMEMBER_SECONDS = 3600


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, answering browsers' questions for these origins too; as it was if there are none."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=_ASKED,
        expose_headers=_SHOWN,
        max_age=_REMEMBER_SECONDS,
    )
