"""int8 weights per output channel; activations quantized as they come, one scale per tensor.

Weights are signed: ONNX Runtime's VNNI and AMX kernels run for unsigned activations with signed weights only.
On CPUs without VNNI two products of 8-bit weights overflow their 16-bit sum silently; weights of seven bits
cannot.

One scale per tensor makes an answer depend on its batch-mates and its padding: see `static` and `per_token`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic

from compression.quantization.editing import LOGITS_PART, GraphEditor


def quantize(editor: GraphEditor, *, reduced_range: bool, kept: Collection[str] = ()) -> GraphEditor:
    """Quantize every dense part of a graph in fp32, those whose node is named in `kept` aside.

    `reduced_range` keeps weights to seven bits.
    """
    with _without_advice(), tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "source.onnx", Path(scratch) / "target.onnx"
        editor.save(source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[*kept, f"/{LOGITS_PART.replace('.', '/')}/MatMul"],
            per_channel=True,
            reduce_range=reduced_range,
            weight_type=QuantType.QInt8,
        )
        return GraphEditor.load(target)


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
