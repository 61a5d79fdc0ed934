from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from loadtests.connection import Answer, BrokenConnectionError, Pool

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Script:
    """A server that sends the same bytes for each request, and may hang up after them."""

    def __init__(self, answer: bytes, *, hang_up: bool = False) -> None:
        self.answer, self.hang_up = answer, hang_up
        self.connections: list[asyncio.Task[None]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.append(task)
        with contextlib.suppress(ConnectionError):
            while await reader.readline():
                while (await reader.readline()).strip():
                    pass
                for byte in self.answer:  # one at a time: a client must not count on whole packets
                    writer.write(bytes([byte]))
                await writer.drain()
                if self.hang_up:
                    break
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def pool_of(server: Script, limit: int = 4) -> AsyncIterator[Pool]:
    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    pool = Pool("127.0.0.1", listener.sockets[0].getsockname()[1], limit)
    try:
        yield pool
    finally:
        pool.close()
        listener.close()
        if server.connections:
            await asyncio.wait(server.connections)


def run(server: Script, use: Callable[[Pool], Awaitable[object]], limit: int = 4) -> object:
    async def within() -> object:
        async with pool_of(server, limit) as pool:
            return await use(pool)

    return asyncio.run(within())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 5\r\n\r\nshort",
        b"HTTP/1.1 418 I'm a teapot\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsho\r\n2\r\nrt\r\n0\r\n\r\n",
    ],
)
def test_answers_with_a_length_and_in_chunks_are_read_and_the_connection_kept(answer: bytes) -> None:
    server = Script(answer)

    async def twice(pool: Pool) -> list[Answer]:
        return [await pool.ask(REQUEST), await pool.ask(REQUEST)]

    assert run(server, twice) == [Answer(418, b"short")] * 2
    assert len(server.connections) == 1


def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    server = Script(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    async def twice(pool: Pool) -> list[Answer]:
        return [await pool.ask(REQUEST), await pool.ask(REQUEST)]

    assert run(server, twice) == [Answer(200, b"")] * 2
    assert len(server.connections) == 2


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"SSH-2.0-OpenSSH\r\n"]
)
def test_half_an_answer_or_none_or_another_protocol_is_an_error(answer: bytes) -> None:
    with pytest.raises(BrokenConnectionError):
        run(Script(answer, hang_up=True), lambda pool: pool.ask(REQUEST))


def test_nothing_listens_is_an_error(unused_port: int) -> None:
    with pytest.raises(BrokenConnectionError):
        asyncio.run(Pool("127.0.0.1", unused_port, 1).ask(REQUEST))


def test_no_more_connections_are_opened_than_allowed() -> None:
    server = Script(EMPTY)

    async def many(pool: Pool) -> int:
        return len(await asyncio.gather(*(pool.ask(REQUEST) for _ in range(20))))

    assert run(server, many, limit=2) == 20
    assert len(server.connections) == 2


def test_the_place_of_a_request_given_up_goes_to_the_next() -> None:
    server = Script(b"")  # never answers

    async def give_up_then_ask(pool: Pool) -> Answer:
        for waiting in (1, 2):  # one on its way, then one beside it that waits for the only connection
            asked = [asyncio.create_task(pool.ask(REQUEST)) for _ in range(waiting)]
            await asyncio.sleep(0)
            for task in asked:
                task.cancel()
            await asyncio.wait(asked)
        server.answer = EMPTY
        return await pool.ask(REQUEST)

    assert run(server, give_up_then_ask, limit=1) == Answer(200, b"")
