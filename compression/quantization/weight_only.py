"""Small weights, activations as they are.

`store` keeps int8 weights behind standard DequantizeLinear operators, which every runtime reads: OpenVINO
expands them at load or computes with them, ONNX Runtime makes block products of them.
`in_blocks` writes ONNX Runtime's own MatMulNBits, with four or eight bits and a scale per block; it quantizes
activations to int8 per block and row, so that its answers do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import onnx

from compression.quantization.editing import CONTRIBUTED, DensePart, GraphEditor, operator
from compression.quantization.static import Rounding, stored_weight
from compression.quantization.weights import blocked

# MatMulNBits computes in int8.
_ACCURACY_LEVEL = 4


def store(editor: GraphEditor, rounding: Rounding, kept: Collection[str] = ()) -> None:
    """Store the weight of every dense part as integers, those whose node is named in `kept` aside."""
    parts = {part.node.name: part for part in editor.dense_parts() if part.node.name not in kept}

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        part = parts.get(node.name)
        if part is None:
            return None
        factors = [part.input, f"{part.weight}/restored"]
        return [*stored_weight(editor, part, rounding), operator("MatMul", factors, part.output)]

    editor.rewrite(replace)


def in_blocks(editor: GraphEditor, bits: Literal[4, 8], block: int, kept: Collection[str] = ()) -> None:
    """Replace every dense part by a product in blocks, those whose node is named in `kept` aside."""
    parts = {part.node.name: part for part in editor.dense_parts() if part.node.name not in kept}

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        part = parts.get(node.name)
        return None if part is None else [_block_product(editor, part, bits, block)]

    editor.rewrite(replace)
    editor.use_contributed_operators()


def _block_product(editor: GraphEditor, part: DensePart, bits: int, block: int) -> onnx.NodeProto:
    weight = editor.weight(part.weight)
    quantized = blocked(weight, bits, block)
    values = editor.add(f"{part.weight}_blocks", quantized.packed)
    scales = editor.add(f"{part.weight}_scales", quantized.scales)
    inputs, outputs = weight.shape
    return operator(
        "MatMulNBits",
        [part.input, values, scales],
        part.output,
        CONTRIBUTED,
        K=inputs,
        N=outputs,
        bits=bits,
        block_size=block,
        accuracy_level=_ACCURACY_LEVEL,
    )
