from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from compression.quantization import static
from compression.quantization.calibration import Range, observe, ranges
from compression.quantization.editing import DensePart, GraphEditor
from compression.quantization.weights import Floats, QuantizedWeight, rounded
from tests.compression.exported import Export, answers
from tests.compression.tiny import random_batch, rows_of


def eight_bits(_: DensePart, weight: Floats) -> QuantizedWeight:
    return rounded(weight, 8)


def product(weight: Floats) -> GraphEditor:
    """A graph of one dense part: x (T, K) to y (T, N)."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="/part/MatMul")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return GraphEditor(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def run(editor: GraphEditor, values: Floats) -> Floats:
    """What the graph says: a fused kernel saturates with eight-bit weights on CPUs without VNNI."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        editor.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": values})[0])


@pytest.fixture
def weight() -> Floats:
    return np.random.default_rng(0).normal(size=(48, 20)).astype(np.float32)


@pytest.fixture
def values() -> Floats:
    """Forty tokens; one column of one of them is far out, as [CLS] is in a trained model."""
    normal = np.random.default_rng(1).normal(size=(40, 48)).astype(np.float32)
    normal[0, 7] = 60
    return normal


def error(values: Floats, weight: Floats, span: Range) -> float:
    editor = product(weight)
    static.quantize(editor, {"x": span}, eight_bits)
    # The token with the outlier is judged as well as all others.
    return float(np.abs(run(editor, values) - values @ weight).max())


def test_an_outlier_column_does_not_cost_the_others_their_precision(values: Floats, weight: Floats) -> None:
    everything = error(values, weight, Range(-4, 60))
    clipped = error(values, weight, Range(-4, 4))
    carried = error(values, weight, Range(-4, 4, outliers=(7,)))
    assert carried < everything / 5
    assert clipped > 50 * carried  # what would be lost if nothing carried it


def test_what_a_part_of_the_graph_is_called_decides_what_is_kept(exported: Export, tmp_path: Path) -> None:
    made, rows = exported("bert", False), rows_of(16, tmp_path)
    observed = ranges(observe(made.path, rows, range(16)))
    editor = GraphEditor.load(made.path)
    kept = editor.matching(["layers.1", "head.dense"])
    static.quantize(editor, observed, eight_bits, kept)
    editor.save(tmp_path / "mixed.onnx")
    types = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "mixed.onnx").graph.initializer}
    assert types["layers.1.query.weight"] == types["head.dense.weight"] == TensorProto.FLOAT
    assert (
        types["layers.0.query.weight_quantized"] == types["layers.2.key.weight_quantized"] == TensorProto.INT8
    )
    assert "layers.0.query.weight" not in types
    assert np.isfinite(answers(tmp_path / "mixed.onnx", random_batch())).all()


def test_an_input_of_several_parts_is_quantized_once(exported: Export, tmp_path: Path) -> None:
    made, rows = exported("bert", False), rows_of(16, tmp_path)
    editor = GraphEditor.load(made.path)
    static.quantize(editor, ranges(observe(made.path, rows, range(16))), eight_bits)
    kinds = [node.op_type for node in editor.nodes]
    # Per layer: query, key and value share one; the last layer's query has its own position.
    assert kinds.count("QuantizeLinear") == 3 * 4 + 1 + 1
    assert kinds.count("DequantizeLinear") == 3 * 6 + 1 + 3 * 4 + 1 + 1


def test_onnx_runtime_computes_in_integers(exported: Export, tmp_path: Path) -> None:
    made, rows = exported("bert", False), rows_of(16, tmp_path)
    editor = GraphEditor.load(made.path)
    static.quantize(editor, ranges(observe(made.path, rows, range(16)), "min-max", 2), eight_bits)
    editor.save(tmp_path / "static.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(tmp_path / "static.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 3 * 6 + 1
