"""What every error of the dialects with flat errors must be."""

from __future__ import annotations

from typing import Any

import httpx

SECRET = "zebra-of-the-input"
KEYS = {"error", "error_type", "code", "limit", "request_id"}


def flat_error(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check an error and return it."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    error: dict[str, Any] = reply.json()
    assert error.keys() == KEYS
    assert isinstance(error["error"], str)
    assert error["code"] == code
    assert error["request_id"] == reply.headers["x-request-id"]
    assert SECRET not in reply.text
    assert len(reply.content) < 1000
    return error
