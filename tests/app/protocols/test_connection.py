from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from app.metrics import Metrics
from app.protocols.connection import Connection, ConnectionLimits, connection_class, is_worth_logging
from app.protocols.disconnect import UntilDisconnect
from app.settings import Settings

pytestmark = pytest.mark.anyio
LIMITS = ConnectionLimits(3, 1000, {"header": 10.0, "body": 30.0, "write": 20.0})
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


class Transport:
    """What a socket's end would see; `unsent` bytes nobody reads."""

    def __init__(self) -> None:
        self.written, self.unsent = b"", 0
        self.closed = self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _: str) -> Any:
        return None

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Bench:
    """Connections to an application that answers as soon as it has read the body."""

    def __init__(self) -> None:
        self.metrics, self.state = Metrics(), ServerState()
        self.heard: list[str] = []
        self.config = Config(self.application, interface="asgi3", log_config=None, ws="none")
        self.config.load()

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["request_id"] = "abc"
        while True:
            message = await receive()
            self.heard.append(message["type"])
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def connect(self) -> tuple[Connection, Transport]:
        kind, transport = connection_class(LIMITS, self.metrics), Transport()
        connection = kind(self.config, self.state, {}, asyncio.get_running_loop())
        connection.connection_made(transport)  # type: ignore[arg-type]
        return connection, transport

    def cuts(self) -> dict[str, float]:
        lines = self.metrics.render().decode().splitlines()
        cut = [line for line in lines if line.startswith("bertpress_connections_cut_total{")]
        return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in cut}


@pytest.fixture
def bench() -> Iterator[Bench]:
    yield Bench()


async def turn() -> None:
    """Let the application do what it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def code(written: bytes) -> tuple[int, str]:
    head, _, body = written.rpartition(b"\r\n\r\n")
    return int(head.rpartition(b"HTTP/1.1 ")[2][:3]), json.loads(body)["error"]["code"]


async def test_a_request_in_time_is_answered_and_the_connection_kept(bench: Bench) -> None:
    connection, transport = bench.connect()
    for now in (0.0, 9.0, 18.0):
        connection.cut_if_slow(now)
        connection.data_received(HEAD)
        connection.cut_if_slow(now + 1)
        connection.data_received(b"body")
        await turn()
    assert transport.written.count(b"HTTP/1.1 200") == 3
    assert not transport.closed
    connection.cut_if_slow(1e6)
    connection.cut_if_slow(2e6)
    assert (transport.closed, bench.cuts()) == (False, {}), "an idle connection is uvicorn's affair"
    connection.timeout_keep_alive_handler()


async def test_who_says_nothing_is_left_without_a_word(bench: Bench) -> None:
    connection, transport = bench.connect()
    for now in (0.0, 10.0):
        connection.cut_if_slow(now)
        assert not transport.closed
    connection.cut_if_slow(10.1)
    assert (transport.closed, transport.written, bench.cuts()) == (True, b"", {"header_timeout": 1.0})


async def test_headers_byte_by_byte(bench: Bench) -> None:
    connection, transport = bench.connect()
    for now, byte in enumerate(HEAD[:11]):
        connection.cut_if_slow(float(now))
        connection.data_received(bytes([byte]))
    assert not transport.closed
    connection.cut_if_slow(11.0)
    assert (transport.closed, code(transport.written)) == (True, (408, "header_timeout"))
    assert b"connection: close" in transport.written
    assert bench.cuts() == {"header_timeout": 1.0}


async def test_slow_headers_after_an_answer(bench: Bench) -> None:
    connection, transport = bench.connect()
    connection.data_received(HEAD + b"body")
    await turn()
    for now in (0.0, 5.0, 10.5):
        connection.data_received(b"\r\n" if now == 0.0 else b"G" if now == 5.0 else b"")
        connection.cut_if_slow(now)
    assert (transport.closed, bench.cuts()) == (True, {"header_timeout": 1.0})


async def test_a_body_byte_by_byte(bench: Bench) -> None:
    connection, transport = bench.connect()
    connection.data_received(HEAD)
    for now in (0.0, 15.0, 30.0):
        connection.cut_if_slow(now)
        connection.data_received(b"b")
        await turn()
        assert not transport.closed
    connection.cut_if_slow(30.1)
    assert (transport.closed, code(transport.written)) == (True, (408, "body_timeout"))
    assert b'"request_id":"abc"' in transport.written
    connection.connection_lost(None)
    await turn()
    assert bench.heard[-1] == "http.disconnect"
    assert transport.written.count(b"HTTP/1.1") == 1


async def test_a_body_that_goes_on_after_the_answer(bench: Bench) -> None:
    connection, transport = bench.connect()
    connection.data_received(HEAD)
    connection.cycle.response_started = connection.cycle.response_complete = True
    for now in (0.0, 29.0, 31.0):
        connection.cut_if_slow(now)
    assert (transport.aborted, transport.written, bench.cuts()) == (True, b"", {"body_timeout": 1.0})


async def test_an_answer_that_nobody_reads(bench: Bench) -> None:
    connection, transport = bench.connect()
    connection.data_received(HEAD + b"body")
    await turn()
    transport.unsent = 5
    for now in (0.0, 20.0):
        connection.cut_if_slow(now)
        assert not transport.aborted
    connection.cut_if_slow(20.1)
    assert (transport.aborted, bench.cuts()) == (True, {"write_timeout": 1.0})


async def test_a_closed_connection_that_nobody_reads_out(bench: Bench) -> None:
    connection, transport = bench.connect()
    transport.closed, transport.unsent = True, 5
    connection.cut_if_slow(0.0)
    connection.cut_if_slow(21.0)
    assert transport.aborted


async def test_the_time_starts_again_with_each_thing_waited_for(bench: Bench) -> None:
    connection, transport = bench.connect()
    connection.cut_if_slow(0.0)
    connection.data_received(HEAD)
    connection.cut_if_slow(9.9)
    connection.cut_if_slow(39.8)
    connection.data_received(b"body")
    connection.cut_if_slow(1000.0)
    await turn()
    assert transport.written.startswith(b"HTTP/1.1 200")
    assert not transport.closed


@pytest.mark.parametrize("pieces", [1, 7, 4000])
async def test_a_head_that_is_too_long(bench: Bench, pieces: int) -> None:
    connection, transport = bench.connect()
    head = b"GET / HTTP/1.1\r\n" + b"X-Padding: xxxxxxxxxxxxxxx\r\n" * 60 + b"\r\n"
    for start in range(0, len(head), -(-len(head) // pieces)):
        if not transport.closed:
            connection.data_received(head[start : start + -(-len(head) // pieces)])
    await turn()
    assert (transport.closed, code(transport.written)) == (True, (431, "headers_too_large"))
    assert bench.cuts() == {"headers_too_large": 1.0}
    assert bench.heard == [], "the application was never asked"


async def test_a_long_body_is_no_long_head(bench: Bench) -> None:
    connection, transport = bench.connect()
    body = b"x" * 5000
    head = HEAD.replace(b"Length: 4", b"Length: 5000")
    connection.data_received(head + body)
    await turn()
    connection.data_received(head)
    connection.data_received(body[:2500])
    connection.data_received(body[2500:] + head + body)
    await turn()
    assert transport.written.count(b"HTTP/1.1 200") == 3
    assert bench.cuts() == {}
    connection.timeout_keep_alive_handler()


async def test_some_requests_at_once_are_no_long_head(bench: Bench) -> None:
    connection, transport = bench.connect()
    connection.data_received((HEAD + b"body") * 30 + HEAD[:20])
    for _ in range(30):
        await turn()
    connection.data_received(HEAD[20:] + b"body")
    await turn()
    assert transport.written.count(b"HTTP/1.1 200") == 31
    assert bench.cuts() == {}
    connection.timeout_keep_alive_handler()


async def test_more_requests_at_once_than_anybody_needs(bench: Bench) -> None:
    connection, transport = bench.connect()
    connection.data_received((HEAD + b"body") * 1000)
    assert (transport.closed, transport.written, bench.cuts()) == (True, b"", {"too_many_pipelined": 1.0})
    assert len(connection.pipeline) <= 32
    await turn()
    connection.connection_lost(None)


async def test_nonsense_after_a_long_body_is_malformed(bench: Bench) -> None:
    connection, transport = bench.connect()
    connection.data_received(HEAD.replace(b"Length: 4", b"Length: 5000") + b"x" * 5000 + b"\x16\x03\x01")
    assert transport.closed
    assert bench.cuts() == {"malformed": 1.0}
    connection.connection_lost(None)


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/9\r\n\r\n", b"GET / HTTP/1.1\r\nA b\r\n\r\n"]
)
async def test_what_is_not_http(bench: Bench, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    connection, transport = bench.connect()
    connection.data_received(sent)
    assert (transport.closed, code(transport.written)) == (True, (400, "malformed"))
    assert bench.cuts() == {"malformed": 1.0}
    assert not any(map(is_worth_logging, caplog.records))


async def test_one_connection_too_many(bench: Bench) -> None:
    for _ in range(3):
        assert not bench.connect()[1].closed
    _, transport = bench.connect()
    assert (transport.closed, code(transport.written)) == (True, (503, "too_many_connections"))
    assert bench.cuts() == {"too_many_connections": 1.0}


async def test_leaving_cancels_what_is_done_for_the_client_without_a_watcher(bench: Bench) -> None:
    ended = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import ClientDisconnect, Request

        request = Request(scope, receive)
        await request.body()
        try:
            with UntilDisconnect(request) as watch:
                assert watch._timer is None
                await asyncio.Event().wait()
        except ClientDisconnect:
            ended.set()
            raise

    bench.config.loaded_app = slow
    connection, _ = bench.connect()
    connection.data_received(HEAD + b"body")
    await turn()
    connection.connection_lost(None)
    await ended.wait()


async def test_leaving_when_nobody_works(bench: Bench) -> None:
    for sent in (b"", HEAD, HEAD + b"body"):
        connection, _ = bench.connect()
        connection.data_received(sent)
        await turn()
        connection.connection_lost(None)
        await turn()
    assert bench.cuts() == {}


def test_other_lines_are_worth_logging() -> None:
    record = logging.LogRecord("uvicorn.error", logging.INFO, "", 0, "Shutting down", None, None)
    assert is_worth_logging(record)


def test_the_limits_are_the_settings() -> None:
    limits = ConnectionLimits.from_settings(Settings(max_connections=7, body_timeout_seconds=3))
    assert (limits.max_connections, limits.seconds["body"], limits.seconds["header"]) == (7, 3.0, 10.0)
