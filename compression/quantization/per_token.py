"""int8 weights, and activations quantized as they come with a scale for every token.

A token's scale depends on that token alone, so an answer does not depend on its batch-mates or its padding,
and no calibration is needed. The price is a few passes over each activation that a fixed scale saves.
The products are ONNX Runtime's own MatMulIntegerToFloat, which no other runtime reads.

Source: Yao et al. 2022, ZeroQuant, section 3.1 (token-wise quantization for activations).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from compression.quantization.editing import CONTRIBUTED, DensePart, GraphEditor, operator
from compression.quantization.static import Rounding

_LARGEST = 127
_ZERO_POINT = 128


def quantize(editor: GraphEditor, rounding: Rounding, kept: Collection[str] = ()) -> None:
    """Quantize every dense part of a graph in fp32, those whose node is named in `kept` aside."""
    parts = {part.node.name: part for part in editor.dense_parts() if part.node.name not in kept}
    inputs: set[str] = set()

    def replace(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        part = parts.get(node.name)
        if part is None:
            return None
        prepared = [] if part.input in inputs else _quantized_input(editor, part.input)
        inputs.add(part.input)
        return prepared + _product(editor, part, rounding)

    editor.rewrite(replace)
    editor.use_contributed_operators()


def _quantized_input(editor: GraphEditor, name: str) -> list[onnx.NodeProto]:
    one, zero = _constants(editor)
    step = editor.add("per_token/step", np.array(1 / _LARGEST, np.float32))
    # A token of zeros has no scale of its own.
    smallest = editor.add("per_token/smallest", np.array(1e-9, np.float32))
    return [
        operator("Abs", [name], f"{name}/absolute"),
        _largest_of_each(editor, f"{name}/absolute", f"{name}/largest"),
        operator("Mul", [f"{name}/largest", step], f"{name}/any_scale"),
        operator("Max", [f"{name}/any_scale", smallest], f"{name}/scale"),
        operator("Div", [name, f"{name}/scale"], f"{name}/scaled"),
        operator("QuantizeLinear", [f"{name}/scaled", one, zero], f"{name}/quantized"),
    ]


def _largest_of_each(editor: GraphEditor, values: str, output: str) -> onnx.NodeProto:
    """ReduceMax over the last axis, which is an attribute until opset 18 and an input from then on."""
    if editor.opset < 18:
        return operator("ReduceMax", [values], output, axes=[-1])
    axes = editor.add("per_token/last_axis", np.array([-1]))
    return operator("ReduceMax", [values, axes], output)


def _product(editor: GraphEditor, part: DensePart, rounding: Rounding) -> list[onnx.NodeProto]:
    quantized = rounding(part, editor.weight(part.weight))
    values = editor.add(f"{part.weight}_quantized", quantized.values)
    scale = editor.add(f"{part.weight}_scale", quantized.scale)
    one, zero = _constants(editor)
    factors = [f"{part.input}/quantized", values, one, scale, zero]
    return [
        operator("MatMulIntegerToFloat", factors, f"{part.output}/integer", CONTRIBUTED),
        operator("Mul", [f"{part.output}/integer", f"{part.input}/scale"], part.output),
    ]


def _constants(editor: GraphEditor) -> tuple[str, str]:
    one = editor.add("per_token/one", np.array(1, np.float32))
    return one, editor.add("per_token/zero_point", np.array(_ZERO_POINT, np.uint8))
