"""int8 weights per output channel; activations quantized as they come, one scale per tensor.

Weights are signed: ONNX Runtime's VNNI and AMX kernels run for unsigned activations with signed weights only.
On CPUs without VNNI two products of 8-bit weights overflow their 16-bit sum silently; weights of seven bits
(`reduced_range`) cannot. The embedding table is looked up, never multiplied, so it keeps eight bits always.

One scale per tensor makes an answer depend on its batch-mates and its padding: see `static` and `per_token`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic

from compression.quantization.editing import LOGITS_PART, GraphEditor


def quantize(source: Path, target: Path, *, reduced_range: bool, keep_fp32: Sequence[str] = ()) -> None:
    """Quantize a graph in fp32. Parts whose name contains one of `keep_fp32` stay as they are.

    Raises:
        RecipeError: an entry of `keep_fp32` that no part's name contains.
    """
    kept = [*GraphEditor.load(source).matching(keep_fp32), f"/{LOGITS_PART.replace('.', '/')}/MatMul"]
    with _without_advice(), tempfile.TemporaryDirectory() as scratch:
        multiplied = Path(scratch) / "multiplied.onnx"
        quantize_dynamic(
            source,
            multiplied,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=reduced_range,
            weight_type=QuantType.QInt8,
        )
        quantize_dynamic(
            multiplied,
            target,
            op_types_to_quantize=["Gather"],
            nodes_to_exclude=kept,
            weight_type=QuantType.QUInt8,
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """onnxruntime advises its own preparation of graphs on the root logger; this graph needs none."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
