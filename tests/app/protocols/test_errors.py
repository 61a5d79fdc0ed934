from __future__ import annotations

import json

import pytest

from app.protocols.errors import documented, error_response, error_type

OURS = ("", "/v1/predict", "/admin/models/a/1/load", "/health/live", "/v2x", "/predictions", "/nowhere")
FLAT = ("/", "/predict", "/info", "/health", "/v2", "/v2/", "/v2/models/a/infer", "/v2/nowhere")


@pytest.mark.parametrize("path", OURS)
def test_our_own_errors_have_an_object(path: str) -> None:
    body = json.loads(bytes(error_response(413, "limit", "too long", "id", 7, path=path).body))
    assert body == {"error": {"code": "limit", "message": "too long", "limit": 7, "request_id": "id"}}


@pytest.mark.parametrize("path", FLAT)
def test_others_errors_are_a_string(path: str) -> None:
    reply = error_response(429, "busy", "come back", "id", headers={"Retry-After": "3"}, path=path)
    assert json.loads(bytes(reply.body)) == {
        "error": "come back",
        "error_type": "Overloaded",
        "code": "busy",
        "limit": None,
        "request_id": "id",
    }
    assert reply.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "Validation"),
        (413, "Validation"),
        (422, "Validation"),
        (429, "Overloaded"),
        (500, "Backend"),
        (503, "Unhealthy"),
        (504, "Backend"),
    ],
)
def test_types(status: int, name: str) -> None:
    assert error_type(status) == name


def test_what_openapi_tells() -> None:
    gated, free = documented(413), documented(free=True)
    assert gated.keys() - free.keys() == {413, 429}
    assert "Retry-After" in gated[429]["headers"] and "WWW-Authenticate" in gated[401]["headers"]
    assert all(response["description"] for response in gated.values())
