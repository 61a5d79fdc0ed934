"""Every Prometheus metric of the service, by name. Knows nothing of ours but the collectors: gauges are
callbacks that main gives.

No label takes its value from a client: models and versions come from the repository, routes from the route
table, methods, reasons and outcomes from closed lists, keys from the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from app.collectors import Counter, CounterFamily, Histogram, HistogramFamily, Read, Reading
from app.collectors import Sample as Sample

CONTENT_TYPE = exposition.CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = (8, 16, 32, 64, 128, 192, 256, 384, 512)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_RATIO = (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_MODEL = ("model", "version")

DISPATCH_REASONS = (
    "took_all",  # nothing else was waiting
    "not_invariant",  # the build runs one unpadded row at a time
    "full_rows",
    "full_tokens",
    "does_not_pay",  # the next row costs less in a batch of its own
    "deadline",  # the next row would make somebody late
    "idle_workers",  # the rest is left to workers that have nothing to do
)
"""Why a batch was cut where it was."""


@dataclass(frozen=True, slots=True)
class VariantMetrics:
    """One version's collectors, bound to its labels once so that a request does not look them up."""

    request_seconds: Histogram
    queue_seconds: Histogram
    tokenize_seconds: Histogram
    inference_seconds: Histogram
    batch_rows: Histogram
    cost_ratio: Histogram
    """Actual over predicted seconds of a batch."""
    input_tokens: Histogram
    """Tokens of a text, as the model reads it."""
    confidence: Histogram
    """Score of the answered label."""
    tokens: Counter
    padding: Counter
    cache_hits: Counter
    cache_misses: Counter
    coalesced: Counter
    """Texts answered with another request's pass over the same text."""
    predictions: dict[str, Counter]
    batches: dict[str, Counter]
    """By DISPATCH_REASONS."""


class Metrics:
    """The collectors of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._http: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._http_requests = self._counter(
            "http_requests", "HTTP requests answered.", ("method", "route", "status")
        )
        self._http_seconds = self._histogram(
            "http_request_duration_seconds", "From the first header to the end of the answer.", ("route",)
        )
        self._requests = self._counter(
            "requests", "Prediction requests of a model, by how they ended.", (*_MODEL, "outcome")
        )
        self._add_text_metrics()
        self._add_batch_metrics()
        self._tier_texts = self._counter(
            "cascade_texts", "Texts answered by a cascade, by the tier whose answer stood.", (*_MODEL, "tier")
        )
        self._swaps = self._counter(
            "swaps", "Loads, promotions and unloads, by how they ended.", ("operation", "outcome")
        )
        self._refusals = self._counter(
            "refusals", "Requests refused before they were read, by why.", ("reason",)
        )
        self._key_texts = self._counter("key_texts", "Texts asked with an API key, by its name.", ("key",))
        self._cut = self._counter("connections_cut", "Connections ended by the service, by why.", ("reason",))
        self.open_connections: Sized = ()  # the server's, once there is one
        self.add_gauge("connections", "Connections open.", (), lambda: [((), len(self.open_connections))])

    def _add_text_metrics(self) -> None:
        self._predictions = self._counter("predictions", "Texts answered.", (*_MODEL, "label"))
        self._tokens = self._counter("tokens", "Tokens of the texts that were run.", _MODEL)
        self._input_tokens = self._histogram(
            "input_tokens", "Tokens of a text, as the model reads it.", _MODEL, _TOKENS
        )
        self._confidence = self._histogram("confidence", "Score of the answered label.", _MODEL, _CONFIDENCE)
        self._request_seconds = self._histogram(
            "request_duration_seconds", "Answered prediction requests, whole.", _MODEL
        )
        self._queue_seconds = self._histogram(
            "queue_duration_seconds", "Longest wait of a request's texts.", _MODEL
        )
        self._tokenize_seconds = self._histogram(
            "tokenize_duration_seconds", "Tokenizing a request's texts.", _MODEL
        )
        self._cache_hits = self._counter("cache_hits", "Texts answered from the cache.", _MODEL)
        self._cache_misses = self._counter("cache_misses", "Texts that the cache did not hold.", _MODEL)
        self._coalesced = self._counter(
            "coalesced_texts", "Texts answered with another request's pass over the same text.", _MODEL
        )

    def _add_batch_metrics(self) -> None:
        self._inference_seconds = self._histogram("inference_duration_seconds", "One forward pass.", _MODEL)
        self._batch_rows = self._histogram("batch_rows", "Texts in one forward pass.", _MODEL, _ROWS)
        self._padding = self._counter("padding_tokens", "Tokens run only to fill batches up.", _MODEL)
        self._batches = self._counter(
            "batches", "Forward passes, by why the batch was cut where it was.", (*_MODEL, "reason")
        )
        self._cost_ratio = self._histogram(
            "batch_cost_ratio", "Seconds a forward pass took over the seconds predicted.", _MODEL, _RATIO
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
            cost_ratio=self._cost_ratio.labels(*key),
            input_tokens=self._input_tokens.labels(*key),
            confidence=self._confidence.labels(*key),
            tokens=self._tokens.labels(*key),
            padding=self._padding.labels(*key),
            cache_hits=self._cache_hits.labels(*key),
            cache_misses=self._cache_misses.labels(*key),
            coalesced=self._coalesced.labels(*key),
            predictions={label: self._predictions.labels(*key, label) for label in labels},
            batches={reason: self._batches.labels(*key, reason) for reason in DISPATCH_REASONS},
        )

    def tier_texts(self, model: str, version: int, tier: str) -> Counter:
        """Texts of a cascade that this tier answered."""
        return self._tier_texts.labels(model, str(version), tier)

    def count_request(self, model: str, version: int, outcome: str) -> None:
        """Count a routed prediction request; `outcome` is `ok` or an error's code."""
        self._requests.labels(model, str(version), outcome).inc()

    def count_swap(self, operation: str, outcome: str) -> None:
        """Count a load, promotion or unload."""
        self._swaps.labels(operation, outcome).inc()

    def count_refusal(self, reason: str) -> None:
        """Count a request refused before it was read; `reason` is an error's code."""
        self._refusals.labels(reason).inc()

    def count_key_texts(self, key: str, texts: int) -> None:
        """Count the texts of a request that came with the API key of this name."""
        self._key_texts.labels(key).inc(texts)

    def count_cut(self, reason: str) -> None:
        """Count a connection that the service ended."""
        self._cut.labels(reason).inc()

    def observe_http(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record an HTTP exchange; `route` is a template of the route table or `unmatched`."""
        bound = self._http.get((method, route, status))
        if bound is None:
            known = known_method(method)
            bound = (
                self._http_requests.labels(known, route, str(status)),
                self._http_seconds.labels(route),
            )
            self._http[known, route, status] = bound
        bound[0].inc()
        bound[1].observe(seconds)

    def add_gauge(self, name: str, documentation: str, labels: Sequence[str], read: Read) -> None:
        """Register a gauge that is read when somebody scrapes."""
        self.registry.register(Reading(GaugeMetricFamily, f"bertpress_{name}", documentation, labels, read))

    def add_counter(self, name: str, documentation: str, labels: Sequence[str], read: Read) -> None:
        """Register a counter that somebody else keeps, read when somebody scrapes; no `_total` in `name`."""
        self.registry.register(Reading(CounterMetricFamily, f"bertpress_{name}", documentation, labels, read))

    def render(self) -> bytes:
        """The exposition text."""
        return exposition.generate_latest(self.registry)

    def _counter(self, name: str, documentation: str, labels: Sequence[str]) -> CounterFamily:
        family = CounterFamily(f"bertpress_{name}", documentation, labels)
        self.registry.register(family)
        return family

    def _histogram(
        self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float] = _SECONDS
    ) -> HistogramFamily:
        family = HistogramFamily(f"bertpress_{name}", documentation, labels, bounds)
        self.registry.register(family)
        return family


def known_method(method: str) -> str:
    """The method, or `other`: clients may send any word."""
    return method if method in _METHODS else "other"
