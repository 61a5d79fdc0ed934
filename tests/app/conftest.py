"""A published tiny version, and a running application around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from app.engines.base import Engine, Ids, Logits
from app.main import Parts, create_app
from app.settings import Settings
from app.variant import Variant
from tests.app.tiny import publish

TOKEN = "secret-of-the-operator"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that holds tiny/1."""
    root = tmp_path / "models"
    publish(root)
    return root


@pytest.fixture
def make_settings(repository: Path, tmp_path: Path) -> Callable[..., Settings]:
    def make(**overrides: Any) -> Settings:
        plain = {
            "models": repository,
            "state": tmp_path / "state.json",
            "admin_token": TOKEN,
            "tune": False,  # no passes but those that a test asks for
        }
        return Settings(**{**plain, **overrides})

    return make


@dataclass(frozen=True)
class Running:
    """An application that has started, and a client of it."""

    app: FastAPI
    http: httpx.AsyncClient

    @property
    def parts(self) -> Parts:
        parts: Parts = self.app.state.parts
        return parts

    @property
    def default(self) -> Variant:
        assert isinstance(self.parts.registry.default, Variant)
        return self.parts.registry.default

    async def predict(self, inputs: object = "a great film", **fields: object) -> httpx.Response:
        return await self.http.post("/v1/predict", json={"inputs": inputs, **fields})

    async def admin(self, operation: str, version: object, name: str = "tiny") -> httpx.Response:
        return await self.http.post(f"/admin/models/{name}/{version}/{operation}", headers=ADMIN)

    async def metrics(self) -> str:
        return (await self.http.get("/metrics")).text


Serve = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def serve(make_settings: Callable[..., Settings]) -> Serve:
    """`async with serve(**settings) as running`: the default model is loaded when the block begins."""

    @asynccontextmanager
    async def run(wait: bool = True, **overrides: Any) -> AsyncIterator[Running]:
        app = create_app(make_settings(**overrides))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as http,
        ):
            if wait:
                await app.state.start
            yield Running(app, http)

    return run


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something is so."""
    while not condition():  # noqa: ASYNC110  nothing in the product signals this
        await asyncio.sleep(0)


class HeldEngine:
    """Lets no pass begin until `release`; then runs the engine it stands before."""

    description = "fake"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._released = threading.Event()
        self.entered = threading.Event()
        self.shapes: list[tuple[int, ...]] = []

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        self.shapes.append(input_ids.shape)
        self.entered.set()
        self._released.wait()
        return self._engine.logits(input_ids, attention_mask)

    def release(self) -> None:
        self._released.set()

    def close(self) -> None:
        self._engine.close()


class FailingEngine:
    """Fails every pass."""

    description = "fake"

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        raise RuntimeError(f"no luck with {input_ids.shape} and {attention_mask.shape}")

    def close(self) -> None:
        pass


class RecordingEngine:
    """Answers with the row's first two ids; remembers the shapes it saw."""

    description = "fake"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        self.shapes.append(input_ids.shape)
        return (input_ids * attention_mask)[:, :2].astype(np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def hold() -> Any:
    """`hold(variant)` puts a HeldEngine before its engine; all are released at the end."""
    held: list[HeldEngine] = []

    def hold_variant(variant: Variant) -> HeldEngine:
        engine = HeldEngine(variant.session.engine)
        variant.session.engine = engine
        held.append(engine)
        return engine

    yield hold_variant
    for engine in held:
        engine.release()
