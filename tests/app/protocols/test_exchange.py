from __future__ import annotations

import re

import pytest

from app import logs
from app.errors import BusyError
from app.protocols.exchange import request_id
from tests.app.conftest import Serve

pytestmark = pytest.mark.anyio
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
PART = re.compile(r"(total|queue|tokenize|inference);dur=(\d+\.\d{3})")


def parts(header: str) -> dict[str, float]:
    matches = [PART.fullmatch(part) for part in header.split(", ")]
    return {match[1]: float(match[2]) for match in matches if match}


async def test_every_answer_says_how_long_it_took(serve: Serve) -> None:
    async with serve() as running:
        for path in ("/health/live", "/nowhere", "/docs", "/v1/models"):
            assert parts((await running.http.get(path)).headers["server-timing"]).keys() == {"total"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/predict", {"inputs": ["good", "bad"]}),
        ("/", {"inputs": "good"}),
        ("/predict", {"inputs": "good"}),
        (
            "/v2/models/tiny/infer",
            {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]},
        ),
    ],
)
async def test_predictions_of_every_dialect_say_where_the_time_went(
    serve: Serve, path: str, body: object
) -> None:
    async with serve() as running:
        reply = await running.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    found = parts(reply.headers["server-timing"])
    assert found.keys() == {"total", "queue", "tokenize", "inference"}
    assert found["total"] >= found["inference"] > 0


async def test_the_header_is_the_bodys_timing(serve: Serve) -> None:
    async with serve() as running:
        reply = await running.predict()
    found, timing = parts(reply.headers["server-timing"]), reply.json()["timing"]
    for name in ("queue", "tokenize", "inference"):
        assert found[name] == pytest.approx(timing[f"{name}_ms"], abs=0.0011)


async def test_a_refused_prediction_has_its_total(serve: Serve) -> None:
    async with serve() as running:
        reply = await running.predict("good", version=7)
    assert parts(reply.headers["server-timing"]).keys() == {"total"}


async def test_every_answer_is_private_and_plain(serve: Serve) -> None:
    async with serve() as running:
        for reply in (await running.http.get("/nowhere"), await running.predict()):
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert not [name for name in reply.headers if name.startswith("access-control")]
            assert "server" not in reply.headers


async def test_headers_do_not_pile_up_on_a_response_that_is_used_again(serve: Serve) -> None:
    async with serve() as running:
        replies = [await running.http.get("/health/live") for _ in range(3)]
    assert len({len(reply.headers.raw) for reply in replies}) == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({b"x-request-id": b"abc-1"}, "abc-1"),
        ({b"x-request-id": b"abc-1", b"traceparent": TRACEPARENT.encode()}, "abc-1"),
        ({b"x-request-id": b"a b", b"traceparent": TRACEPARENT.encode()}, TRACE),
        ({b"traceparent": TRACEPARENT.encode()}, TRACE),
        ({b"traceparent": TRACEPARENT.encode() + b"-what-later-versions-add"}, TRACE),
    ],
)
def test_the_id_is_the_clients_or_its_traces(headers: dict[bytes, bytes], expected: str) -> None:
    assert request_id(headers) == expected


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        TRACE,
        TRACEPARENT.upper(),
        TRACEPARENT.replace(TRACE, "0" * 32),
        TRACEPARENT.replace("b7ad6b7169203331", "0" * 16),
        "ff" + TRACEPARENT[2:],
        TRACEPARENT[:-1],
        TRACEPARENT + "x",
    ],
)
def test_a_trace_that_is_none_names_nothing(traceparent: str) -> None:
    found = request_id({b"traceparent": traceparent.encode()})
    assert re.fullmatch("[0-9a-f]{32}", found) and found != TRACE


def test_ids_differ() -> None:
    assert len({request_id({}) for _ in range(1000)}) == 1000


async def test_texts_are_logged_when_asked_for_and_only_then(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with serve() as running:
        await running.predict("zebra")
        assert "zebra" not in caplog.text
        monkeypatch.setattr(logs.TEXTS, "disabled", False)
        await running.predict(["zebra", "gnu"])
    (record,) = [record for record in caplog.records if record.name == "bertpress.texts"]
    assert record.__dict__["bertpress_fields"] == {"texts": ["zebra", "gnu"]}


async def test_no_text_is_run_that_its_client_may_not_ask(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(client: str, texts: int) -> None:
        raise BusyError(f"{client} asked {texts}", retry_after_seconds=1.0)

    async with serve() as running:
        monkeypatch.setattr(running.parts.gate, "charge", refuse)
        reply = await running.predict(["good", "bad"])
    assert (reply.status_code, reply.json()["error"]["message"]) == (429, "127.0.0.1 asked 2")
