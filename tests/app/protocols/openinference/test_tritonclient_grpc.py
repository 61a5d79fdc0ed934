"""NVIDIA's tritonclient over gRPC against the service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from tests.app.conftest import ADMIN, FailingEngine
from tests.app.protocols.conftest import Live
from tests.app.tiny import publish

TEXTS = ["a great film", "terrible and boring", "good"]
OPERATOR = {name.lower(): value for name, value in ADMIN.items()}
KEY = "a-key-of-the-shop-01"


@pytest.fixture
def service(live: Callable[..., Live]) -> Live:
    return live(grpc_port=0)


@pytest.fixture
def client(service: Live) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.grpc_address) as client:
        yield client


def texts_input(texts: list[str] = TEXTS, *, wide: bool = False) -> Any:
    values = np.array([text.encode() for text in texts], dtype=np.object_)
    values = values.reshape(-1, 1) if wide else values
    return triton.InferInput("text", list(values.shape), "BYTES").set_data_from_numpy(values)


def outputs(*names: str) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name) for name in names]


def refusal(ask: Callable[[], Any]) -> tuple[str, str]:
    """The code and the message that a call ends with."""
    with pytest.raises(InferenceServerException) as caught:
        ask()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_server_and_model_tell_of_themselves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("absent")
    assert client.get_server_metadata().name == "bertpress"
    metadata = client.get_model_metadata("tiny", as_json=True)
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": ["-1"]}]
    assert [each["name"] for each in metadata["outputs"]] == ["label", "score", "probabilities", "logits"]
    code, message = refusal(lambda: client.get_model_metadata("tiny", "2"))
    assert code == "NOT_FOUND" and "has no version 2" in message
    assert refusal(lambda: client.get_model_metadata("tiny", "two"))[0] == "NOT_FOUND"


@pytest.mark.parametrize("wide", [False, True])
def test_it_answers_as_over_rest(service: Live, client: triton.InferenceServerClient, wide: bool) -> None:
    result = client.infer("tiny", [texts_input(wide=wide)], request_id="7")
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("7", "tiny", "1")
    variant = service.default
    for index, text in enumerate(TEXTS):
        logits = variant.run([variant.tokenizer.encode(text).input_ids])[0]
        np.testing.assert_allclose(result.as_numpy("logits")[index], logits, rtol=1e-4)
    assert result.as_numpy("probabilities").shape == (3, 2)
    np.testing.assert_array_equal(result.as_numpy("probabilities").max(axis=1), result.as_numpy("score"))
    names = np.array([b"negative", b"positive"])
    assert list(result.as_numpy("label")) == list(names[result.as_numpy("logits").argmax(axis=1)])


def test_only_what_was_asked_for(client: triton.InferenceServerClient) -> None:
    result = client.infer("tiny", [texts_input()], outputs=outputs("score", "label"))
    assert [each.name for each in result.get_response().outputs] == ["score", "label"]
    assert result.as_numpy("score").shape == (3,)
    code, message = refusal(lambda: client.infer("tiny", [texts_input()], outputs=outputs("embedding")))
    assert code == "INVALID_ARGUMENT" and "outputs names another" in message


def test_priority_and_timeout(client: triton.InferenceServerClient) -> None:
    assert client.infer("tiny", [texts_input()], priority=1, timeout=5_000_000).as_numpy("label").shape == (
        3,
    )
    code, message = refusal(lambda: client.infer("tiny", [texts_input()], timeout=10**12))
    assert code == "INVALID_ARGUMENT" and "timeout must be a whole number" in message
    assert refusal(lambda: client.infer("tiny", [texts_input()], sequence_id=5))[0] == "INVALID_ARGUMENT"


def test_refusals_have_codes(client: triton.InferenceServerClient) -> None:
    assert refusal(lambda: client.infer("absent", [texts_input()]))[0] == "NOT_FOUND"
    assert refusal(lambda: client.infer("tiny", [texts_input(["good", " "])])) == (
        "INVALID_ARGUMENT",
        "text[1] is empty; every text needs a character that is not space",
    )
    code, message = refusal(lambda: client.infer("tiny", [texts_input(["good"] * 129)]))
    assert code == "INVALID_ARGUMENT" and "at most 128" in message


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_no_message_is_longer_than_a_body(client: triton.InferenceServerClient, compression: str) -> None:
    def ask(letters: int) -> Any:
        texts = texts_input(["x" * letters])
        return client.infer("tiny", [texts], compression_algorithm=compression)

    assert ask(90_000).as_numpy("label").shape == (1,)
    assert refusal(lambda: ask(2_000_000))[0] == "RESOURCE_EXHAUSTED"
    assert ask(90_000).as_numpy("label").shape == (1,)


def test_a_call_ends_with_its_deadline(
    service: Live, client: triton.InferenceServerClient, hold: Any
) -> None:
    hold(service.default)
    assert (
        refusal(lambda: client.infer("tiny", [texts_input()], client_timeout=0.2))[0] == "DEADLINE_EXCEEDED"
    )
    assert refusal(lambda: client.infer("tiny", [texts_input()], timeout=200_000))[0] == "DEADLINE_EXCEEDED"
    wait_for(lambda: service.parts.admission.in_flight == 0)
    assert service.parts.scheduler.waiting_rows() == 0


def test_who_leaves_is_not_worked_for(service: Live, client: triton.InferenceServerClient, hold: Any) -> None:
    engine = hold(service.default)
    call = client.async_infer("tiny", [texts_input()], callback=lambda **_: None)
    engine.entered.wait()
    call.cancel()
    wait_for(lambda: service.parts.admission.in_flight == 0)
    engine.release()
    assert client.infer("tiny", [texts_input()]).as_numpy("label").shape == (3,)


def test_a_fault_tells_nothing(service: Live, client: triton.InferenceServerClient) -> None:
    service.default.session.engine = FailingEngine()
    code, message = refusal(lambda: client.infer("tiny", [texts_input(["zebra"])]))
    assert code == "INTERNAL" and "zebra" not in message


def test_too_many_at_once(live: Callable[..., Live], hold: Any) -> None:
    service = live(grpc_port=0, max_requests=1)
    engine = hold(service.default)
    with triton.InferenceServerClient(service.grpc_address) as client:
        done = threading.Event()
        client.async_infer("tiny", [texts_input()], callback=lambda **_: done.set())
        engine.entered.wait()
        assert refusal(lambda: client.infer("tiny", [texts_input()]))[0] == "RESOURCE_EXHAUSTED"
        engine.release()
        done.wait()


def test_the_repository(client: triton.InferenceServerClient, repository: Path) -> None:
    publish(repository, version=2)
    publish(repository, "other", 5)
    for ask in (
        lambda: client.load_model("tiny"),
        lambda: client.unload_model("tiny"),
        lambda: client.get_model_repository_index(),
        lambda: client.load_model("tiny", headers={"authorization": "Bearer wrong"}),
    ):
        assert refusal(ask)[0] == "UNAUTHENTICATED"
    index = client.get_model_repository_index(headers=OPERATOR).models
    assert [(row.name, row.version, row.state) for row in index] == [
        ("other", "5", "UNAVAILABLE"),
        ("tiny", "1", "READY"),
        ("tiny", "2", "UNAVAILABLE"),
    ]
    client.load_model("tiny", headers=OPERATOR)
    assert client.infer("tiny", [texts_input()]).get_response().model_version == "2"
    assert refusal(lambda: client.unload_model("tiny", headers=OPERATOR))[0] == "FAILED_PRECONDITION"
    client.load_model("other", headers=OPERATOR)
    client.unload_model("tiny", headers=OPERATOR, unload_dependents=True)
    assert not client.is_model_ready("tiny")
    assert refusal(lambda: client.infer("tiny", [texts_input()]))[0] == "FAILED_PRECONDITION"
    config = '{"max_batch_size": 1}'
    code, message = refusal(lambda: client.load_model("tiny", headers=OPERATOR, config=config))
    assert code == "INVALID_ARGUMENT" and "no configuration" in message


def test_the_repository_without_a_token(live: Callable[..., Live]) -> None:
    service = live(grpc_port=0, admin_token=None)
    with triton.InferenceServerClient(service.grpc_address) as client:
        assert refusal(lambda: client.load_model("tiny", headers=OPERATOR))[0] == "PERMISSION_DENIED"


def test_keys_and_rates_are_asked_for_here_too(live: Callable[..., Live]) -> None:
    service = live(grpc_port=0, api_keys=f"shop:{KEY}", rate_limit_texts=0.01, max_texts=4)
    with triton.InferenceServerClient(service.grpc_address) as client:
        assert client.is_server_live()
        assert refusal(lambda: client.infer("tiny", [texts_input()]))[0] == "UNAUTHENTICATED"
        headers = {"authorization": f"Bearer {KEY}"}
        assert client.infer("tiny", [texts_input()], headers=headers).as_numpy("label").shape == (3,)
        code, message = refusal(lambda: client.infer("tiny", [texts_input()], headers=headers))
        assert code == "RESOURCE_EXHAUSTED" and "texts a second" in message


def test_calls_are_counted_and_named(service: Live) -> None:
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(service.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        _, call = stub.ModelReady.with_call(
            service_pb2.ModelReadyRequest(name="tiny"), metadata=(("x-request-id", "abc"),)
        )
        assert dict(call.trailing_metadata())["x-request-id"] == "abc"
        malformed = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            malformed(b"\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    text = service.parts.metrics.render().decode()
    assert 'route="/inference.GRPCInferenceService/ModelReady",status="200"' in text
    assert 'route="/inference.GRPCInferenceService/ModelInfer",status="400"' in text


def test_health_as_kubernetes_asks_for_it(service: Live) -> None:
    with grpc.insecure_channel(service.grpc_address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01"
        service.parts.admission.close()
        assert check(b"") == b"\x08\x02"
        with pytest.raises(grpc.RpcError) as caught:
            check(b"\x0a\x05other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_while_closing_it_says_so(service: Live, client: triton.InferenceServerClient) -> None:
    service.parts.admission.close()
    assert client.is_server_live()
    assert not client.is_server_ready()
    assert refusal(lambda: client.infer("tiny", [texts_input()]))[0] == "UNAVAILABLE"


def test_the_asynchronous_client(service: Live) -> None:
    async def infer() -> list[Any]:
        async with aio.InferenceServerClient(service.grpc_address) as client:
            return list(await asyncio.gather(*(client.infer("tiny", [texts_input()]) for _ in range(5))))

    labels = [result.as_numpy("label").tolist() for result in asyncio.run(infer())]
    assert labels == [labels[0]] * 5


def wait_for(condition: Callable[[], bool]) -> None:
    """Until the service's thread has come so far."""
    while not condition():
        threading.Event().wait(0.01)
