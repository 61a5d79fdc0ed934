from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from app.logs import REQUEST_ID
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


async def test_too_many_headers(serve: Serve) -> None:
    async with serve(max_headers=20) as running:
        reply = await running.http.get("/health/live", headers=[("X-A", "b")] * 30)
        assert (reply.status_code, reply.json()["error"]["limit"]) == (431, 20)
        assert reply.json()["error"]["request_id"] == reply.headers["x-request-id"]
        assert (await running.http.get("/health/live")).status_code == 200


async def test_an_access_line_tells_what_happened_and_not_what_was_sent(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serve(access_log=True) as running:
        reply = await running.http.post("/v1/predict?zebra=1", json={"inputs": "gnu"})
        await running.http.request("QUAGGA", "/okapi")
    lines = [record for record in caplog.records if record.name == "bertpress.access"]
    assert [line.getMessage() for line in lines] == ["POST /v1/predict 200", "other unmatched 404"]
    found = lines[0].__dict__["bertpress_fields"]
    assert found.pop("duration_ms") > 0
    assert found == {
        "method": "POST",
        "route": "/v1/predict",
        "status": 200,
        "bytes": len(reply.content),
        "client": "127.0.0.1",
    }
    written = "".join(f"{line.getMessage()}{line.__dict__['bertpress_fields']}" for line in lines)
    assert not re.search("(?i)zebra|gnu|quagga|okapi", written)


async def test_no_access_line_unless_asked_for(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with serve() as running:
        await running.predict()
    assert not [record for record in caplog.records if record.name == "bertpress.access"]


async def test_lines_within_a_request_know_its_id(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    async with serve() as running:
        predict = running.parts.service.predict

        async def look(asked: object) -> object:
            seen.append(REQUEST_ID.get())
            return await predict(asked)  # type: ignore[arg-type]

        monkeypatch.setattr(running.parts.service, "predict", look)
        ask = running.http.post("/v1/predict", json={"inputs": "good"}, headers={"X-Request-Id": "abc"})
        await asyncio.create_task(ask)  # a task of its own, as a server gives each request
    assert (seen, REQUEST_ID.get()) == (["abc"], None)
