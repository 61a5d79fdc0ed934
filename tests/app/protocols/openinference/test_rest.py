from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.protocols.openinference.json_tensors import HEADER_LENGTH
from app.protocols.openinference.tensors import decode_texts, encode_texts
from tests.app.conftest import ADMIN, Running, Serve
from tests.app.protocols.flat import SECRET, flat_error
from tests.app.tiny import publish

pytestmark = pytest.mark.anyio
INFER = "/v2/models/tiny/infer"


@pytest.fixture
async def running(serve: Serve) -> AsyncIterator[Running]:
    async with serve() as running:
        yield running


def document(texts: Sequence[str] = ("a great film", "bad"), **changes: object) -> dict[str, Any]:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}
    return {"inputs": [{**tensor, **changes}]}


def binary(texts: list[str]) -> tuple[bytes, dict[str, str]]:
    """A body with the texts behind the JSON, and the header that tells where they begin."""
    blob = encode_texts(texts)
    tensor: dict[str, object] = {"name": "text", "datatype": "BYTES", "shape": [len(texts)]}
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": len(blob)}}]}
    encoded = json.dumps(head).encode()
    return encoded + blob, {HEADER_LENGTH: str(len(encoded))}


async def infer(running: Running, body: object) -> dict[str, Any]:
    reply = await running.http.post(INFER, json=body)
    assert reply.status_code == 200, reply.text
    given: dict[str, Any] = reply.json()
    return given


async def test_it_answers_as_the_native_dialect_does(running: Running) -> None:
    native = (await running.predict(["a great film", "bad"])).json()["predictions"]
    reply = await infer(running, document())
    assert (reply["model_name"], reply["model_version"]) == ("tiny", "1")
    assert "id" not in reply
    outputs = {each["name"]: each for each in reply["outputs"]}
    assert list(outputs) == ["label", "score", "probabilities", "logits"]
    assert outputs["label"]["data"] == [each["label"] for each in native]
    assert outputs["score"]["data"] == [each["score"] for each in native]
    flat = [value for each in native for value in each["probabilities"].values()]
    assert outputs["probabilities"]["data"] == flat
    assert [each["shape"] for each in outputs.values()] == [[2], [2], [2, 2], [2, 2]]


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [2, 1], "data": ["a great film", "bad"]},
        {"shape": [2, 1], "data": [["a great film"], ["bad"]]},
        {"shape": [2.0]},
        {"parameters": {"content_type": "str"}},
        {"parameters": None},
    ],
)
async def test_forms_of_the_same(running: Running, changes: dict[str, Any]) -> None:
    assert await infer(running, document(**changes)) == await infer(running, document())


async def test_what_comes_back(running: Running) -> None:
    body = {**document(), "id": "7", "outputs": [{"name": "score"}], "model_name": "another"}
    reply = await infer(running, body)
    assert (reply["id"], [each["name"] for each in reply["outputs"]]) == ("7", ["score"])
    assert len((await infer(running, {**document(), "outputs": []}))["outputs"]) == 4


async def test_versions(serve: Serve, repository: Path) -> None:
    publish(repository, version=2)
    async with serve(preload="tiny/1") as running:
        for version in (1, 2):
            path = f"/v2/models/tiny/versions/{version}"
            reply = await running.http.post(f"{path}/infer", json=document())
            assert reply.json()["model_version"] == str(version)
            assert (await running.http.get(path)).json()["versions"] == ["1", "2"]
            assert (await running.http.get(f"{path}/ready")).json() == {"name": "tiny", "ready": True}
        assert (await infer(running, document()))["model_version"] == "2"
        assert (await running.http.get("/v2/")).json() == (await running.http.get("/v2")).json()


async def test_texts_behind_the_json(running: Running) -> None:
    texts = ["a great film", "你好 🎬", "bad"]
    body, headers = binary(texts)
    reply = await running.http.post(INFER, content=body, headers=headers)
    plain = await infer(running, document(texts))
    assert reply.json() == plain
    for content, given in ((body, headers), (json.dumps(document(texts)).encode(), {})):
        packed = gzip.compress(content)
        reply = await running.http.post(INFER, content=packed, headers={"Content-Encoding": "gzip", **given})
        assert reply.json() == plain


async def test_outputs_behind_the_json(running: Running) -> None:
    plain = {each["name"]: each["data"] for each in (await infer(running, document()))["outputs"]}
    asked = {**document(), "parameters": {"binary_data_output": True}}
    asked["outputs"] = [
        {"name": "logits"},
        {"name": "score", "parameters": {"binary_data": False}},
        {"name": "label", "parameters": {"binary_data": True}},
    ]
    reply = await running.http.post(INFER, json=asked)
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers[HEADER_LENGTH])
    logits, score, label = json.loads(reply.content[:length])["outputs"]
    rest = reply.content[length:]
    assert score["data"] == plain["score"]
    assert "data" not in logits and "data" not in label
    size = logits["parameters"]["binary_data_size"]
    np.testing.assert_allclose(np.frombuffer(rest[:size], dtype="<f4"), plain["logits"], rtol=1e-6)
    assert decode_texts(rest[size:], 2) == plain["label"]
    assert label["parameters"]["binary_data_size"] == len(rest) - size


BAD: list[tuple[object, str]] = [
    ([], "the body must be an object"),
    ({}, "inputs must be a list of one tensor"),
    ({"inputs": []}, "inputs must be a list of one tensor"),
    ({"inputs": document()["inputs"] * 2}, "inputs must be a list of one tensor"),
    ({"inputs": [SECRET]}, "inputs[0] must be an object"),
    ({**document(), "raw": 1}, "the body has a field other than id"),
    ({**document(), "id": 7}, "id must be a string"),
    ({**document(), "parameters": [1]}, "parameters must be an object"),
    ({**document(), "parameters": {"temperature": 2}}, "parameters has a field other than timeout"),
    ({**document(), "parameters": {"timeout": -1}}, "timeout must be a whole number from 0 to 60000000"),
    ({**document(), "parameters": {"timeout": 60_000_001}}, "timeout must be a whole number from 0"),
    ({**document(), "parameters": {"priority": "high"}}, "priority must be a whole number from 0"),
    ({**document(), "parameters": {"binary_data_output": 1}}, "binary_data_output must be true or false"),
    ({**document(), "outputs": "label"}, "outputs must be a list"),
    ({**document(), "outputs": ["label"]}, "outputs[0] must be an object"),
    ({**document(), "outputs": [{"name": SECRET}]}, "outputs names another"),
    ({**document(), "outputs": [{"name": ["label"]}]}, "outputs names another"),
    ({**document(), "outputs": [{"name": "label"}] * 2}, "outputs names an output twice"),
    (
        {**document(), "outputs": [{"name": "label", "parameters": {"classification": 1}}]},
        "the parameters of label has a field other than binary_data",
    ),
    (document(name="input_ids"), "one input, text of datatype BYTES"),
    (document(datatype="INT64"), "one input, text of datatype BYTES"),
    (document(shape=[1]), "holds 2 texts, its shape says 1"),
    (document(shape=[3]), "holds 2 texts, its shape says 3"),
    (document(shape=[1, 2]), "must be [n] or [n, 1]"),
    (document(shape=[2, 1, 1]), "must be [n] or [n, 1]"),
    (document(shape=[]), "must be [n] or [n, 1]"),
    (document(shape=2), "must be [n] or [n, 1]"),
    (document(shape=[-1]), "must be [n] or [n, 1]"),
    (document(shape=[True]), "must be [n] or [n, 1]"),
    (document([], shape=[0]), "must be [n] or [n, 1]"),
    (document(data=SECRET), "needs data, a list of texts"),
    (document(data=None), "needs data, a list of texts"),
    (document(["good", ""]), "text[1] is empty"),
    (document(data=["good", 7]), "text[1] is not a string"),
    (document(data=["good", ["a", "b"]]), "text[1] is not a string"),
    (document(parameters={"shared_memory_region": "x"}), "the parameters of text has a field other than"),
    (document(parameters={"content_type": 7}), "content_type must be a string"),
    (document(parameters={"binary_data_size": 8}), "both data and binary_data_size"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
async def test_what_is_malformed(running: Running, body: object, message: str) -> None:
    reply = await running.http.post(INFER, json=body)
    assert message in flat_error(reply, 400, "invalid_request")["error"]


async def test_bytes_that_do_not_fit(running: Running) -> None:
    body, headers = binary(["good", "bad"])
    length = int(headers[HEADER_LENGTH])
    too_long = body[:length].replace(b'"shape": [2]', b'"shape": [3]') + body[length:]
    swollen = body[:length] + b"\xff\xff\xff\xff" + body[length + 4 :]
    not_utf8 = body[:-1] + b"\xff"
    for content, given, message in (
        (body, {}, f"{HEADER_LENGTH} must give its length"),
        (body, {HEADER_LENGTH: "abc"}, "must be a number of bytes"),
        (body, {HEADER_LENGTH: "9" * 30}, "must be a number of bytes"),
        (body, {HEADER_LENGTH: str(len(body) + 1)}, "must be a number of bytes"),
        (body, {HEADER_LENGTH: str(length - 1)}, "JSON is not valid"),
        (body[:-1], headers, "binary_data_size is 15, 14 bytes follow"),
        (body + b"x", headers, "binary_data_size is 15, 16 bytes follow"),
        (too_long, headers, "holds 2 texts, its shape says 3"),
        (swollen, headers, "text[0] ends before the length"),
        (not_utf8, headers, "text[1] is not UTF-8"),
        (
            json.dumps(document()).encode() + b"x",
            {HEADER_LENGTH: str(len(json.dumps(document())))},
            "bytes follow",
        ),
        (body, {**headers, "Content-Encoding": "br"}, "Content-Encoding must be gzip"),
        (body, {**headers, "Content-Encoding": "gzip"}, "not gzip data"),
    ):
        reply = await running.http.post(INFER, content=content, headers=given)
        assert message in flat_error(reply, 400, "invalid_request")["error"], message


async def test_limits(running: Running) -> None:
    for content, headers in (
        (json.dumps(document(["a"] * 129)).encode(), {}),
        binary(["a"] * 129),
        (gzip.compress(b" " * 2_000_000), {"Content-Encoding": "gzip"}),
        (b" " * 2_000_000, {}),
    ):
        reply = await running.http.post(INFER, content=content, headers=headers)
        flat_error(reply, 413, "limit_exceeded")
    assert (await running.http.post(INFER, json=document())).status_code == 200


async def test_sequences_are_refused(running: Running) -> None:
    body = {**document(), "parameters": {"sequence_id": 1, "sequence_start": True}}
    flat_error(await running.http.post(INFER, json=body), 422, "unsupported_input")


async def test_a_timeout_in_microseconds(running: Running, hold: Any) -> None:
    hold(running.default)
    body = {**document(), "parameters": {"timeout": 200_000, "priority": 3}}
    flat_error(await running.http.post(INFER, json=body), 504, "deadline_exceeded")


@pytest.mark.parametrize("tail", ["", "/ready", "/versions/9", "/versions/x/ready", "/versions/0"])
async def test_models_that_do_not_exist(running: Running, tail: str) -> None:
    for name in ("absent", "TINY", "a%00") if "versions" not in tail else ("tiny",):
        flat_error(await running.http.get(f"/v2/models/{name}{tail}"), 404, "unknown_model")


async def test_a_version_that_is_not_loaded(running: Running, repository: Path) -> None:
    publish(repository, version=2)
    await running.http.get("/v1/models")
    for path in ("/v2/models/tiny/versions/2", "/v2/models/tiny/versions/2/ready"):
        flat_error(await running.http.get(path), 409, "not_loaded")


async def repository_call(running: Running, path: str, **options: Any) -> httpx.Response:
    return await running.http.post(f"/v2/repository/{path}", **{"headers": ADMIN, **options})


async def test_the_repository_is_the_operators(serve: Serve) -> None:
    paths = ("index", "models/tiny/load", "models/tiny/unload")
    async with serve() as running:
        for path in paths:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                flat_error(await repository_call(running, path, headers=headers), 401, "authentication")
    async with serve(admin_token=None) as running:
        for path in paths:
            flat_error(await repository_call(running, path), 403, "admin_disabled")


async def test_the_index(running: Running, repository: Path) -> None:
    publish(repository, version=2)
    (publish(repository, version=3) / "manifest.json").write_text("{")
    rows = (await repository_call(running, "index")).json()
    assert [(row["version"], row["state"]) for row in rows] == [
        ("1", "READY"),
        ("2", "UNAVAILABLE"),
        ("3", "UNAVAILABLE"),
    ]
    assert rows[0]["reason"] == rows[1]["reason"] == ""
    assert "manifest" in rows[2]["reason"]
    assert (await repository_call(running, "index", json={"ready": True})).json() == rows[:1]
    flat_error(await repository_call(running, "index", content=b"{"), 400, "invalid_request")
    flat_error(await repository_call(running, "index", json={"ready": 1}), 400, "invalid_request")
    flat_error(await repository_call(running, "index", json={"all": True}), 400, "invalid_request")


async def test_load_takes_the_highest_and_promotes_it(running: Running, repository: Path) -> None:
    publish(repository, version=2)
    publish(repository, version=10)
    reply = await repository_call(running, "models/tiny/load", json={"parameters": {}})
    assert [(row["version"], row["state"]) for row in reply.json()] == [
        ("1", "READY"),
        ("2", "UNAVAILABLE"),
        ("10", "READY"),
    ]
    assert str(running.default.key) == "tiny/10"
    assert (await repository_call(running, "models/tiny/load")).status_code == 200


async def test_a_load_that_fails_changes_nothing(running: Running, repository: Path) -> None:
    publish(repository, version=2, probe_shift=1.0)
    flat_error(await repository_call(running, "models/tiny/load"), 422, "probe")
    assert str(running.default.key) == "tiny/1"
    flat_error(await repository_call(running, "models/absent/load"), 404, "unknown_model")
    body = {"parameters": {"config": "{}"}}
    flat_error(await repository_call(running, "models/tiny/load", json=body), 422, "unsupported_input")


async def test_unload_takes_every_version_but_never_the_default(running: Running, repository: Path) -> None:
    publish(repository, version=2)
    publish(repository, "other", 1)
    await running.admin("load", 2)
    flat_error(await repository_call(running, "models/tiny/unload"), 409, "conflict")
    assert len(running.parts.registry.loaded) == 2
    await repository_call(running, "models/other/load")
    body = {"parameters": {"unload_dependents": False}}
    rows = (await repository_call(running, "models/tiny/unload", json=body)).json()
    assert [row["state"] for row in rows] == ["UNAVAILABLE", "UNAVAILABLE"]
    assert [str(variant.key) for variant in running.parts.registry.loaded] == ["other/1"]
    flat_error(await repository_call(running, "models/tiny/unload"), 409, "not_loaded")
    flat_error(await repository_call(running, "models/absent/unload"), 404, "unknown_model")
    for wrong in ({"parameters": {"unload_dependents": 1}}, {"parameters": {"x": 1}}, {"parameters": 1}, [1]):
        flat_error(await repository_call(running, "models/tiny/unload", json=wrong), 400, "invalid_request")
