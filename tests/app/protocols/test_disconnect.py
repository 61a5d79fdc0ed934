from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from app.protocols.disconnect import UntilDisconnect
from tests.app.conftest import Serve, until

pytestmark = pytest.mark.anyio


class Connection:
    """A client that sends a body and may leave."""

    def __init__(self, body: bytes = b"") -> None:
        self._messages = [{"type": "http.request", "body": body, "more_body": False}]
        self.left = asyncio.Event()
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def scope(path: str = "/v1/predict") -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
    }


async def test_who_leaves_is_not_worked_for(serve: Serve, hold: Any) -> None:
    async with serve(sessions=1) as running:
        engine = hold(running.default)
        first = asyncio.ensure_future(running.predict())
        await asyncio.to_thread(engine.entered.wait)

        connection = Connection(b'{"inputs": ["good", "bad"]}')
        exchange = asyncio.ensure_future(running.app(scope(), connection.receive, connection.send))
        await until(lambda: running.parts.scheduler.waiting_rows() == 2)
        connection.left.set()
        await exchange

        assert running.parts.scheduler.waiting_rows() == 0
        assert running.parts.admission.in_flight == 1
        engine.release()
        assert (await first).status_code == 200
        assert len(engine.shapes) == 1
        assert 'outcome="abandoned"' in await running.metrics()


async def test_a_block_that_ends_first_is_left_alone() -> None:
    connection = Connection()
    request = Request(scope(), connection.receive)
    await request.body()
    with UntilDisconnect(request) as watch:
        watch._start()
        await asyncio.sleep(0)
    connection.left.set()
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_the_block_is_cancelled_and_the_task_is_not() -> None:
    connection = Connection()
    request = Request(scope(), connection.receive)
    await request.body()
    connection.left.set()
    with pytest.raises(ClientDisconnect), UntilDisconnect(request):
        await asyncio.Event().wait()
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_errors_and_foreign_cancellations_pass() -> None:
    request = Request(scope(), Connection().receive)
    await request.body()
    with pytest.raises(ZeroDivisionError), UntilDisconnect(request):
        raise ZeroDivisionError
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            with UntilDisconnect(request):
                await asyncio.Event().wait()


async def test_leaving_in_the_middle_of_the_body(serve: Serve) -> None:
    async with serve() as running:
        connection = Connection()
        connection._messages.clear()
        connection.left.set()
        await running.app(scope(), connection.receive, connection.send)
        assert running.parts.admission.in_flight == 0
