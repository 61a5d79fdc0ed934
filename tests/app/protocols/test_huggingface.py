from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import Running, Serve, until
from tests.app.protocols.flat import SECRET, flat_error
from tests.app.tiny import publish

pytestmark = pytest.mark.anyio


@pytest.fixture
async def running(serve: Serve) -> AsyncIterator[Running]:
    async with serve() as running:
        yield running


async def scores(running: Running, **body: object) -> Any:
    reply = await running.http.post("/", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_one_text_is_a_list_in_a_list(running: Running) -> None:
    native = (await running.predict("a great film")).json()["predictions"][0]["probabilities"]
    (labels,) = await scores(running, inputs="a great film")
    assert {each["label"]: each["score"] for each in labels} == native
    assert labels[0]["score"] > labels[1]["score"]


async def test_several_texts_come_back_in_order(running: Running) -> None:
    texts = ["a great film", "bad", "watch it"]
    together = await scores(running, inputs=texts)
    for text, labels in zip(texts, together, strict=True):
        (alone,) = await scores(running, inputs=text)
        assert [each["label"] for each in labels] == [each["label"] for each in alone]
        assert labels[0]["score"] == pytest.approx(alone[0]["score"], abs=1e-5)


async def test_top_k(serve: Serve, repository: Path) -> None:
    publish(repository, "stars", 1, labels=("one", "two", "three"))
    async with serve(default_model="stars") as running:
        (every,) = await scores(running, inputs="good", parameters={"top_k": None})
        assert [each["score"] for each in every] == sorted((each["score"] for each in every), reverse=True)
        for top_k in (1, 2, 3, 99):
            (labels,) = await scores(running, inputs="good", parameters={"top_k": top_k})
            assert labels == every[:top_k]


async def test_the_logits_are_the_models(running: Running) -> None:
    variant = running.default
    logits = variant.run([variant.tokenizer.encode("good").input_ids])[0].tolist()
    (raw,) = await scores(running, inputs="good", parameters={"function_to_apply": "none"})
    assert {each["label"]: each["score"] for each in raw} == dict(
        zip(variant.manifest.labels, logits, strict=True)
    )


@pytest.mark.parametrize(
    "body",
    [
        {"parameters": {}},
        {"parameters": None, "options": None},
        {"options": {"wait_for_model": True, "use_cache": False, "use_gpu": False}},
    ],
)
async def test_what_clients_send_without_meaning_it(running: Running, body: dict[str, object]) -> None:
    assert await scores(running, inputs="good", **body) == await scores(running, inputs="good")


BAD: list[tuple[object, str]] = [
    ([SECRET], "object"),
    ({}, "inputs must be"),
    ({"inputs": []}, "inputs must be"),
    ({"inputs": {"text": SECRET}}, "inputs must be"),
    ({"inputs": ""}, "inputs[0] is empty"),
    ({"inputs": ["good", [SECRET]]}, "inputs[1] is not a string"),
    ({"inputs": "good", "model": "tiny"}, "a field other than inputs, parameters, options"),
    ({"inputs": "good", "parameters": 7}, "parameters must be an object"),
    ({"inputs": "good", "parameters": {"truncation": SECRET}}, "parameters has a field other than top_k"),
    ({"inputs": "good", "parameters": {"top_k": 0}}, "top_k must be a whole number from 1"),
    ({"inputs": "good", "parameters": {"top_k": "1"}}, "top_k must be a whole number from 1"),
    ({"inputs": "good", "parameters": {"top_k": True}}, "top_k must be a whole number from 1"),
    ({"inputs": "good", "parameters": {"function_to_apply": "relu"}}, "one of softmax, sigmoid, none"),
    ({"inputs": "good", "parameters": {"function_to_apply": [SECRET]}}, "one of softmax, sigmoid, none"),
    ({"inputs": "good", "options": {"wait_for_model": SECRET}}, "wait_for_model must be true or false"),
    ({"inputs": "good", "options": {"stream": True}}, "options has a field other than"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
async def test_what_is_malformed(running: Running, body: object, message: str) -> None:
    assert message in flat_error(await running.http.post("/", json=body), 400, "invalid_request")["error"]


@pytest.mark.parametrize(
    "inputs",
    [
        {"text": "good", "text_pair": SECRET},
        [{"text": "good", "text_pair": SECRET}],
        [["good", SECRET]],
        ["good", ["bad", SECRET]],
    ],
)
async def test_pairs_of_texts_are_refused(running: Running, inputs: object) -> None:
    reply = await running.http.post("/", json={"inputs": inputs})
    assert "pair" in flat_error(reply, 422, "unsupported_input")["error"]


async def test_what_is_no_json(running: Running) -> None:
    flat_error(await running.http.post("/", content=b"{"), 400, "invalid_request")


async def test_limits(running: Running) -> None:
    error = flat_error(await running.http.post("/", json={"inputs": ["a"] * 129}), 413, "limit_exceeded")
    assert (error["limit"], error["error_type"]) == (128, "Validation")
    flat_error(await running.http.post("/", json={"inputs": SECRET * 600_000}), 413, "limit_exceeded")


async def test_too_many_at_once(serve: Serve, hold: Any) -> None:
    async with serve(max_requests=1) as running:
        engine = hold(running.default)
        first = asyncio.ensure_future(running.predict())
        await until(lambda: running.parts.admission.in_flight == 1)
        reply = await running.http.post("/", json={"inputs": "good"})
        assert flat_error(reply, 429, "busy")["error_type"] == "Overloaded"
        assert int(reply.headers["retry-after"]) >= 1
        engine.release()
        assert (await first).status_code == 200


async def test_what_the_edge_refuses_looks_the_same(serve: Serve) -> None:
    async with serve(api_keys="shop:a-key-of-the-shop-01") as running:
        for path in ("/", "/predict", "/v2/models/tiny/infer", "/v2/repository/index"):
            reply = await running.http.post(path, json={"inputs": "good"})
            flat_error(reply, 401, "authentication")
    async with serve() as running:
        running.parts.admission.close()
        reply = await running.http.post("/", json={"inputs": "good"})
        assert flat_error(reply, 503, "closing")["error_type"] == "Unhealthy"


async def test_a_fault_looks_the_same(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.parts.service, "predict", lambda *_: 1 / 0)
    reply = await running.http.post("/", json={"inputs": SECRET})
    assert flat_error(reply, 500, "internal")["error_type"] == "Backend"


async def test_the_root_tells_where_things_are(running: Running) -> None:
    places = (await running.http.get("/")).json()
    assert places.pop("name") == "bertpress"
    assert places.pop("version")
    for path in places.values():
        assert (await running.http.get(path)).status_code == 200


async def test_the_root_takes_two_methods(running: Running) -> None:
    reply = await running.http.put("/", json={})
    flat_error(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, POST"
