"""LitServe: `python -m loadtests.peers.servers.lit_serve`."""

from __future__ import annotations

from typing import Any

import litserve as ls

from loadtests.peers.servers.classifier import Order, Prediction


class Sentiment(ls.LitAPI):  # type: ignore[misc]
    """The four verbs of LitServe."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe calls it so
        """Load the model in the worker."""
        self.classifier = Order.read().classifier()

    # LitServe takes an annotation here for a schema; without one the body is parsed as JSON.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """The text of a request."""
        return str(request["text"])

    def predict(self, x: Any) -> Any:
        """One text, or a batch of them where batching is on."""
        return self.classifier(x) if isinstance(x, list) else self.classifier([x])[0]

    def encode_response(self, output: Prediction) -> dict[str, Any]:
        """The answer."""
        return {"label": output[0], "score": output[1]}


def main() -> None:
    """Serve until told to stop."""
    order = Order.read()
    api = Sentiment(max_batch_size=order.batch, batch_timeout=order.wait_ms / 1000)
    server = ls.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=order.workers,
        fast_queue="fast_queue" in order.options,
    )
    server.run(host="127.0.0.1", port=order.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
