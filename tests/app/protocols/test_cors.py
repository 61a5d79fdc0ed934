from __future__ import annotations

import pytest

from app.errors import SettingsError
from app.settings import read_settings
from tests.app.conftest import Serve

pytestmark = pytest.mark.anyio
ORIGIN = "https://pages.example.org"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,x-api-key",
}


async def test_closed_unless_set(serve: Serve) -> None:
    async with serve() as running:
        for reply in (
            await running.http.options("/v1/predict", headers=PREFLIGHT),
            await running.http.post("/v1/predict", json={"inputs": "good"}, headers={"Origin": ORIGIN}),
        ):
            assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_the_named_origin_may_ask_and_read(serve: Serve) -> None:
    async with serve(
        cors_origins=f"https://other.example.org, {ORIGIN}", api_keys="shop:0123456789abcdef"
    ) as app:
        allowed = await app.http.options("/v1/predict", headers=PREFLIGHT)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
        reply = await app.http.post("/v1/predict", json={"inputs": "good"}, headers={"Origin": ORIGIN})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (401, ORIGIN)
        assert "x-request-id" in reply.headers["access-control-expose-headers"]


async def test_another_origin_may_not(serve: Serve) -> None:
    async with serve(cors_origins=ORIGIN) as running:
        headers = {**PREFLIGHT, "Origin": "https://evil.example.org"}
        reply = await running.http.options("/v1/predict", headers=headers)
        assert reply.status_code == 400
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    "origins", ["example.org", "https://example.org/", "ftp://example.org", "https://a b"]
)
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(SettingsError, match="cors_origins"):
        read_settings({"cors_origins": origins}, {})
