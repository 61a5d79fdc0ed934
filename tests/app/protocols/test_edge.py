from __future__ import annotations

import re

import httpx
import pytest

from tests.app.conftest import Serve

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("given", ["abc-123", "A.b_c:d", "x" * 128])
async def test_a_request_id_is_returned(serve: Serve, given: str) -> None:
    async with serve() as running:
        for path in ("/health/live", "/nowhere"):
            reply = await running.http.get(path, headers={"X-Request-Id": given})
            assert reply.headers["x-request-id"] == given
        assert reply.json()["error"]["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", 'a"b', "é"])
async def test_a_strange_request_id_is_replaced(serve: Serve, given: str) -> None:
    async with serve() as running:
        reply = await running.http.get("/health/live", headers=[(b"x-request-id", given.encode())])
        assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/models/", 404, "not_found"),
        ("GET", "/v1/predict", 405, "method_not_allowed"),
        ("DELETE", "/health/live", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
    ],
)
async def test_every_error_has_the_one_shape(
    serve: Serve, method: str, path: str, status: int, code: str
) -> None:
    async with serve() as running:
        reply = await running.http.request(method, path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
        assert reply.json()["error"]["request_id"] == reply.headers["x-request-id"]


async def test_a_fault_is_a_500_that_tells_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as running:
        monkeypatch.setattr(running.parts.service, "predict", lambda *_: 1 / 0)
        reply = await running.predict("zebra")
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal")
        assert "zebra" not in reply.text + caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert reply.headers["x-request-id"] in caplog.text


async def test_a_fault_after_the_answer_began_closes_the_connection(serve: Serve) -> None:
    async with serve() as running:

        async def half(scope: object, receive: object, send: object) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
            raise ZeroDivisionError

        running.app.mount("/half", half)
        transport = httpx.ASGITransport(app=running.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            with pytest.raises(ZeroDivisionError):
                await http.get("/half/")
