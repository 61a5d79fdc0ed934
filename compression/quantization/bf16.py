"""A graph's answers in bf16 on a CPU that has none: what every operator gives is rounded to eight bits.

bf16 keeps the exponent of fp32 and seven bits of the fraction. CPUs multiply two such numbers exactly and add
up in fp32, so that rounding what goes into a product and what comes out of it gives what they give, but for
the order of sums and for roundings between operators that a runtime fuses.
Source: Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper, shape_inference


def emulate(source: Path, target: Path) -> Path:
    """Write a graph of standard operators that rounds every float to bf16 as soon as it is there.

    Weights are stored in the new file. Returns its path.
    """
    model = onnx.load(source)
    graph = model.graph
    floats = _floats(model)
    results = {output.name for output in graph.output}
    rounded: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        if tensor.name in floats:
            nodes += _rounding(tensor.name, rounded)
    for node in graph.node:
        kept = [rounded.get(name, name) for name in node.input]
        node.ClearField("input")
        node.input.extend(kept)
        nodes.append(node)
        for name in node.output:
            if name in floats and name not in results:
                nodes += _rounding(name, rounded)
    graph.ClearField("node")
    graph.node.extend(nodes)
    onnx.save(model, target)
    return target


def _floats(model: onnx.ModelProto) -> set[str]:
    """Names of all fp32 values."""
    inferred = shape_inference.infer_shapes(model).graph
    values = {
        value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    return values | {tensor.name for tensor in inferred.initializer if tensor.data_type == TensorProto.FLOAT}


def _rounding(name: str, rounded: dict[str, str]) -> list[onnx.NodeProto]:
    rounded[name] = f"{name}_rounded"
    return [
        helper.make_node("Cast", [name], [f"{name}_bf16"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [f"{name}_bf16"], [rounded[name]], to=TensorProto.FLOAT),
    ]
