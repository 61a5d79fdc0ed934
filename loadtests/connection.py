"""A small HTTP/1.1 client over kept-alive connections: request bytes in, status and body out.

A general client costs the generator more CPU for each request than a small model costs the service, and
on the machine of both that CPU is the service's. Here a request is bytes prepared before the clock starts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import cast

import httptools


class BrokenConnectionError(Exception):
    """The server closed the connection, refused it, or answered what is not HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection; one request at a time is on its way."""

    def __init__(self) -> None:
        self.closed = True
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Answer] | None = None
        self._status = 0
        self._chunks: list[bytes] = []

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future fails with BrokenConnectionError if no whole answer comes."""
        self._waiting = asyncio.get_running_loop().create_future()
        if self._transport is None or self.closed:
            self._fail("the connection is closed")
        else:
            self._transport.write(request)
        return self._waiting

    def abort(self) -> None:
        """Hang up at once."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from asyncio's
        self.closed = False

    def data_received(self, data: bytes) -> None:
        """asyncio: a part of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: closed. An answer of neither length nor chunks would end here; it counts as half a one."""
        self.closed = True
        self._fail(f"closed before the answer ({error})")

    def on_headers_complete(self) -> None:
        """httptools: the head of an answer was read."""
        self._status = self._parser.get_status_code()

    def on_body(self, chunk: bytes) -> None:
        """httptools: a part of its body was."""
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        """httptools: all of it was."""
        answer = Answer(self._status, b"".join(self._chunks))
        self._status, self._chunks = 0, []
        if not self._parser.should_keep_alive():
            self.abort()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def _fail(self, reason: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(BrokenConnectionError(reason))


class Pool:
    """At most `limit` connections to one port of this machine; the last one used is used first."""

    def __init__(self, host: str, port: int, limit: int) -> None:
        self._host, self._port, self._free = host, port, limit
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def ask(self, request: bytes) -> Answer:
        """Send a request over a free connection, waiting for one if there is none.

        Raises:
            BrokenConnectionError: no whole answer came.
        """
        await self._take_place()
        try:
            connection = await self._connection()
            return await self._ask(connection, request)
        finally:
            self._leave_place()

    def close(self) -> None:
        """Hang up all connections."""
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        self._idle.clear()

    async def _ask(self, connection: Connection, request: bytes) -> Answer:
        self._busy.add(connection)
        answered = False
        try:
            answer = await connection.ask(request)
            answered = True
            return answer
        finally:
            self._busy.discard(connection)
            if not answered:
                connection.abort()
            elif not connection.closed:
                self._idle.append(connection)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, self._host, self._port)
        except OSError as error:
            raise BrokenConnectionError(str(error)) from error
        return connection

    async def _take_place(self) -> None:
        if self._free:
            self._free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._leave_place()  # the place came at the moment we gave up
            raise

    def _leave_place(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
