"""Stops working for a client that is gone."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect, Request

# Watching costs a task; an answer that is ready by then needed none.
_WATCH_AFTER_SECONDS = 0.02

TELLS_DISCONNECT = "tells_disconnect"
"""In the ASGI scope's state where the server calls `on_disconnect` there, so that nobody need watch."""
ON_DISCONNECT = "on_disconnect"


class UntilDisconnect:
    """`with UntilDisconnect(request)`: cancels the block if the client leaves meanwhile.

    Raises ClientDisconnect from the block in that case. The body must have been read before.
    """

    __slots__ = ("_left", "_request", "_state", "_task", "_timer", "_watcher")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._state = request.scope.get("state", {})
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._left = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  coroutines of a request always run in a task
        self._task = task
        if TELLS_DISCONNECT in self._state:
            self._state[ON_DISCONNECT] = self._leave
        else:
            self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_SECONDS, self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state.pop(ON_DISCONNECT, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._left and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientDisconnect from error

    def _start(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self._left = True
        self._task.cancel()
