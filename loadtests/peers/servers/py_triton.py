"""PyTriton: `python -m loadtests.peers.servers.py_triton`; carries the Triton binary with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, QueuePolicy, Tensor
from pytriton.triton import Triton, TritonConfig

from loadtests.peers.servers.classifier import Order


def infer_function(order: Order) -> Callable[..., Any]:
    """One instance of the model."""
    classifier = order.classifier()

    @batch  # type: ignore[untyped-decorator]
    def infer(text: Any) -> list[Any]:
        answers = classifier([row[0].decode() for row in text])
        labels = np.array([[label.encode()] for label, _ in answers])
        scores = np.array([[score] for _, score in answers], dtype=np.float32)
        return [labels, scores]

    return infer  # type: ignore[no-any-return]


def main() -> None:
    """Serve until told to stop."""
    order = Order.read()
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=order.port,
        allow_grpc=False,
        allow_metrics=False,
        log_verbose=0,
    )
    # Requests may carry a time limit, after which they are dropped from the queue.
    policy = QueuePolicy(allow_timeout_override=True)
    batcher = DynamicBatcher(max_queue_delay_microseconds=order.wait_ms * 1000, default_queue_policy=policy)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="sentiment",
            infer_func=[infer_function(order) for _ in range(order.workers)],
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[
                Tensor(name="label", dtype=bytes, shape=(1,)),
                Tensor(name="score", dtype=np.float32, shape=(1,)),
            ],
            config=ModelConfig(max_batch_size=order.batch, batcher=batcher),
        )
        triton.serve()


if __name__ == "__main__":
    main()
