from __future__ import annotations

import pytest

from tests.app.conftest import ADMIN, TOKEN, Serve

pytestmark = pytest.mark.anyio
LOAD = "/admin/models/tiny/1/load"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer \xff\xfe"},
    ],
)
async def test_without_the_token(serve: Serve, headers: dict[str, str]) -> None:
    async with serve() as running:
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        for path in (LOAD, "/admin/models/absent/1/promote", "/admin/models/NO WAY/x/unload"):
            reply = await running.http.post(path, headers=encoded)
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "authentication"
            assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", [None, ""])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer "}, ADMIN])
async def test_closed_where_no_token_is_set(serve: Serve, token: str | None, headers: dict[str, str]) -> None:
    async with serve(admin_token=token) as running:
        reply = await running.http.post(LOAD, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "admin_disabled")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_the_scheme_in_any_case(serve: Serve, scheme: str) -> None:
    async with serve() as running:
        reply = await running.http.post(LOAD, headers={"Authorization": f"{scheme} {TOKEN}"})
        assert reply.status_code == 200
        assert reply.json()["name"] == "tiny"


@pytest.mark.parametrize(
    "path",
    [
        "absent/1/load",
        "tiny/9/load",
        "tiny/9/unload",
        "absent/1/promote",
        "tiny/x/load",
        "tiny/0/load",
        "tiny/-1/load",
        "TINY/1/load",
        "tiny/99999999999999999999/load",
        "..%2Ftiny/1/load",
        "%00/1/load",
    ],
)
async def test_what_does_not_exist(serve: Serve, path: str) -> None:
    async with serve() as running:
        reply = await running.http.post(f"/admin/models/{path}", headers=ADMIN)
        assert reply.status_code == 404
        assert reply.json()["error"].keys() == {"code", "message", "limit", "request_id"}


async def test_only_post(serve: Serve) -> None:
    async with serve() as running:
        reply = await running.http.get(LOAD, headers=ADMIN)
        assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
