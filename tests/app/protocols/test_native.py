from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.app.conftest import FailingEngine, Running, Serve, until
from tests.app.tiny import publish

pytestmark = pytest.mark.anyio
SECRET = "zebra-of-the-input"


async def error_of(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check what every error must be."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    error: dict[str, Any] = reply.json()["error"]
    assert reply.json().keys() == {"error"}
    assert error.keys() == {"code", "message", "limit", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == reply.headers["x-request-id"]
    assert SECRET not in reply.text
    assert len(reply.content) < 1000
    return error


@pytest.fixture
async def running(serve: Serve) -> AsyncIterator[Running]:
    async with serve() as running:
        yield running


async def test_one_text(running: Running) -> None:
    reply = (await running.predict("a great film")).json()
    assert (reply["model"], reply["version"], len(reply["predictions"])) == ("tiny", 1, 1)
    prediction = reply["predictions"][0]
    assert prediction.keys() == {"label", "score", "probabilities", "tokens", "truncated"}
    assert prediction["probabilities"].keys() == {"negative", "positive"}
    assert sum(prediction["probabilities"].values()) == pytest.approx(1)
    assert prediction["score"] == max(prediction["probabilities"].values())
    assert prediction["probabilities"][prediction["label"]] == prediction["score"]
    assert (prediction["tokens"], prediction["truncated"]) == (5, False)
    assert reply["timing"].keys() == {"queue_ms", "tokenize_ms", "inference_ms", "total_ms"}
    assert reply["timing"]["total_ms"] >= reply["timing"]["inference_ms"] > 0


async def test_several_texts_come_back_in_order(running: Running) -> None:
    texts = ["good", "this movie was terrible and boring", "a", "watch it", "bad " * 100]
    together = (await running.predict(texts)).json()["predictions"]
    for text, answer in zip(texts, together, strict=True):
        alone = (await running.predict(text)).json()["predictions"][0]
        assert alone["label"] == answer["label"]
        assert alone["score"] == pytest.approx(answer["score"], abs=1e-5)
        assert alone["tokens"] == answer["tokens"]
    assert together[-1]["truncated"]
    assert together[-1]["tokens"] == 32


async def test_the_answer_is_the_models(running: Running) -> None:
    variant = running.default
    logits = variant.run([variant.tokenizer.encode("a great film").input_ids])[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    found = (await running.predict("a great film")).json()["predictions"][0]["probabilities"]
    assert list(found.values()) == pytest.approx(list(expected))


async def test_many_labels(serve: Serve, repository: Path) -> None:
    publish(repository, "stars", 1, labels=("one", "two", "three"))
    async with serve(default_model="stars") as running:
        prediction = (await running.predict()).json()["predictions"][0]
        assert list(prediction["probabilities"]) == ["one", "two", "three"]


async def test_naming_model_and_version(running: Running) -> None:
    for fields in ({"model": "tiny"}, {"version": 1}, {"model": "tiny", "version": 1}, {"model": None}):
        assert (await running.predict("good", **fields)).status_code == 200


async def test_long_texts_go_through_a_thread(running: Running) -> None:
    reply = await running.predict(["great film " * 500] * 3)
    assert [prediction["truncated"] for prediction in reply.json()["predictions"]] == [True] * 3


@pytest.mark.parametrize(
    "text", ["\x00", "\u200b\u200d", "你好", "🎬" * 50, "x" * 5000, "\ufffd", "[CLS] [PAD]"]
)
async def test_odd_texts_are_answered(running: Running, text: str) -> None:
    assert (await running.predict(text)).status_code == 200


NOT_JSON = [
    b"",
    b"{",
    b"hello " + SECRET.encode(),
    b'{"inputs": "' + SECRET.encode() + b'\xff"}',
    b'{"inputs": "\\ud800"}',
    b'{"inputs": NaN}',
    b'{"inputs": ["a",]}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'\xef\xbb\xbf{"inputs": "a"}',
    '{"inputs": "good"}'.encode("utf-16"),
]


@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
async def test_what_is_not_json(running: Running, body: bytes) -> None:
    reply = await running.http.post("/v1/predict", content=body)
    await error_of(reply, 400, "invalid_request")
    assert (await running.predict()).status_code == 200


BAD_DOCUMENTS: list[tuple[object, str]] = [
    (None, "object"),
    ([SECRET], "object"),
    (SECRET, "object"),
    (7, "object"),
    ({}, "inputs must be"),
    ({"inputs": None}, "inputs must be"),
    ({"inputs": 7}, "inputs must be"),
    ({"inputs": {"text": SECRET}}, "inputs must be"),
    ({"inputs": []}, "inputs must be"),
    ({"inputs": ""}, r"inputs[0] is empty"),
    ({"inputs": " \n\t\u00a0"}, r"inputs[0] is empty"),
    ({"inputs": ["good", SECRET, ""]}, r"inputs[2] is empty"),
    ({"inputs": ["good", 7]}, r"inputs[1] is not a string"),
    ({"inputs": ["good", ["nested"]]}, r"inputs[1] is not a string"),
    ({"inputs": ["good", None]}, r"inputs[1] is not a string"),
    ({"inputs": "good", "model": 7}, "model must be a string"),
    ({"inputs": "good", "model": [SECRET]}, "model must be a string"),
    ({"inputs": "good", "version": True}, "version must be a whole number"),
    ({"inputs": "good", "version": "1"}, "version must be a whole number"),
    ({"inputs": "good", "version": 1.5}, "version must be a whole number"),
    ({"inputs": "good", "version": 0}, "version must be a whole number"),
    ({"inputs": "good", "version": -1}, "version must be a whole number"),
    ({"inputs": "good", "version": 2**31}, "version must be a whole number from 1 to 2147483647"),
    ({"inputs": "good", "timeout_ms": 60_001}, "timeout_ms must be a whole number from 1 to 60000"),
    ({"inputs": "good", "timeout_ms": 0}, "timeout_ms must be a whole number"),
    ({"inputs": "good", "timeout_ms": "soon"}, "timeout_ms must be a whole number"),
    ({"inputs": "good", "timeout_ms": False}, "timeout_ms must be a whole number"),
    ({"inputs": "good", SECRET: 1}, "a field other than inputs, model, version, timeout_ms"),
]


@pytest.mark.parametrize(("document", "message"), BAD_DOCUMENTS)
async def test_what_is_malformed(running: Running, document: object, message: str) -> None:
    reply = await running.http.post("/v1/predict", content=json.dumps(document))
    assert message in (await error_of(reply, 400, "invalid_request"))["message"]


@pytest.mark.parametrize("number", [b"99999999999999999999999999", b"1e400", b"-99999999999999999999999"])
async def test_huge_numbers(running: Running, number: bytes) -> None:
    reply = await running.http.post("/v1/predict", content=b'{"inputs": "good", "version": ' + number + b"}")
    await error_of(reply, 400, "invalid_request")


async def test_a_repeated_field_counts_once(running: Running) -> None:
    reply = await running.http.post("/v1/predict", content=b'{"inputs": 7, "inputs": "good"}')
    assert reply.status_code == 200


LIMITS: list[tuple[dict[str, object], int]] = [
    ({"inputs": ["good"] * 10_000}, 128),
    ({"inputs": [SECRET] * 129}, 128),
    ({"inputs": SECRET * 10_000}, 100_000),
    ({"inputs": SECRET * 600_000}, 1_000_000),
]


@pytest.mark.parametrize(("document", "limit"), LIMITS)
async def test_limits_are_named(running: Running, document: dict[str, object], limit: int) -> None:
    reply = await running.http.post("/v1/predict", json=document)
    error = await error_of(reply, 413, "limit_exceeded")
    assert error["limit"] == limit
    assert str(limit) in error["message"]
    assert (await running.predict()).status_code == 200


async def test_as_many_as_allowed(running: Running) -> None:
    assert len((await running.predict(["good"] * 128)).json()["predictions"]) == 128


async def test_limits_are_settings(serve: Serve) -> None:
    async with serve(max_texts=2, max_text_chars=5, max_body_bytes=100) as running:
        assert (await running.predict(["good"] * 3)).json()["error"]["limit"] == 2
        assert (await running.predict("longer")).json()["error"]["limit"] == 5
        assert (await running.predict("x" * 100)).json()["error"]["limit"] == 100


async def test_a_chunked_body_is_cut_off(running: Running) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 100_000
            yield b" " * 100_000

    await error_of(await running.http.post("/v1/predict", content=endless()), 413, "limit_exceeded")
    assert sent <= 1_200_000


@pytest.mark.parametrize("length", ["99999999999", "9" * 500])
async def test_content_length_is_believed_when_it_is_too_much(running: Running, length: str) -> None:
    reply = await running.http.post("/v1/predict", content=b"{}", headers={"content-length": length})
    await error_of(reply, 413, "limit_exceeded")


@pytest.mark.parametrize("length", ["3", "-1", "many", ""])
async def test_content_length_that_lies_helps_nobody(running: Running, length: str) -> None:
    body = b'{"inputs": "' + b"x" * 1_000_000 + b'"}'
    reply = await running.http.post("/v1/predict", content=body, headers={"content-length": length})
    await error_of(reply, 413, "limit_exceeded")


async def test_unknown_models_and_versions(running: Running) -> None:
    for fields in (
        {"model": "absent"},
        {"model": ""},
        {"version": 9},
        {"model": "../tiny"},
        {"model": "a\n"},
    ):
        await error_of(await running.predict("good", **fields), 404, "unknown_model")
    await error_of(await running.predict("good", model="m" * 100_000), 404, "unknown_model")


async def test_a_version_that_is_not_loaded(running: Running, repository: Path) -> None:
    publish(repository, version=2)
    await running.http.get("/v1/models")
    error = await error_of(await running.predict(version=2), 409, "not_loaded")
    assert "POST /admin/models/tiny/2/load" in error["message"]


async def test_an_expired_request(running: Running, hold: Any) -> None:
    hold(running.default)
    await error_of(await running.predict(timeout_ms=200), 504, "deadline_exceeded")
    assert running.parts.scheduler.waiting_rows() == 0
    assert running.parts.admission.in_flight == 0
    assert running.default.leases.held == 0


async def test_expired_before_it_could_start(running: Running) -> None:
    for _ in range(100):
        running.default.session.cost.observe(1, 32, 1000.0)
    error = await error_of(await running.predict("bad " * 100, timeout_ms=1), 504, "deadline_exceeded")
    assert "timeout_ms" in error["message"]


async def test_too_many_at_once(serve: Serve, hold: Any) -> None:
    async with serve(max_requests=2) as running:
        engine = hold(running.default)
        admitted = [asyncio.ensure_future(running.predict()) for _ in range(2)]
        await until(lambda: running.parts.admission.in_flight == 2)
        reply = await running.predict()
        await error_of(reply, 429, "busy")
        assert int(reply.headers["retry-after"]) >= 1
        engine.release()
        assert [reply.status_code for reply in await asyncio.gather(*admitted)] == [200, 200]


async def test_a_full_queue(serve: Serve, hold: Any) -> None:
    async with serve(max_queue_texts=2, max_texts=2, sessions=1, max_batch_rows=1, coalesce=False) as running:
        engine = hold(running.default)
        admitted = [asyncio.ensure_future(running.predict("good"))]
        await asyncio.to_thread(engine.entered.wait)
        admitted.append(asyncio.ensure_future(running.predict(["good", "bad"])))
        await until(lambda: running.parts.scheduler.waiting_rows() == 2)
        reply = await running.predict()
        assert "BERTPRESS_MAX_QUEUE_TEXTS" in (await error_of(reply, 429, "busy"))["message"]
        assert int(reply.headers["retry-after"]) >= 1
        engine.release()
        assert [reply.status_code for reply in await asyncio.gather(*admitted)] == [200, 200]


async def test_an_engine_that_fails_is_a_500_without_details_of_the_input(running: Running) -> None:
    sound, running.default.session.engine = running.default.session.engine, FailingEngine()
    await error_of(await running.predict(SECRET), 500, "engine")
    running.default.session.engine = sound
    assert (await running.predict()).status_code == 200


async def test_the_list_of_models(running: Running, repository: Path) -> None:
    publish(repository, version=2)
    models = (await running.http.get("/v1/models")).json()["models"]
    assert [(model["version"], model["state"], model["default"]) for model in models] == [
        (1, "ready", True),
        (2, "available", False),
    ]
    assert models[0]["build"] == "onnx-fp32"
    assert models[0]["labels"] == ["negative", "positive"]
    assert models[1]["build"] is None
