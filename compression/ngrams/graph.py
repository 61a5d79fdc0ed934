"""The n-gram student as an ONNX graph: gathers, integer hashing and sums; standard operators only.

Every node computes what `student.forward` does, in the same order, so that the answers are equal to the bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from compression.export import INPUT_NAMES, OUTPUT_NAME
from compression.ngrams.hashing import FIRST, PAIR, SECOND, THIRD
from compression.ngrams.student import TABLES, NgramForSequenceClassification, shares

# Of the oldest onnxruntime that serves.
_IR_VERSION = 8
_END = 1 << 62


class _Graph:
    """Nodes and constants in the order in which they are added; a node is named as its value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype=dtype), name)
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def columns(self, value: str, start: int, stop: int, output: str) -> str:
        """Some columns of a (B, T) value; none where the rows are too short."""
        bounds = [self.constant(f"from_{start}", [start]), self.constant(f"to_{stop}", [stop])]
        return self.node("Slice", [value, *bounds, self.constant("axis_1", [1])], output)

    def mixed(self, left: str, left_by: int, right: str, right_by: int, output: str) -> str:
        """The sum of two values, each times its number."""
        first = self.node("Mul", [left, self.constant(f"{output}_left_by", left_by)], f"{output}_left")
        second = self.node("Mul", [right, self.constant(f"{output}_right_by", right_by)], f"{output}_right")
        return self.node("Add", [first, second], output)


def write(model: NgramForSequenceClassification, path: Path, opset: int = 17) -> None:
    """Write the graph with its tables."""
    graph = _Graph()
    input_ids, mask = INPUT_NAMES
    bigrams, trigrams = _hashed(graph, input_ids, model.shape.bigram_buckets, model.shape.trigram_buckets)
    scored = []
    for index, (name, rows) in enumerate(zip(TABLES, (input_ids, bigrams, trigrams), strict=True)):
        # An n-gram stands where its last token does.
        valid = mask if index == 0 else graph.columns(mask, index, _END, f"{name}_mask")
        scored.append(_summed(graph, name, getattr(model, name).numpy(), rows, valid))
        scored[-1] = graph.node(
            "Mul",
            [scored[-1], graph.constant(f"{name}_scale", model.scales[index].item(), np.float32)],
            f"{name}_score",
        )
    pairs = graph.node("Add", [scored[0], scored[1]], "score_to_bigrams")
    triples = graph.node("Add", [pairs, scored[2]], "score_to_trigrams")
    scaled = graph.node(
        "Mul", [triples, _share_of_one(graph, mask, model.shape.max_tokens)], "score_by_length"
    )
    score = graph.node(
        "Add", [scaled, graph.constant("bias", model.bias.detach().numpy(), np.float32)], "score"
    )
    _logits(graph, score, model.bias.numel())
    onnx.save(_model(graph, len(model.config.id2label or {}), opset), str(path))


def _hashed(graph: _Graph, ids: str, bigram_buckets: int, trigram_buckets: int) -> tuple[str, str]:
    """Rows of the pairs (B, T - 1) and of the triples (B, T - 2)."""
    first, second = graph.columns(ids, 0, -1, "first"), graph.columns(ids, 1, _END, "second")
    mixed = graph.mixed(first, FIRST, second, SECOND, "pair_mixed")
    bigrams = graph.node("Mod", [mixed, graph.constant("bigram_buckets", bigram_buckets)], "bigram_rows")
    buckets = graph.constant("trigram_buckets", trigram_buckets)
    before = graph.columns(graph.node("Mod", [mixed, buckets], "before_all"), 0, -1, "before")
    mixed = graph.mixed(before, PAIR, graph.columns(ids, 2, _END, "third"), THIRD, "triple_mixed")
    return bigrams, graph.node("Mod", [mixed, buckets], "trigram_rows")


def _summed(graph: _Graph, name: str, table: npt.NDArray[np.int8], rows: str, mask: str) -> str:
    """The masked sum of a table's rows, exact. Shape: (B, K)."""
    found = graph.node("Gather", [graph.constant(name, table, np.int8), rows], f"{name}_int8")
    whole = graph.node("Cast", [found], f"{name}_int32", to=TensorProto.INT32)
    valid = graph.node("Cast", [mask], f"{name}_mask_int32", to=TensorProto.INT32)
    column = graph.node("Unsqueeze", [valid, graph.constant("axis_2", [2])], f"{name}_mask_column")
    masked = graph.node("Mul", [whole, column], f"{name}_masked")
    total = graph.node("ReduceSum", [masked, graph.constant("axis_1", [1])], f"{name}_total", keepdims=0)
    return graph.node("Cast", [total], f"{name}_float", to=TensorProto.FLOAT)


def _share_of_one(graph: _Graph, mask: str, max_tokens: int) -> str:
    """What one n-gram counts in each text, by its length. Shape: (B, 1)."""
    length = graph.node("ReduceSum", [mask, graph.constant("axis_1", [1])], "length", keepdims=1)
    known = graph.node("Min", [length, graph.constant("longest", max_tokens)], "length_known")
    table = graph.constant("shares", shares(max_tokens), np.float32)
    return graph.node("Gather", [table, known], "share_of_one")


def _logits(graph: _Graph, score: str, columns: int) -> None:
    """One score for two classes becomes two logits around zero."""
    if columns > 1:
        graph.node("Identity", [score], OUTPUT_NAME)
        return
    low = graph.node("Mul", [score, graph.constant("minus_half", -0.5, np.float32)], "low")
    high = graph.node("Mul", [score, graph.constant("half", 0.5, np.float32)], "high")
    graph.node("Concat", [low, high], OUTPUT_NAME, axis=1)


def _model(graph: _Graph, classes: int, opset: int) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in INPUT_NAMES
    ]
    output = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", classes])
    body = helper.make_graph(graph.nodes, "ngrams", inputs, [output], list(graph.constants.values()))
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="bertpress",
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model)
    return model
