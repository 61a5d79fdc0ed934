from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from app.protocols.joined import JoinedWrites

pytestmark = pytest.mark.anyio


class Transport:
    """Keeps every call as it came."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def get_write_buffer_size(self) -> int:
        return 7

    def get_extra_info(self, name: str) -> str:
        return f"{name} of the socket"


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
async def joined(transport: Transport) -> JoinedWrites:
    return JoinedWrites(cast("asyncio.Transport", transport), asyncio.get_running_loop())


async def test_head_and_body_go_together(joined: JoinedWrites, transport: Transport) -> None:
    joined.write(b"head ")
    assert transport.calls == []
    joined.write(b"body")
    assert transport.calls == [b"head body"]
    await asyncio.sleep(0)
    assert transport.calls == [b"head body"]


async def test_what_comes_alone_goes_when_the_turn_ends(joined: JoinedWrites, transport: Transport) -> None:
    joined.write(b"head")
    await asyncio.sleep(0)
    assert transport.calls == [b"head"]
    joined.write(b"body")
    await asyncio.sleep(0)
    assert transport.calls == [b"head", b"body"]


async def test_a_third_write_of_one_turn_keeps_its_place(joined: JoinedWrites, transport: Transport) -> None:
    for piece in (b"one ", b"two ", b"three ", b"", b"four ", b"five"):
        joined.write(piece)
    await asyncio.sleep(0)
    assert b"".join(transport.calls) == b"one two three four five"


async def test_closing_sends_what_was_kept(joined: JoinedWrites, transport: Transport) -> None:
    joined.write(b"last words")
    joined.close()
    await asyncio.sleep(0)
    assert transport.calls == [b"last words", "close"]


async def test_aborting_does_not(joined: JoinedWrites, transport: Transport) -> None:
    joined.write(b"last words")
    joined.abort()
    await asyncio.sleep(0)
    assert transport.calls == ["abort"]


async def test_what_is_kept_counts_as_not_sent(joined: JoinedWrites) -> None:
    joined.write(b"12345")
    assert joined.get_write_buffer_size() == 12
    assert joined.get_extra_info("peername") == "peername of the socket"
