from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.app.conftest import ADMIN, Running, Serve

pytestmark = pytest.mark.anyio
KEY, OTHER = "key-of-the-shop-0001", "key-of-the-blog-0001"
KEYS = f"shop:{KEY},blog:{OTHER}"
WITH_KEY = {"X-API-Key": KEY}
OPEN = ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json")


async def ask(running: Running, headers: dict[str, str] | None = None, texts: int = 1) -> httpx.Response:
    return await running.http.post("/v1/predict", json={"inputs": ["good"] * texts}, headers=headers)


async def test_unset_everybody_may_ask(serve: Serve) -> None:
    async with serve() as running:
        assert running.parts.gate.is_open
        assert (await ask(running)).status_code == 200


@pytest.mark.parametrize("headers", [WITH_KEY, {"Authorization": f"Bearer {OTHER}"}, ADMIN])
async def test_with_a_key_or_as_the_operator(serve: Serve, headers: dict[str, str]) -> None:
    async with serve(api_keys=KEYS) as running:
        assert (await ask(running, headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "key-of-nobody-00001"},
        {"X-API-Key": ""},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Bearer "},
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/predict", "/", "/v1/models", "/nowhere", "/metrics/", "/health/live/x"]
)
async def test_without_a_key(serve: Serve, headers: dict[str, str], path: str) -> None:
    async with serve(api_keys=KEYS) as running:
        reply = await running.http.post(path, headers=headers, content=b"{")
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "authentication" in reply.text and KEY not in reply.text
        assert 'bertpress_refusals_total{reason="authentication"} 1.0' in await running.metrics()


async def test_what_is_open_stays_open(serve: Serve) -> None:
    async with serve(api_keys=KEYS) as running:
        for path in OPEN:
            assert (await running.http.get(path)).status_code == 200, path


async def test_an_api_key_does_not_make_an_operator(serve: Serve) -> None:
    async with serve(api_keys=KEYS) as running:
        reply = await running.http.post(
            "/admin/models/tiny/1/load", headers={"Authorization": f"Bearer {KEY}"}
        )
        assert reply.status_code == 401
        assert (await running.admin("load", 1)).status_code == 200


@pytest.mark.parametrize(
    ("setting", "closed"),
    [("protect_health", ("/health/live", "/health/ready")), ("protect_metrics", ("/metrics",))],
)
async def test_what_is_protected_needs_credentials(
    serve: Serve, setting: str, closed: tuple[str, ...]
) -> None:
    async with serve(**{setting: True}) as running:
        for path in OPEN:
            assert (await running.http.get(path)).status_code == (401 if path in closed else 200)
            assert (await running.http.get(path, headers=ADMIN)).status_code == 200
        assert (await ask(running)).status_code == 200, "no key is set: everybody may ask"


async def test_who_asks_is_the_key_and_else_the_address(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings, headers, expected in (
        ({"api_keys": KEYS}, WITH_KEY, "shop"),
        ({"api_keys": KEYS}, ADMIN, "operator"),
        ({}, WITH_KEY, "127.0.0.1"),
        ({}, {"X-Forwarded-For": "10.9.8.7"}, "127.0.0.1"),
    ):
        clients: list[str] = []
        async with serve(**settings) as running:
            predict = running.parts.service.predict

            async def remember(asked: Any, predict: Any = predict, clients: list[str] = clients) -> Any:
                clients.append(asked.client)
                return await predict(asked)

            monkeypatch.setattr(running.parts.service, "predict", remember)
            await ask(running, headers)
        assert clients == [expected]


async def test_texts_are_counted_by_the_keys_name(serve: Serve) -> None:
    async with serve(api_keys=KEYS) as running:
        await ask(running, WITH_KEY, texts=3)
        await ask(running, ADMIN)
        found = [
            line for line in (await running.metrics()).splitlines() if line.startswith("bertpress_key_texts")
        ]
        assert found == ['bertpress_key_texts_total{key="shop"} 3.0']


async def test_requests_beyond_the_rate_are_told_when_to_come_back(serve: Serve) -> None:
    settings = {"api_keys": KEYS, "rate_limit_requests": 0.1, "rate_limit_burst_seconds": 20}
    async with serve(**settings) as running:
        assert [(await ask(running, WITH_KEY)).status_code for _ in range(3)] == [200, 200, 429]
        reply = await ask(running, WITH_KEY)
        assert reply.json()["error"]["code"] == "busy"
        assert 1 <= int(reply.headers["retry-after"]) <= 10
        assert (await ask(running, {"X-API-Key": OTHER})).status_code == 200
        assert (await running.http.get("/metrics")).status_code == 200
        assert (await running.admin("load", 1)).status_code == 200
        assert 'bertpress_refusals_total{reason="rate_limit_requests"} 2.0' in await running.metrics()


async def test_texts_beyond_the_rate_are_refused_and_a_whole_request_fits(serve: Serve) -> None:
    async with serve(rate_limit_texts=0.1, rate_limit_burst_seconds=1, max_texts=8) as running:
        assert (await ask(running, texts=8)).status_code == 200
        reply = await ask(running)
        assert (reply.status_code, "RATE_LIMIT_TEXTS" in reply.text) == (429, True)
        assert 'bertpress_refusals_total{reason="rate_limit_texts"} 1.0' in await running.metrics()
        assert running.parts.admission.in_flight == 0


async def test_the_dialect_of_the_path_answers(serve: Serve) -> None:
    async with serve(api_keys=KEYS) as running:
        reply = await running.http.post("/v2/models/tiny/infer", json={})
        assert reply.status_code == 401
        assert isinstance(reply.json()["error"], str)


async def test_every_health_path_of_every_dialect_is_open_or_closed_together(serve: Serve) -> None:
    async with serve(api_keys=KEYS) as running:
        paths = [path for path in running.app.openapi()["paths"] if "health" in path and "{" not in path]
        assert len(paths) >= 2
        for path in paths:
            assert (await running.http.get(path)).status_code == 200, path
    async with serve(protect_health=True) as running:
        for path in paths:
            assert (await running.http.get(path)).status_code == 401, path
