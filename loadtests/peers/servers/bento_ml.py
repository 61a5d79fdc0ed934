"""BentoML: `bentoml serve loadtests.peers.servers.bento_ml:Sentiment`."""

from __future__ import annotations

from typing import Any

import bentoml

from loadtests.peers.servers.classifier import Order

ORDER = Order.read()
ADAPTIVE = {"batchable": True, "max_batch_size": ORDER.batch} if ORDER.batch > 1 else {}


@bentoml.service(workers=ORDER.workers)
class Sentiment:
    """A model in each worker; with BentoML's adaptive batching where the order says so."""

    def __init__(self) -> None:
        self.classifier = ORDER.classifier()

    @bentoml.api(route="/classify", **ADAPTIVE)  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """One answer per text of a request, or of a batch of them."""
        return [{"label": label, "score": score} for label, score in self.classifier(texts)]
