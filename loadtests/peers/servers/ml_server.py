"""MLServer: a custom runtime, named in model-settings.json; started by `mlserver start FOLDER`."""

from __future__ import annotations

import asyncio

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtests.peers.servers.classifier import Order


class Sentiment(MLModel):  # type: ignore[misc]
    """Loads in a worker process of MLServer's pool; batches come from its adaptive batching."""

    async def load(self) -> bool:
        """Load the model."""
        self.order = Order.read()
        self.classifier = self.order.classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One label per text."""
        texts = StringCodec.decode_input(payload.inputs[0])
        if self.order.workers == 0:  # then this is the event loop of the REST server itself
            labels = await asyncio.to_thread(self._labels, texts)
        else:
            labels = self._labels(texts)
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("label", labels, use_bytes=False)]
        )

    def _labels(self, texts: list[str]) -> list[str]:
        return [label for label, _ in self.classifier(texts)]
