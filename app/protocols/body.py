"""Reading a request's body: bounded while it streams in, and strict JSON."""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from starlette.requests import ClientDisconnect, Request

from app.errors import InvalidRequestError, LimitExceededError


async def read_json(request: Request, max_bytes: int) -> object:
    """Parse the body.

    Raises:
        LimitExceededError: it is longer than `max_bytes`, whatever Content-Length says.
        InvalidRequestError: it is not JSON in UTF-8.
    """
    body = await read_body(request, max_bytes)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # orjson's own message can hold no input, its position helps
        raise InvalidRequestError(
            f"the body is not valid JSON in UTF-8 (line {error.lineno}, column {error.colno}); "
            'send {"inputs": "text"}'
        ) from None


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Collect the body, giving up at the first byte too many. A slow one is the connection's affair.

    Raises:
        LimitExceededError: it is longer than `max_bytes`.
        ClientDisconnect: the client left before it was whole.
    """
    _check_declared(request.scope["headers"], max_bytes)
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > max_bytes:
            raise _too_long(max_bytes)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_declared(headers: Iterable[tuple[bytes, bytes]], max_bytes: int) -> None:
    """A body that says itself that it is too long is not even begun."""
    for name, value in headers:
        if name == b"content-length":
            if value.isdigit() and int(value[:20]) > max_bytes:
                raise _too_long(max_bytes)
            return


def _too_long(max_bytes: int) -> LimitExceededError:
    return LimitExceededError(
        f"the body is longer than {max_bytes} bytes (BERTPRESS_MAX_BODY_BYTES); send fewer or shorter texts",
        limit=max_bytes,
    )
