from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import aio, service_pb2
from tritonclient.utils import InferenceServerException

from app import errors
from app.main import create_app
from app.protocols.openinference.grpc_server import CODES, code_of
from app.protocols.openinference.messages import INFERENCE, build
from app.settings import Settings
from tests.app.conftest import until
from tests.app.test_main import make, subclasses

ROOT = Path(__file__).parents[4]


def test_every_error_has_a_code() -> None:
    for kind in subclasses(errors.BertpressError):
        assert code_of(make(kind)) is not None
    for index, (kind, _) in enumerate(CODES):
        assert not any(issubclass(kind, earlier) for earlier, _ in CODES[:index])


def test_what_a_client_can_cause_is_no_internal_error() -> None:
    names = {code_of(make(kind)).name for kind in subclasses(errors.RequestError)[1:]}
    assert names == {"INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize("name", sorted(INFERENCE))
def test_our_messages_are_the_published_ones(name: str) -> None:
    """Against the stubs that NVIDIA generates from the published proto: the wires must not differ."""
    nested = {
        "TensorMetadata": service_pb2.ModelMetadataResponse.TensorMetadata,
        "InferInputTensor": service_pb2.ModelInferRequest.InferInputTensor,
        "InferRequestedOutputTensor": service_pb2.ModelInferRequest.InferRequestedOutputTensor,
        "InferOutputTensor": service_pb2.ModelInferResponse.InferOutputTensor,
        "ModelIndex": service_pb2.RepositoryIndexResponse.ModelIndex,
    }
    published = (nested.get(name) or getattr(service_pb2, name)).DESCRIPTOR
    ours = build("inference", INFERENCE)[name].DESCRIPTOR

    def shape(descriptor: object) -> dict[str, tuple[int, int, str | None]]:
        return {
            field.name: (
                field.number,
                field.type,
                field.containing_oneof.name if field.containing_oneof else None,
            )
            for field in descriptor.fields  # type: ignore[attr-defined]
        }

    assert shape(ours) == shape(published)


def test_grpc_is_loaded_only_where_it_is_asked_for() -> None:
    code = "import sys, app.main; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_missing_extra_is_named(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "app.protocols.openinference.grpc_server")
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(errors.SettingsError, match=r"pip install 'bertpress\[grpc\]'"):
        create_app(make_settings(grpc_port=0))


@pytest.mark.anyio
async def test_a_port_that_is_taken(make_settings: Callable[..., Settings]) -> None:
    failures: list[Exception] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        app = create_app(make_settings(grpc_port=taken.getsockname()[1]), failures.append)
        async with app.router.lifespan_context(app):
            await app.state.start
    assert len(failures) == 1
    assert "choose another --host or --grpc-port" in str(failures[0])


@pytest.mark.anyio
async def test_what_was_admitted_is_answered_before_it_closes(
    make_settings: Callable[..., Settings], hold: Any
) -> None:
    app = create_app(make_settings(grpc_port=0))
    async with AsyncExitStack() as stack:
        lifespan = app.router.lifespan_context(app)
        await lifespan.__aenter__()
        await app.state.start
        address = f"127.0.0.1:{app.state.grpc.port}"
        client = await stack.enter_async_context(aio.InferenceServerClient(address))
        engine = hold(app.state.parts.registry.default)
        tensor = triton.InferInput("text", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"good"], dtype=np.object_))
        call = asyncio.ensure_future(client.infer("tiny", [tensor]))
        await asyncio.to_thread(engine.entered.wait)

        closing = asyncio.ensure_future(lifespan.__aexit__(None, None, None))
        await until(lambda: app.state.parts.admission.closed)
        engine.release()
        assert (await call).as_numpy("label").shape == (1,)
        await closing
        with pytest.raises(InferenceServerException):
            await client.infer("tiny", [tensor])
