"""What FastAPI cannot know of the routes' document: that paths are refused in our own way, and the keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_SCHEMES = {
    "ApiKeyBearer": {"type": "http", "scheme": "bearer", "description": "a key of BERTPRESS_API_KEYS"},
    "ApiKeyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same key"},
}


def correct(document: dict[str, Any], needs_key: Callable[[str], bool]) -> dict[str, Any]:
    """Drop the answer FastAPI believes it gives to invalid paths; name the keys where they are needed."""
    components = document["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            if needs_key(path) and "security" not in operation:
                operation["security"] = [{scheme: []} for scheme in _SCHEMES]
                components.setdefault("securitySchemes", {}).update(_SCHEMES)
    return document
