"""Bodies that come compressed, opened within the limit that plain ones have."""

from __future__ import annotations

import zlib

from app.errors import InvalidRequestError, LimitExceededError

# zlib's own numbering: 16 added means gzip's header instead of zlib's
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


def decompress(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """The body as it was before Content-Encoding; no more than `max_bytes` are ever held.

    Raises:
        InvalidRequestError: another encoding than gzip or deflate, or not data of that encoding.
        LimitExceededError: the body is longer than `max_bytes` once opened.
    """
    if not encoding or encoding == "identity":
        return body
    window = _WINDOWS.get(encoding.strip().lower())
    if window is None:
        raise InvalidRequestError("Content-Encoding must be gzip, deflate or identity")
    stream = zlib.decompressobj(window)
    try:
        opened = stream.decompress(body, max_bytes + 1)
    except zlib.error:
        raise InvalidRequestError(f"the body is not {encoding.strip().lower()} data") from None
    if len(opened) > max_bytes:
        raise LimitExceededError(
            f"the body is longer than {max_bytes} bytes once decompressed (BERTPRESS_MAX_BODY_BYTES); "
            "send fewer or shorter texts",
            limit=max_bytes,
        )
    if not stream.eof or stream.unused_data:
        raise InvalidRequestError("the compressed body is cut off, or something follows it")
    return opened
