from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.app.conftest import Running, Serve
from tests.app.protocols.flat import SECRET, flat_error

pytestmark = pytest.mark.anyio
LONG = "good " * 100


@pytest.fixture
async def running(serve: Serve) -> AsyncIterator[Running]:
    async with serve() as running:
        yield running


async def predict(running: Running, **body: object) -> Any:
    reply = await running.http.post("/predict", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_one_text_is_flat(running: Running) -> None:
    native = (await running.predict("a great film")).json()["predictions"][0]["probabilities"]
    labels = await predict(running, inputs="a great film")
    assert {each["label"]: each["score"] for each in labels} == native
    assert labels[0]["score"] > labels[1]["score"]
    assert await predict(running, inputs=["a great film"]) == labels


async def test_a_batch_is_nested(running: Running) -> None:
    batch = await predict(running, inputs=[["a great film"], ["bad"]])
    assert [[each.keys() for each in labels] for labels in batch] == [[{"label", "score"}] * 2] * 2
    assert await predict(running, inputs=[["bad"]]) == [await predict(running, inputs="bad")]


async def test_raw_scores_are_logits(running: Running) -> None:
    variant = running.default
    logits = variant.run([variant.tokenizer.encode("good").input_ids])[0].tolist()
    raw = await predict(running, inputs="good", raw_scores=True)
    assert {each["label"]: each["score"] for each in raw} == dict(
        zip(variant.manifest.labels, logits, strict=True)
    )
    assert await predict(running, inputs="good", raw_scores=False) == await predict(running, inputs="good")


@pytest.mark.parametrize("truncate", [{}, {"truncate": False}, {"truncate": None}])
async def test_a_text_too_long_is_refused(running: Running, truncate: dict[str, object]) -> None:
    for inputs in (LONG, [["good"], [LONG]]):
        reply = await running.http.post("/predict", json={"inputs": inputs, **truncate})
        error = flat_error(reply, 413, "limit_exceeded")
        assert (error["limit"], error["error_type"]) == (32, "Validation")
        assert '"truncate": true' in error["error"]


async def test_a_text_too_long_is_cut_where_that_is_asked_for(running: Running) -> None:
    native = (await running.predict(LONG)).json()["predictions"][0]
    assert native["truncated"]
    labels = await predict(running, inputs=LONG, truncate=True, truncation_direction="Right")
    assert labels[0]["score"] == native["score"]


@pytest.mark.parametrize(
    "inputs", [["good", SECRET], [["good", SECRET]], [["good"], ["bad", SECRET]], ["", ""]]
)
async def test_pairs_of_texts_are_refused(running: Running, inputs: object) -> None:
    reply = await running.http.post("/predict", json={"inputs": inputs})
    assert "pair" in flat_error(reply, 422, "unsupported_input")["error"]


@pytest.mark.parametrize("direction", ["left", "Left"])
async def test_cutting_from_the_left_is_refused(running: Running, direction: str) -> None:
    body = {"inputs": "good", "truncate": True, "truncation_direction": direction}
    flat_error(await running.http.post("/predict", json=body), 422, "unsupported_input")


BAD: list[tuple[object, str]] = [
    ("text", "object"),
    ({}, "inputs must be"),
    ({"inputs": []}, "inputs must be"),
    ({"inputs": 7}, "inputs must be"),
    ({"inputs": [[]]}, "inputs[0] is not a list of one text"),
    ({"inputs": [["good"], "bad"]}, "inputs[1] is not a list of one text"),
    ({"inputs": [["a", "b", "c"]]}, "inputs[0] is not a list of one text"),
    ({"inputs": [7]}, "inputs[0] is not a list of one text"),
    ({"inputs": [[7]]}, "inputs[0] is not a string"),
    ({"inputs": ["a", "b", SECRET]}, 'a batch is [["a"], ["b"]]'),
    ({"inputs": " "}, "inputs[0] is empty"),
    ({"inputs": "good", "truncate": "yes"}, "truncate must be true or false"),
    ({"inputs": "good", "raw_scores": 1}, "raw_scores must be true or false"),
    ({"inputs": "good", "truncation_direction": "up"}, "truncation_direction must be one of"),
    ({"inputs": "good", "parameters": {}}, "a field other than inputs, truncate"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
async def test_what_is_malformed(running: Running, body: object, message: str) -> None:
    reply = await running.http.post("/predict", json=body)
    assert message in flat_error(reply, 400, "invalid_request")["error"]


async def test_limits(running: Running) -> None:
    reply = await running.http.post("/predict", json={"inputs": [["good"]] * 129})
    assert flat_error(reply, 413, "limit_exceeded")["limit"] == 128


async def test_health_and_info(running: Running) -> None:
    assert (await running.http.get("/health")).json()["status"] == "ready"
    info = (await running.http.get("/info")).json()
    assert (info["model_id"], info["model_sha"], info["max_input_length"]) == ("tiny", "1", 32)
    assert info["model_type"]["classifier"] == {
        "id2label": {"0": "negative", "1": "positive"},
        "label2id": {"negative": 0, "positive": 1},
    }
    running.parts.admission.close()
    for path in ("/health", "/info"):
        assert flat_error(await running.http.get(path), 503, "closing")["error_type"] == "Unhealthy"
