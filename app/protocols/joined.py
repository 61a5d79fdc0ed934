"""Head and body of an answer in one call to the system.

uvicorn writes them one after the other, and each write is a call, a packet, and a client that is woken: a
fifth of what the event loop does for a short text.
"""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites:
    """A transport that keeps a write until the next one of the same turn of the event loop, at most.

    What else it is asked goes to the transport it is put before.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._kept = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send this with what was kept, or keep it until the turn ends."""
        if self._kept:
            kept, self._kept = self._kept, b""
            self._transport.write(kept + data)
        elif data:
            self._kept = data
            self._loop.call_soon(self._send)

    def close(self) -> None:
        """Send what was kept, and close."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close at once: what was kept is lost as well."""
        self._kept = b""
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return len(self._kept) + self._transport.get_write_buffer_size()

    def _send(self) -> None:
        kept, self._kept = self._kept, b""
        if kept:
            self._transport.write(kept)
