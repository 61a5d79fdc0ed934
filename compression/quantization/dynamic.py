"""int8 weights per output channel; activations quantized as they come, one scale per tensor.

Weights are signed: ONNX Runtime's VNNI and AMX kernels run for unsigned activations with signed weights only.
On CPUs without VNNI two products of 8-bit weights overflow their 16-bit sum silently; weights of seven bits
(`reduced_range`) cannot. The embedding table is looked up, never multiplied, so it keeps eight bits always.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

_MULTIPLIED = ["MatMul", "Attention"]
_LOOKED_UP = ["EmbedLayerNormalization", "Gather"]


def quantize(source: Path, target: Path, *, reduced_range: bool, keep_fp32: Sequence[str] = ()) -> None:
    """Quantize a fused graph. Nodes whose name contains one of `keep_fp32` stay as they are."""
    # A fused graph carries no types for its inner values; weights and activations are float (1).
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    kept = [
        node.name for node in onnx.load(source).graph.node if any(part in node.name for part in keep_fp32)
    ]
    with _without_advice(), tempfile.TemporaryDirectory() as scratch:
        multiplied = Path(scratch) / "multiplied.onnx"
        quantize_dynamic(
            source,
            multiplied,
            op_types_to_quantize=_MULTIPLIED,
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=reduced_range,
            weight_type=QuantType.QInt8,
            extra_options=options,
        )
        quantize_dynamic(
            multiplied,
            target,
            op_types_to_quantize=_LOOKED_UP,
            nodes_to_exclude=kept,
            weight_type=QuantType.QUInt8,
            extra_options=options,
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """onnxruntime advises shape inference on the root logger; fused graphs do not allow it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
