"""OpenTelemetry traces: one span for a request, with queue, tokenize and inference in it.

Spans are made when the answer is out, from the times that were taken anyway: nothing on a request's way
knows of tracing. Within a request the parts are laid out one after another and end when the answer was ready:
their lengths are measured, their places follow from that (of several texts, each length is the largest).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from app.errors import SettingsError
from app.metrics import known_method
from app.protocols.exchange import Exchange
from app.protocols.gate import HEALTH_PATHS, METRICS_PATH
from app.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)
# OpenTelemetry's own variables, which its exporter reads itself
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_LAST_SECONDS = 2.0
_UNTRACED = HEALTH_PATHS | {METRICS_PATH}

Part = tuple[str, float, float]
"""Name, seconds from the request's start to the part's, and to its end."""


class Tracing:
    """Makes the spans of an exchange that is over."""

    def __init__(self, provider: TracerProvider, give_up: Callable[[], None] | None = None) -> None:
        """`give_up` ends the tries to reach a collector that does not answer."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._give_up = provider, give_up
        self._tracer = provider.get_tracer("bertpress")
        self._server, self._failed = SpanKind.SERVER, Status(StatusCode.ERROR)
        self._within, self._propagator = set_span_in_context, TraceContextTextMapPropagator()

    def __call__(self, exchange: Exchange, seconds: float) -> None:
        """Record an exchange that took so long and ended now."""
        if exchange.scope["path"] in _UNTRACED:
            return
        ended_ns = time.time_ns()
        started_ns = ended_ns - int(seconds * 1e9)
        carrier = {name.decode(): value.decode("latin-1") for name, value in exchange.headers.items()}
        span = self._tracer.start_span(
            f"{known_method(exchange.scope['method'])} {exchange.route}",
            context=self._propagator.extract(carrier),
            kind=self._server,
            start_time=started_ns,
            attributes=attributes_of(exchange),
        )
        if exchange.status >= 500:
            span.set_status(self._failed)
        if exchange.answer is not None and span.is_recording():
            context = self._within(span)
            rows = {"bertpress.batch_rows": exchange.answer.timing.batch_rows}
            for name, begin, end in parts_of(exchange):
                part = self._tracer.start_span(
                    name,
                    context=context,
                    start_time=started_ns + int(begin * 1e9),
                    attributes=rows if name == "inference" else None,
                )
                part.end(started_ns + int(end * 1e9))
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is left, and do not wait long for who does not take it."""
        timer = threading.Timer(_LAST_SECONDS, self._give_up) if self._give_up is not None else None
        if timer is not None:
            timer.start()
        self._provider.shutdown()
        if timer is not None:
            timer.cancel()
            timer.join()


def attributes_of(exchange: Exchange) -> dict[str, str | int]:
    """What a request's span says. Nothing of what the client wrote but its request id."""
    method = known_method(exchange.scope["method"])
    found: dict[str, str | int] = {
        "http.request.method": "_OTHER" if method == "other" else method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "bertpress.request_id": exchange.request_id,
    }
    if exchange.status >= 500:
        found["error.type"] = str(exchange.status)
    if exchange.answer is not None:
        predictions = exchange.answer.predictions
        found["bertpress.model"] = exchange.answer.key.name
        found["bertpress.version"] = exchange.answer.key.version
        found["bertpress.texts"] = len(predictions)
        found["bertpress.tokens"] = sum(prediction.tokens for prediction in predictions)
    return found


def parts_of(exchange: Exchange) -> Iterator[Part]:
    """The parts of an answered prediction, latest first; those that did not happen are left out."""
    assert exchange.answer is not None  # noqa: S101  the caller saw it
    timing = exchange.answer.timing
    end = timing.total_seconds
    for name, seconds in (
        ("inference", timing.inference_seconds),
        ("queue", timing.queue_seconds),
        ("tokenize", timing.tokenize_seconds),
    ):
        if seconds:
            begin = max(end - seconds, 0.0)
            yield name, begin, end
            end = begin


def start_tracing(
    settings: Settings, version: str, environment: Mapping[str, str] | None = None
) -> Tracing | None:
    """Tracing to where the settings or OpenTelemetry's own variables say; None if neither does.

    Raises:
        SettingsError: the settings ask for it, and the extra `otel` is not installed.
    """
    known = os.environ if environment is None else environment
    if settings.otlp_endpoint is None and not any(known.get(name) for name in _ENDPOINTS):
        return None
    if known.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        message = "traces need the extra otel: pip install 'bertpress[otel]'"
        if settings.otlp_endpoint is not None:
            raise SettingsError(f"BERTPRESS_OTLP_ENDPOINT is set, and {message}") from None
        log.warning("%s is set, and %s; going on without", " or ".join(_ENDPOINTS), message)
        return None
    endpoint = settings.otlp_endpoint
    exporter: SpanExporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
    provider = provider_of(version)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, exporter.shutdown)


def provider_of(version: str) -> TracerProvider:
    """A provider of our own: the global one would make FastAPI trace every request once more."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    resource = Resource({"service.name": "bertpress", "service.version": version})
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, where they are set, stand above ours
    named = Resource.create()
    if str(named.attributes.get("service.name", "")).startswith("unknown_service"):
        return TracerProvider(resource=named.merge(resource), shutdown_on_exit=False)
    return TracerProvider(resource=resource.merge(named), shutdown_on_exit=False)
