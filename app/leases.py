"""Who still needs something: counted in and out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Leases:
    """Holders of something that must not go while they need it. Lives on the event loop."""

    def __init__(self) -> None:
        self.held = 0
        self._none_held = asyncio.Event()
        self._none_held.set()

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Need it for the length of the block."""
        self.held += 1
        self._none_held.clear()
        try:
            yield
        finally:
            self.held -= 1
            if not self.held:
                self._none_held.set()

    async def all_returned(self) -> None:
        """Wait until nobody needs it. Who hands out no new leases meanwhile can rely on the answer."""
        await self._none_held.wait()
