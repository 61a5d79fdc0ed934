from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.errors import EngineError
from app.variant import Variant
from tests.app.conftest import ADMIN, Serve

pytestmark = pytest.mark.anyio


async def test_ready_names_what_serves(serve: Serve) -> None:
    async with serve() as running:
        assert (await running.http.get("/health/live")).json() == {"status": "live"}
        assert (await running.http.get("/health/ready")).json() == {
            "status": "ready",
            "model": "tiny",
            "version": 1,
        }


async def test_not_ready_before_the_probes_are_passed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, released = threading.Event(), threading.Event()

    def slow_probe(*_: Any) -> tuple[int, float]:
        entered.set()
        released.wait()
        return 1, 0.001

    monkeypatch.setattr(Variant, "check_probe", slow_probe)
    async with serve(wait=False) as running:
        await asyncio.to_thread(entered.wait)
        assert (await running.http.get("/health/live")).status_code == 200
        reply = await running.http.get("/health/ready")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "not_ready")
        assert (await running.predict()).status_code == 503
        assert "bertpress_ready 0.0" in await running.metrics()
        released.set()
        await running.app.state.start
        assert (await running.http.get("/health/ready")).status_code == 200
        assert "bertpress_ready 1.0" in await running.metrics()


async def test_not_ready_while_closing(serve: Serve) -> None:
    async with serve() as running:
        running.parts.admission.close()
        for reply in (await running.http.get("/health/ready"), await running.predict()):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "closing")
        assert (await running.http.get("/health/live")).status_code == 200


async def test_dead_when_the_workers_broke(serve: Serve) -> None:
    async with serve() as running:
        running.parts.scheduler.failure = EngineError("the workers failed")
        for path in ("/health/live", "/health/ready"):
            assert (await running.http.get(path)).status_code == 500
        assert (await running.predict()).status_code == 500


async def test_metrics_can_be_parsed_and_count(serve: Serve) -> None:
    async with serve() as running:
        await running.predict(["a great film", "bad"])
        await running.predict("good", timeout_ms=1, version=7)
        reply = await running.http.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain")
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(reply.text)
            for sample in family.samples
        }
    model = (("model", "tiny"), ("version", "1"))
    assert samples["bertpress_requests_total", model[0], ("outcome", "ok"), model[1]] == 1
    assert sum(value for key, value in samples.items() if key[0] == "bertpress_predictions_total") == 2
    assert samples["bertpress_tokens_total", *model] == 8
    for name in ("request", "queue", "tokenize"):
        assert samples[f"bertpress_{name}_duration_seconds_count", *model] == 1
    assert samples["bertpress_batch_rows_sum", *model] == 2
    assert samples["bertpress_input_tokens_sum", *model] == 8
    assert samples["bertpress_input_tokens_count", *model] == 2
    assert 1 <= samples["bertpress_confidence_sum", *model] <= 2
    assert samples["bertpress_queue_age_seconds", *model] == 0
    assert samples["bertpress_resident_memory_bytes",] > 1e6
    assert samples["bertpress_queue_depth", *model] == 0
    assert samples["bertpress_model_default", *model] == 1
    assert samples["bertpress_requests_in_flight",] == 0


async def test_no_client_can_blow_the_metrics_up(serve: Serve) -> None:
    async with serve() as running:
        await running.metrics()
        for round_number in range(2):
            for number in range(30):
                token = f"{round_number}x{number}"
                await running.predict("good", model=token)
                await running.predict("good", version=number + 50)
                await running.predict(token)
                await running.http.get(f"/{token}", headers={"X-Request-Id": token, "User-Agent": token})
                await running.http.request(f"X{token}", "/v1/predict")
                await running.http.post(f"/admin/models/{token}/{number + 5}/load", headers=ADMIN)
                await running.http.post(f"/v1/predict?{token}=1", content=token)
            text = await running.metrics()
            lines = {line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}
            if round_number == 0:
                first = lines
        assert lines == first
        assert "0x3" not in text
