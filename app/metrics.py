"""Every Prometheus collector of the service. Imports nothing of ours: gauges are callbacks that main gives.

No label takes its value from a client: models and versions come from the repository, routes from the route
table, methods from a closed list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, exposition
from prometheus_client.core import GaugeMetricFamily, Metric

CONTENT_TYPE = exposition.CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_MODEL = ("model", "version")

Sample = tuple[Sequence[str], float]
ReadGauge = Callable[[], Iterable[Sample]]


@dataclass(frozen=True, slots=True)
class VariantMetrics:
    """One version's collectors, bound to its labels once so that a request does not look them up."""

    request_seconds: Histogram
    queue_seconds: Histogram
    tokenize_seconds: Histogram
    inference_seconds: Histogram
    batch_rows: Histogram
    tokens: Counter
    padding: Counter
    predictions: dict[str, Counter]


class Metrics:
    """The collectors of one application, in a registry of its own."""

    def __init__(self) -> None:
        # a second series per counter that nobody reads
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._http_requests = self._counter(
            "http_requests", "HTTP requests answered.", ("method", "route", "status")
        )
        self._http_seconds = self._histogram(
            "http_request_duration_seconds", "From the first header to the end of the answer.", ("route",)
        )
        self._requests = self._counter(
            "requests", "Prediction requests of a model, by how they ended.", (*_MODEL, "outcome")
        )
        self._predictions = self._counter("predictions", "Texts answered.", (*_MODEL, "label"))
        self._tokens = self._counter("tokens", "Tokens of the texts that were run.", _MODEL)
        self._padding = self._counter("padding_tokens", "Tokens run only to fill batches up.", _MODEL)
        self._request_seconds = self._histogram(
            "request_duration_seconds", "Answered prediction requests, whole.", _MODEL
        )
        self._queue_seconds = self._histogram(
            "queue_duration_seconds", "Longest wait of a request's texts.", _MODEL
        )
        self._tokenize_seconds = self._histogram(
            "tokenize_duration_seconds", "Tokenizing a request's texts.", _MODEL
        )
        self._inference_seconds = self._histogram("inference_duration_seconds", "One forward pass.", _MODEL)
        self._batch_rows = self._histogram("batch_rows", "Texts in one forward pass.", _MODEL, buckets=_ROWS)
        self._swaps = self._counter(
            "swaps", "Loads, promotions and unloads, by how they ended.", ("operation", "outcome")
        )

    def variant(self, model: str, version: int, labels: Iterable[str]) -> VariantMetrics:
        """The collectors of one version."""
        key = (model, str(version))
        return VariantMetrics(
            request_seconds=self._request_seconds.labels(*key),
            queue_seconds=self._queue_seconds.labels(*key),
            tokenize_seconds=self._tokenize_seconds.labels(*key),
            inference_seconds=self._inference_seconds.labels(*key),
            batch_rows=self._batch_rows.labels(*key),
            tokens=self._tokens.labels(*key),
            padding=self._padding.labels(*key),
            predictions={label: self._predictions.labels(*key, label) for label in labels},
        )

    def count_request(self, model: str, version: int, outcome: str) -> None:
        """Count a routed prediction request; `outcome` is `ok` or an error's code."""
        self._requests.labels(model, str(version), outcome).inc()

    def count_swap(self, operation: str, outcome: str) -> None:
        """Count a load, promotion or unload."""
        self._swaps.labels(operation, outcome).inc()

    def observe_http(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record an HTTP exchange; `route` is a template of the route table or `unmatched`."""
        known = method if method in _METHODS else "other"
        self._http_requests.labels(known, route, str(status)).inc()
        self._http_seconds.labels(route).observe(seconds)

    def add_gauge(self, name: str, documentation: str, labels: Sequence[str], read: ReadGauge) -> None:
        """Register a gauge that is read when somebody scrapes."""
        self.registry.register(_Gauge(f"bertpress_{name}", documentation, labels, read))

    def render(self) -> bytes:
        """The exposition text."""
        return exposition.generate_latest(self.registry)

    def _counter(self, name: str, documentation: str, labels: Sequence[str]) -> Counter:
        return Counter(f"bertpress_{name}", documentation, labels, registry=self.registry)

    def _histogram(
        self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        return Histogram(
            f"bertpress_{name}", documentation, labels, registry=self.registry, buckets=tuple(buckets)
        )


@dataclass(frozen=True, slots=True)
class _Gauge:
    name: str
    documentation: str
    labels: Sequence[str]
    read: ReadGauge

    def describe(self) -> Iterator[Metric]:
        """Name the gauge without reading it: what it reads may not be there yet."""
        yield GaugeMetricFamily(self.name, self.documentation, labels=self.labels)

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self.name, self.documentation, labels=self.labels)
        for values, number in self.read():
            family.add_metric(list(values), number)
        yield family
