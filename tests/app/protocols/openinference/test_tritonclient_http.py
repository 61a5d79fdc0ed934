"""NVIDIA's tritonclient over HTTP against the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from tests.app.conftest import ADMIN
from tests.app.protocols.conftest import Live
from tests.app.tiny import publish

TEXTS = ["a great film", "terrible and boring", "good"]


@pytest.fixture
def service(live: Callable[..., Live]) -> Live:
    return live()


@pytest.fixture
def client(service: Live) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.address) as client:
        yield client


def texts_input(texts: list[str] = TEXTS, *, binary: bool = True, wide: bool = False) -> Any:
    values = np.array([text.encode() for text in texts], dtype=np.object_)
    values = values.reshape(-1, 1) if wide else values
    tensor = triton.InferInput("text", list(values.shape), "BYTES")
    return tensor.set_data_from_numpy(values, binary_data=binary)


def outputs(*names: str, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def answers(result: Any) -> dict[str, np.ndarray[Any, Any]]:
    names = ("label", "score", "probabilities", "logits")
    return {name: result.as_numpy(name) for name in names if result.get_output(name) is not None}


def test_server_and_model_tell_of_themselves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("absent")
    assert client.get_server_metadata()["name"] == "bertpress"
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("tiny")
    assert metadata == client.get_model_metadata("tiny", "1")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert {each["name"]: each["shape"] for each in metadata["outputs"]} == {
        "label": [-1],
        "score": [-1],
        "probabilities": [-1, 2],
        "logits": [-1, 2],
    }


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True, None])
def test_tensors_as_json_and_as_bytes(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool | None, wide: bool
) -> None:
    wanted = None
    if binary_out is not None:
        wanted = outputs("label", "score", "probabilities", "logits", binary=binary_out)
    asked = [texts_input(binary=binary_in, wide=wide)]
    result = client.infer("tiny", asked, outputs=wanted, request_id="7")
    given = answers(result)
    assert {name: array.shape for name, array in given.items()} == {
        "label": (3,),
        "score": (3,),
        "probabilities": (3, 2),
        "logits": (3, 2),
    }
    assert given["probabilities"].dtype == given["logits"].dtype == given["score"].dtype == np.float32
    np.testing.assert_allclose(given["probabilities"].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(given["probabilities"].max(axis=1), given["score"])
    labels = [str(label, "utf-8") if isinstance(label, bytes) else label for label in given["label"]]
    names = np.array(["negative", "positive"])
    assert labels == list(names[given["logits"].argmax(axis=1)])
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("7", "tiny", "1")


def test_both_forms_say_the_same(client: triton.InferenceServerClient) -> None:
    as_json = client.infer("tiny", [texts_input(binary=False)], outputs=outputs("logits", binary=False))
    as_bytes = client.infer("tiny", [texts_input(binary=True)], outputs=outputs("logits", binary=True))
    np.testing.assert_array_equal(as_json.as_numpy("logits"), as_bytes.as_numpy("logits"))


def test_only_what_was_asked_for(client: triton.InferenceServerClient) -> None:
    mixed = [*outputs("score", binary=True), *outputs("label", binary=False)]
    assert answers(client.infer("tiny", [texts_input()], outputs=mixed)).keys() == {"score", "label"}
    with pytest.raises(InferenceServerException, match="outputs names another"):
        client.infer("tiny", [texts_input()], outputs=outputs("embedding", binary=True))
    with pytest.raises(InferenceServerException, match="parameters of label has a field other"):
        client.infer("tiny", [texts_input()], outputs=[triton.InferRequestedOutput("label", class_count=2)])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies(client: triton.InferenceServerClient, algorithm: str) -> None:
    plain = client.infer("tiny", [texts_input()])
    packed = client.infer(
        "tiny",
        [texts_input()],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(packed.as_numpy("logits"), plain.as_numpy("logits"))


def test_priority_and_timeout(client: triton.InferenceServerClient) -> None:
    assert client.infer("tiny", [texts_input()], priority=1, timeout=5_000_000).as_numpy("label").shape == (
        3,
    )
    with pytest.raises(InferenceServerException, match="timeout must be a whole number from 0 to 60000000"):
        client.infer("tiny", [texts_input()], timeout=10**12)
    with pytest.raises(InferenceServerException, match="keeps a state") as caught:
        client.infer("tiny", [texts_input()], sequence_id=5, sequence_start=True)
    assert caught.value.status() == "422"
    with pytest.raises(InferenceServerException, match="parameters has a field other than"):
        client.infer("tiny", [texts_input()], parameters={"temperature": 2})


def test_errors_are_read(client: triton.InferenceServerClient) -> None:
    for texts, message, status in (
        (["good", " "], r"text\[1\] is empty", "400"),
        (["good"] * 129, "at most 128", "413"),
    ):
        for binary in (False, True):
            with pytest.raises(InferenceServerException, match=message) as caught:
                client.infer("tiny", [texts_input(texts, binary=binary)])
            assert caught.value.status() == status
    with pytest.raises(InferenceServerException, match="no model 'absent'") as caught:
        client.infer("absent", [texts_input()])
    assert caught.value.status() == "404"


def test_several_at_a_time(client: triton.InferenceServerClient) -> None:
    results = [client.async_infer("tiny", [texts_input()]).get_result() for _ in range(5)]
    assert [list(result.as_numpy("score")) for result in results] == [list(results[0].as_numpy("score"))] * 5


def test_the_repository(service: Live, client: triton.InferenceServerClient, repository: Path) -> None:
    publish(repository, version=2)
    publish(repository, "other", 5)
    with pytest.raises(InferenceServerException, match="admin token") as caught:
        client.load_model("tiny")
    assert caught.value.status() == "401"

    index = client.get_model_repository_index(headers=dict(ADMIN))
    assert [(row["name"], row["version"], row["state"]) for row in index] == [
        ("other", "5", "UNAVAILABLE"),
        ("tiny", "1", "READY"),
        ("tiny", "2", "UNAVAILABLE"),
    ]
    client.load_model("tiny", headers=dict(ADMIN))
    assert client.is_model_ready("tiny", "2")
    assert client.infer("tiny", [texts_input()]).get_response()["model_version"] == "2"
    with pytest.raises(InferenceServerException, match="default model") as caught:
        client.unload_model("tiny", headers=dict(ADMIN))
    assert caught.value.status() == "409"

    client.load_model("other", headers=dict(ADMIN))
    assert service.parts.registry.default is not None
    assert service.parts.registry.default.key.name == "other"
    client.unload_model("tiny", headers=dict(ADMIN), unload_dependents=True)
    assert not client.is_model_ready("tiny")
    with pytest.raises(InferenceServerException, match="no version of tiny is loaded"):
        client.unload_model("tiny", headers=dict(ADMIN))
    with pytest.raises(InferenceServerException, match="no configuration"):
        client.load_model("tiny", headers=dict(ADMIN), config='{"max_batch_size": 1}')
    with pytest.raises(InferenceServerException, match="no model 'absent'"):
        client.load_model("absent", headers=dict(ADMIN))


def test_the_asynchronous_client(service: Live) -> None:
    async def infer() -> list[Any]:
        async with aio.InferenceServerClient(service.address) as client:
            assert await client.is_model_ready("tiny")
            return list(await asyncio.gather(*(client.infer("tiny", [texts_input()]) for _ in range(5))))

    results = asyncio.run(infer())
    assert [result.as_numpy("label").tolist() for result in results] == [
        results[0].as_numpy("label").tolist()
    ] * 5
