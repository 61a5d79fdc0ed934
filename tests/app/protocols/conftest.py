"""The application behind a real socket, for the clients that people already have."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from app.main import Parts, create_app
from app.settings import Settings
from app.variant import Variant


@dataclass(frozen=True)
class Live:
    """A running service; `address` is host:port."""

    app: FastAPI
    address: str

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.app.state.grpc.port}"

    @property
    def parts(self) -> Parts:
        parts: Parts = self.app.state.parts
        return parts

    @property
    def default(self) -> Variant:
        assert isinstance(self.parts.registry.default, Variant)
        return self.parts.registry.default


class _Server(uvicorn.Server):
    """Says when it and the default model are ready."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=30))
        self.app, self.ready = app, threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await self.app.state.start
        self.ready.set()


@pytest.fixture
def live(make_settings: Callable[..., Settings]) -> Iterator[Callable[..., Live]]:
    """`live(**settings)` serves until the test ends."""
    running: list[tuple[_Server, threading.Thread]] = []

    def start(**overrides: Any) -> Live:
        app = create_app(make_settings(**overrides))
        listener = socket.create_server(("127.0.0.1", 0))
        server = _Server(app)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        running.append((server, thread))
        while not server.ready.wait(0.05):
            assert thread.is_alive(), "the service did not start"
        return Live(app, f"127.0.0.1:{listener.getsockname()[1]}")

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()
