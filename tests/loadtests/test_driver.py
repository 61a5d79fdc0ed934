from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from app.errors import DataError, SettingsError
from loadtests import driver

Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(answer: Answer, *, ready: int = 200) -> AsyncIterator[str]:
    async def health(_: web.Request) -> web.Response:
        return web.Response(status=ready)

    application = web.Application()
    application.router.add_post("/v1/predict", answer)
    application.router.add_get("/health/ready", health)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def target(url: str, *, timeout_seconds: float = 30.0, connections: int = 4) -> driver.Target:
    return driver.Target(url, timeout_seconds=timeout_seconds, connections=connections)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org:8000",
        "http://localhost:8000",
        "http://10.0.0.1:8000",
        "http://127.0.0.1.example.org",
        "http://127.0.0.1@example.org",
        "https://127.0.0.1:8000",
        "",
    ],
)
def test_other_hosts_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="not on this machine"):
        driver.Target(url, timeout_seconds=1, connections=1)


def test_bodies_hold_one_text_as_it_is_and_several_as_a_list() -> None:
    one = driver.bodies(["a", "b"], texts_per_request=1, model=None)
    two = driver.bodies(["a", "b", "c"], texts_per_request=2, model="quality")

    assert [json.loads(body) for body in one] == [{"inputs": "a"}, {"inputs": "b"}]
    assert [json.loads(body) for body in two] == [{"inputs": ["a", "b"], "model": "quality"}]


@pytest.mark.parametrize("texts_per_request", [0, 3])
def test_too_few_texts_for_a_request_are_refused(texts_per_request: int) -> None:
    with pytest.raises(DataError, match="cannot be made from 2 texts"):
        driver.bodies(["a", "b"], texts_per_request=texts_per_request, model=None)


def test_every_scheduled_request_is_sent_once_in_order_of_the_bodies() -> None:
    received: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response()

    async def drive() -> list[str]:
        async with serving(answer) as url:
            outcomes = await driver.open_loop(target(url), [b"a", b"b"], [0.0, 0.05, 0.1])
        return [outcome.code for outcome in outcomes]

    assert asyncio.run(drive()) == ["200", "200", "200"]
    assert sorted(received) == [b"a", b"a", b"b"]


def test_a_server_that_answers_late_does_not_delay_the_next_request() -> None:
    """The first request is answered only when the second has arrived."""
    second_arrived = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if await request.read() == b"second":
            second_arrived.set()
        await second_arrived.wait()
        return web.Response()

    async def drive() -> list[str]:
        async with serving(answer) as url:
            outcomes = await driver.open_loop(target(url), [b"first", b"second"], [0.0, 0.01])
        return [outcome.code for outcome in outcomes]

    assert asyncio.run(drive()) == ["200", "200"]


def test_waiting_for_a_connection_counts_as_latency() -> None:
    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response()

    async def drive() -> list[float]:
        async with serving(answer) as url:
            outcomes = await driver.open_loop(target(url, connections=1), [b""], [0.0, 0.0, 0.0])
        return sorted(outcome.latency_seconds for outcome in outcomes)

    first, second, third = asyncio.run(drive())
    assert first < second < third


def test_statuses_timeouts_and_broken_connections_are_told_apart() -> None:
    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        if body == b"slow":
            await asyncio.Event().wait()
        if body == b"broken":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=429 if body == b"busy" else 302, headers={"Location": "/elsewhere"})

    async def drive() -> list[str]:
        async with serving(answer) as url:
            bodies = [b"slow", b"busy", b"moved", b"broken"]
            outcomes = await driver.open_loop(target(url, timeout_seconds=0.5), bodies, [0.0] * 4)
        return [outcome.code for outcome in outcomes]

    assert asyncio.run(drive()) == ["timeout", "429", "302", "connection"]


def test_the_closed_loop_keeps_every_connection_busy_and_stops_at_its_count() -> None:
    in_flight = 0
    most = 0
    all_busy = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        if most == 4:
            all_busy.set()
        await all_busy.wait()
        in_flight -= 1
        return web.Response()

    async def drive() -> int:
        async with serving(answer) as url:
            outcomes = await driver.closed_loop(target(url), [b""], duration_seconds=60, max_requests=20)
        return len(outcomes)

    assert asyncio.run(drive()) == 20
    assert most == 4


def test_the_closed_loop_stops_at_its_duration() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    async def drive() -> list[str]:
        async with serving(answer) as url:
            outcomes = await driver.closed_loop(target(url), [b""], duration_seconds=0.2, max_requests=10**6)
        return [outcome.code for outcome in outcomes]

    assert set(asyncio.run(drive())) == {"200"}


def test_a_service_that_is_not_ready_is_not_measured() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    async def drive() -> None:
        async with serving(answer, ready=503) as url:
            await driver.check_ready(target(url))

    with pytest.raises(SettingsError, match="answers 503; wait"):
        asyncio.run(drive())


def test_a_service_that_is_not_there_is_named(unused_port: int) -> None:
    with pytest.raises(SettingsError, match="make serve"):
        asyncio.run(driver.check_ready(target(f"http://127.0.0.1:{unused_port}")))


def test_a_wrong_answer_is_not_a_200() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    def is_second(index: int, body: bytes) -> bool:
        return (index, body) == (1, b"second")

    async def drive() -> tuple[list[str], list[str]]:
        async with serving(answer) as url:
            open_codes = await driver.open_loop(
                target(url), [b"first", b"second"], [0, 0, 0], judge=is_second
            )
            closed_codes = await driver.closed_loop(
                target(url, connections=1),
                [b"first", b"second"],
                duration_seconds=60,
                max_requests=4,
                judge=is_second,
            )
        return [outcome.code for outcome in open_codes], [outcome.code for outcome in closed_codes]

    assert asyncio.run(drive()) == (["wrong", "200", "wrong"], ["wrong", "200", "wrong", "200"])


def test_a_lost_run_ends_at_once() -> None:
    """Of six requests one is never answered and three are still to come when the third is refused."""

    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        if body == b"hangs":
            await asyncio.Event().wait()
        return web.Response(status=429 if body == b"refused" else 200)

    async def drive() -> list[str]:
        async with serving(answer) as url:
            outcomes = await driver.open_loop(
                target(url),
                [b"fine", b"hangs", b"refused", b"fine", b"fine", b"fine"],
                [0.0, 0.0, 0.01, 3600.0, 3600.0, 3600.0],
                hopeless=lambda outcome: outcome.code == "429",
            )
        return [outcome.code for outcome in outcomes]

    assert asyncio.run(drive()) == ["200", "429"]
