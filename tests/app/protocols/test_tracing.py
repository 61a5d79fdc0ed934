from __future__ import annotations

import builtins
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import app.main
from app.errors import SettingsError
from app.protocols import tracing
from app.protocols.tracing import Tracing, provider_of, start_tracing
from app.settings import Settings
from tests.app.conftest import Serve

pytestmark = pytest.mark.anyio
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What the application records, kept here instead of sent."""
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)
    exporter, provider = InMemorySpanExporter(), provider_of("1.2.3")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(app.main, "start_tracing", lambda *_: Tracing(provider))
    yield exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    found = exporter.get_finished_spans()
    assert len({span.name for span in found}) == len(found)
    return {span.name: span for span in found}


async def test_a_prediction_is_a_request_with_its_parts(serve: Serve, spans: InMemorySpanExporter) -> None:
    async with serve() as running:
        reply = await running.http.post(
            "/v1/predict?zebra=1", json={"inputs": ["good", "bad gnu"]}, headers={"X-Request-Id": "abc"}
        )
    found = by_name(spans)
    assert found.keys() == {"POST /v1/predict", "tokenize", "queue", "inference"}
    request = found["POST /v1/predict"]
    assert (request.kind, request.parent, request.status.status_code) == (
        SpanKind.SERVER,
        None,
        StatusCode.UNSET,
    )
    tokens = sum(prediction["tokens"] for prediction in reply.json()["predictions"])
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/predict",
        "http.response.status_code": 200,
        "bertpress.request_id": "abc",
        "bertpress.model": "tiny",
        "bertpress.version": 1,
        "bertpress.texts": 2,
        "bertpress.tokens": tokens,
    }
    assert found["inference"].attributes is not None
    assert found["inference"].attributes["bertpress.batch_rows"] in (1, 2)
    assert "zebra" not in str([span.to_json() for span in found.values()])


async def test_the_parts_lie_within_the_request_one_after_another(
    serve: Serve, spans: InMemorySpanExporter
) -> None:
    async with serve() as running:
        timing = (await running.predict()).json()["timing"]
    found = by_name(spans)
    request = found["POST /v1/predict"]
    times: list[int] = [request.start_time or 0]
    for name in ("tokenize", "queue", "inference"):
        span = found[name]
        assert span.parent is not None and span.parent.span_id == request.context.span_id
        assert span.context.trace_id == request.context.trace_id
        assert span.start_time is not None and span.end_time is not None
        times += [span.start_time, span.end_time]
        assert (span.end_time - span.start_time) / 1e6 == pytest.approx(timing[f"{name}_ms"], abs=0.01)
    times.append(request.end_time or 0)
    assert times == sorted(times)


async def test_a_clients_trace_goes_on(serve: Serve, spans: InMemorySpanExporter) -> None:
    async with serve() as running:
        await running.http.get("/v1/models", headers=SAMPLED)
    (span,) = spans.get_finished_spans()
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.context.trace_state.to_header() == "vendor=1"


async def test_a_trace_that_is_not_sampled_is_not_recorded(serve: Serve, spans: InMemorySpanExporter) -> None:
    async with serve() as running:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        await running.http.post("/v1/predict", json={"inputs": "good"}, headers=headers)
    assert spans.get_finished_spans() == ()


async def test_refusals_and_faults_are_told_apart(
    serve: Serve, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as running:
        await running.predict("good", version=7)
        monkeypatch.setattr(running.parts.service, "predict", lambda *_: 1 / 0)
        await running.http.post("/v1/predict", json={"inputs": "good"})
        await running.http.request("QUAGGA", "/okapi")
    refused, failed, strange = spans.get_finished_spans()
    assert (refused.status.status_code, failed.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert failed.attributes is not None and strange.attributes is not None
    assert failed.attributes["error.type"] == "500"
    assert strange.attributes["http.request.method"] == "_OTHER"
    assert strange.name == "other unmatched"


async def test_probes_and_scrapes_are_not_traced(serve: Serve, spans: InMemorySpanExporter) -> None:
    async with serve() as running:
        for path in ("/health/live", "/health/ready", "/metrics", "/v2/health/live"):
            await running.http.get(path)
    assert spans.get_finished_spans() == ()


class Collector:
    """Receives OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                collector.bodies.append((self.path, self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Stay silent."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.mark.parametrize("way", ["setting", "variable"])
async def test_spans_reach_a_collector(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    settings: dict[str, Any] = {}
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-classifier")
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    if way == "setting":
        settings["otlp_endpoint"] = collector.url + "/"
    else:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    async with serve(**settings) as running:
        await running.predict()
    ((path, body),) = collector.bodies  # closing the application sends what is left
    assert path == "/v1/traces"
    received = ExportTraceServiceRequest.FromString(body)
    (of_resource,) = received.resource_spans
    resource = {pair.key: pair.value.string_value for pair in of_resource.resource.attributes}
    assert resource["service.name"] == "shop-classifier"
    assert resource["service.version"]
    names = {span.name for scope in of_resource.scope_spans for span in scope.spans}
    assert names == {"POST /v1/predict", "tokenize", "queue", "inference"}


def test_a_collector_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()
    provider = provider_of("1")
    monkeypatch.setattr(provider, "shutdown", given_up.wait)  # as a span processor that tries again and again
    monkeypatch.setattr(tracing, "_LAST_SECONDS", 0.0)
    Tracing(provider, given_up.set).close()
    assert given_up.is_set()


def test_off_unless_asked_for() -> None:
    assert start_tracing(Settings(), "1", {}) is None
    disabled = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}
    assert start_tracing(Settings(), "1", disabled) is None


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("opentelemetry.exporter"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.usefixtures("without_the_extra")
def test_a_setting_that_cannot_be_met_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"bertpress\[otel\]"):
        start_tracing(Settings(otlp_endpoint="http://x"), "1", {})


@pytest.mark.usefixtures("without_the_extra")
def test_a_variable_that_others_set_is_no_reason_to_stay_away(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert start_tracing(Settings(), "1", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}) is None
    assert "bertpress[otel]" in caplog.text


def test_the_service_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    attributes = provider_of("1.2.3").resource.attributes
    assert (attributes["service.name"], attributes["service.version"]) == ("bertpress", "1.2.3")
    assert attributes["deployment.environment"] == "test"
