"""Tables that are looked up (words, positions) in eight or four bits.

Eight bits: symmetric, one scale per row. Four bits: spread over the range of each block of a row, which needs
an offset as well; two values share a byte, the first half of the row in its low part. Of the word table only
the rows that are read are restored; the position table is small and restored whole, which both runtimes do
once, at load. Standard operators throughout.

Source: Guan et al. 2019, Post-Training 4-bit Quantization on Embedding Tables (row-wise scales and offsets).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from compression.quantization.editing import GraphEditor, operator
from compression.quantization.weights import Floats, largest

_HALF_BYTE = 16
# Columns that share a scale and an offset of a four-bit row, where the row's width allows.
_BLOCK = 64


@dataclass(frozen=True)
class PackedTable:
    """A four-bit table. Shapes: values (V, H / 2) uint8; scale, offset (V, H / block, 1) float16."""

    values: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float16]
    offset: npt.NDArray[np.float16]

    @property
    def restored(self) -> Floats:
        """The table these integers stand for. Shape: (V, H)."""
        integers = np.concatenate([self.values % _HALF_BYTE, self.values // _HALF_BYTE], axis=1)
        blocks = integers.reshape(len(integers), self.scale.shape[1], -1)
        restored = blocks * self.scale.astype(np.float32) + self.offset.astype(np.float32)
        return np.asarray(restored.reshape(integers.shape), np.float32)


def eight_bits(table: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Integers (V, H) and the scale of each row (V, 1)."""
    scale = np.abs(table).max(1, keepdims=True) / largest(8)
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.rint(table / scale).astype(np.int8), scale


def four_bits(table: Floats) -> PackedTable:
    """Blocks of each row spread over sixteen levels. Shape: (V, H), H even."""
    rows, width = table.shape
    blocks = table.reshape(rows, -1, block_size(width))
    low, high = blocks.min(-1, keepdims=True), blocks.max(-1, keepdims=True)
    offset = low.astype(np.float16)
    scale = np.maximum((high - low) / (_HALF_BYTE - 1), np.finfo(np.float16).tiny).astype(np.float16)
    levels = np.rint((blocks - offset.astype(np.float32)) / scale.astype(np.float32))
    integers = np.clip(levels, 0, _HALF_BYTE - 1).astype(np.uint8).reshape(rows, width)
    half = width // 2
    return PackedTable(integers[:, :half] + integers[:, half:] * _HALF_BYTE, scale, offset)


def block_size(width: int) -> int:
    """Columns of a four-bit block: 64, or the whole row where its width is not a multiple of that."""
    return _BLOCK if width % _BLOCK == 0 else width


def quantize(editor: GraphEditor, bits: Literal[4, 8], kept: Collection[str] = ()) -> None:
    """Quantize every table of a graph, those whose node is named in `kept` aside."""
    lookups = {node.name for node in editor.lookups() if node.name not in kept}

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.name not in lookups:
            return None
        if node.op_type == "Slice":
            return _restored_table(editor, node)
        return _eight_bit_rows(editor, node) if bits == 8 else _four_bit_rows(editor, node)

    editor.rewrite(replace)


def _restored_table(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    values, scale = _stored(editor, node.input[0])
    whole = f"{node.input[0]}/restored"
    return [
        operator("Cast", [values], f"{whole}/float", to=onnx.TensorProto.FLOAT),
        operator("Mul", [f"{whole}/float", scale], whole),
        _same_lookup(node, whole, node.output[0]),
    ]


def _eight_bit_rows(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    values, scale = _stored(editor, node.input[0])
    output = node.output[0]
    return [
        _same_lookup(node, values, f"{output}/integers"),
        _same_lookup(node, scale, f"{output}/scale"),
        operator("Cast", [f"{output}/integers"], f"{output}/float", to=onnx.TensorProto.FLOAT),
        operator("Mul", [f"{output}/float", f"{output}/scale"], output),
    ]


def _stored(editor: GraphEditor, table: str) -> tuple[str, str]:
    values, scale = eight_bits(editor.weight(table))
    return editor.add(f"{table}_quantized", values), editor.add(f"{table}_scale", scale)


def _four_bit_rows(editor: GraphEditor, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    table, output = node.input[0], node.output[0]
    packed = four_bits(editor.weight(table))
    nodes = []
    for name, array in (("packed", packed.values), ("scale", packed.scale), ("offset", packed.offset)):
        constant = editor.add(f"{table}_{name}", array)
        nodes += [
            _same_lookup(node, constant, f"{output}/{name}_rows"),
            operator("Cast", [f"{output}/{name}_rows"], f"{output}/{name}", to=onnx.TensorProto.FLOAT),
        ]
    blocks = packed.scale.shape[1]
    width = packed.values.shape[1] * 2
    in_blocks = editor.add(f"{table}_blocks", np.array([0, 0, blocks, width // blocks]))
    flat = editor.add(f"{table}_flat", np.array([0, 0, width]))
    return [
        *nodes,
        *_halves(editor, f"{output}/packed", output),
        operator("Reshape", [f"{output}/integers", in_blocks], f"{output}/blocks"),
        operator("Mul", [f"{output}/blocks", f"{output}/scale"], f"{output}/scaled"),
        operator("Add", [f"{output}/scaled", f"{output}/offset"], f"{output}/restored"),
        operator("Reshape", [f"{output}/restored", flat], output),
    ]


def _halves(editor: GraphEditor, packed: str, output: str) -> list[onnx.NodeProto]:
    """Both halves of each byte, in arithmetic that every runtime has; gives `<output>/integers`."""
    sixteen = editor.add("embeddings/sixteen", np.array(_HALF_BYTE, np.float32))
    sixteenth = editor.add("embeddings/sixteenth", np.array(1 / _HALF_BYTE, np.float32))
    return [
        operator("Mul", [packed, sixteenth], f"{output}/shifted"),
        operator("Floor", [f"{output}/shifted"], f"{output}/high"),
        operator("Mul", [f"{output}/high", sixteen], f"{output}/high_part"),
        operator("Sub", [packed, f"{output}/high_part"], f"{output}/low"),
        operator("Concat", [f"{output}/low", f"{output}/high"], f"{output}/integers", axis=-1),
    ]


def _same_lookup(node: onnx.NodeProto, table: str, output: str) -> onnx.NodeProto:
    """The same rows of another table."""
    inputs: Sequence[Any] = [table, *node.input[1:]]
    lookup = operator(node.op_type, inputs, output)
    lookup.attribute.extend(node.attribute)
    return lookup
