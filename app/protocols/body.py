"""Reading a request's body: bounded while it streams in, and strict JSON."""

from __future__ import annotations

import orjson
from starlette.requests import Request

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
            'send {"inputs": "text"} or {"inputs": ["text", ...]}'
        ) from None


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Collect the body, giving up at the first byte too many.

    Raises:
        LimitExceededError: it is longer than `max_bytes`.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise _too_long(max_bytes)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_long(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_long(max_bytes: int) -> LimitExceededError:
    return LimitExceededError(
        f"the body is longer than {max_bytes} bytes (BERTPRESS_MAX_BODY_BYTES); send fewer or shorter texts",
        limit=max_bytes,
    )
