from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from app.errors import InvalidRequestError, LimitExceededError
from app.protocols.body import read_body, read_json

pytestmark = pytest.mark.anyio


def request(*chunks: bytes, headers: Any = (), ends: bool = True) -> tuple[Request, list[Any]]:
    """A request whose body comes in these chunks, and the messages nobody has read yet."""
    messages: list[Any] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if ends:
        messages[-1]["more_body"] = False
    else:
        messages.append({"type": "http.disconnect"})

    async def receive() -> Any:
        return messages.pop(0)

    return Request({"type": "http", "headers": list(headers)}, receive), messages


@pytest.mark.parametrize("chunks", [[b""], [b"abc"], [b"a", b"", b"bc"], [b"", b"abc", b""]])
async def test_a_body_in_any_pieces(chunks: list[bytes]) -> None:
    body, messages = request(*chunks)
    assert await read_body(body, 3) == b"".join(chunks)
    assert messages == []


async def test_the_first_byte_too_many_is_the_last_one_read() -> None:
    body, messages = request(b"abc", b"d", b"e")
    with pytest.raises(LimitExceededError, match="longer than 3 bytes") as caught:
        await read_body(body, 3)
    assert (caught.value.limit, len(messages)) == (3, 1)


@pytest.mark.parametrize("declared", [b"4", b"9" * 5000, b"00004"])
async def test_a_body_that_says_it_is_too_long_is_not_begun(declared: bytes) -> None:
    body, messages = request(b"abcd", headers=[(b"host", b"x"), (b"content-length", declared)])
    with pytest.raises(LimitExceededError):
        await read_body(body, 3)
    assert len(messages) == 1


@pytest.mark.parametrize("declared", [b"3", b"", b"x", "٣".encode(), b"-9"])
async def test_what_is_declared_is_never_believed(declared: bytes) -> None:
    headers = [(b"content-length", declared)]
    assert await read_body(request(b"abc", headers=headers)[0], 3) == b"abc"
    with pytest.raises(LimitExceededError):
        await read_body(request(b"abcd", headers=headers)[0], 3)


async def test_who_leaves_in_the_middle() -> None:
    with pytest.raises(ClientDisconnect):
        await read_body(request(b"ab", ends=False)[0], 3)


async def test_json() -> None:
    assert await read_json(request(b'{"a": ', b"1}")[0], 100) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"zebra", b'"\xff"', b"NaN"])
async def test_what_is_no_json_is_not_repeated(content: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"line 1, column \d") as caught:
        await read_json(request(content)[0], 100)
    assert "zebra" not in str(caught.value)
