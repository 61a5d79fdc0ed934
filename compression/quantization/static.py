"""int8 weights and activations with scales fixed by a calibration: the same for every batch.

The graph keeps to standard operators (QuantizeLinear, DequantizeLinear): ONNX Runtime turns each dense part
into one integer product with a float result, OpenVINO into its own. Because no scale is computed from the
batch, an answer cannot depend on its batch-mates or its padding.

Columns that stick out of the range (`calibration.Range.outliers`) are clipped in the integer product, and
what was clipped off is multiplied in fp32 and added: x W = clip(x) W + (x - clip(x)) W.

Source: Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference; ONNX operators QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx

from compression.quantization.calibration import Range
from compression.quantization.editing import DensePart, GraphEditor, operator
from compression.quantization.weights import Floats, QuantizedWeight

# From a part's name and its weight, shape (K, N), to the integers that stand for it.
Rounding = Callable[[DensePart, Floats], QuantizedWeight]


def quantize(
    editor: GraphEditor, ranges: Mapping[str, Range], rounding: Rounding, kept: Collection[str] = ()
) -> None:
    """Quantize every dense part of a graph in fp32, those whose node is named in `kept` aside."""
    parts = {part.node.name: part for part in editor.dense_parts() if part.node.name not in kept}
    inputs: set[str] = set()

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        part = parts.get(node.name)
        if part is None:
            return None
        prepared = [] if part.input in inputs else _quantized_input(editor, part.input, ranges[part.input])
        inputs.add(part.input)
        return prepared + _product(editor, part, ranges[part.input], rounding)

    editor.rewrite(replace)


def stored_weight(editor: GraphEditor, part: DensePart, rounding: Rounding) -> list[onnx.NodeProto]:
    """The weight as int8 with a scale per channel; gives `<weight>/restored`."""
    quantized = rounding(part, editor.weight(part.weight))
    names = [
        editor.add(f"{part.weight}_quantized", quantized.values),
        editor.add(f"{part.weight}_scale", quantized.scale),
    ]
    return [operator("DequantizeLinear", names, f"{part.weight}/restored", axis=1)]


def _quantized_input(editor: GraphEditor, name: str, span: Range) -> list[onnx.NodeProto]:
    scale = editor.add(f"{name}/scale", np.array(span.scale, np.float32))
    zero = editor.add(f"{name}/zero_point", np.array(span.zero_point, np.uint8))
    nodes = [
        operator("QuantizeLinear", [name, scale, zero], f"{name}/quantized"),
        operator("DequantizeLinear", [f"{name}/quantized", scale, zero], f"{name}/restored"),
    ]
    if not span.outliers:
        return nodes
    low, high = (span.scale * (end - span.zero_point) for end in (0, 255))
    columns = editor.add(f"{name}/outlier_columns", np.array(span.outliers, np.int64))
    ends = [
        editor.add(f"{name}/outlier_{end}", np.array(value, np.float32))
        for end, value in (("low", low), ("high", high))
    ]
    return [
        *nodes,
        operator("Gather", [name, columns], f"{name}/outliers", axis=-1),
        operator("Clip", [f"{name}/outliers", *ends], f"{name}/clipped"),
        operator("Sub", [f"{name}/outliers", f"{name}/clipped"], f"{name}/excess"),
    ]


def _product(editor: GraphEditor, part: DensePart, span: Range, rounding: Rounding) -> list[onnx.NodeProto]:
    weight = stored_weight(editor, part, rounding)
    factors = [f"{part.input}/restored", f"{part.weight}/restored"]
    if not span.outliers:
        return [*weight, operator("MatMul", factors, part.output)]
    rows = editor.add(f"{part.weight}_outliers", editor.weight(part.weight)[list(span.outliers)])
    return [
        *weight,
        operator("MatMul", factors, f"{part.output}/integer"),
        operator("MatMul", [f"{part.input}/excess", rows], f"{part.output}/excess"),
        operator("Add", [f"{part.output}/integer", f"{part.output}/excess"], part.output),
    ]
