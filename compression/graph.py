"""The ONNX graph after export: transformer parts fused into single operators, and checked.

ONNX Runtime's optimizer writes one head count on every Attention node. On a model pruned unevenly that is
silently wrong, so each node is given its own layer's count here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnxruntime.transformers.optimizer import optimize_model

from app.errors import ParityError
from compression.architecture import LayerShape


def fuse(
    source: Path, target: Path, shapes: Sequence[LayerShape], hidden_size: int, head_size: int
) -> Counter[str]:
    """Fuse attention, GELU and LayerNorm; returns how many nodes of each operator the graph then has.

    Raises:
        ParityError: a layer's attention or feed-forward part was not recognised.
    """
    # It wants the head count of an unpruned layer, and logs what it expected of one; see _set_head_counts.
    heads = hidden_size // head_size
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    fused = optimize_model(str(source), "bert", num_heads=heads, hidden_size=hidden_size, opt_level=0)
    _set_head_counts(fused.model, shapes)
    operators = Counter(str(node.op_type) for node in fused.model.graph.node)
    check_fusions(operators, layers=len(shapes))
    fused.save_model_to_file(str(target))
    return operators


def check_fusions(operators: Counter[str], layers: int) -> None:
    """Every layer has one fused attention, one fused GELU and two fused LayerNorms.

    Raises:
        ParityError: says which operator is short, and by how many.
    """
    wanted = {"Attention": layers, "BiasGelu": layers, "SkipLayerNormalization": 2 * layers}
    for operator, count in wanted.items():
        if operators[operator] != count:
            raise ParityError(
                f"the exported graph has {operators[operator]} fused {operator} nodes, {count} expected; "
                "the exporter or transformers changed the graph's form"
            )


def _set_head_counts(model: onnx.ModelProto, shapes: Sequence[LayerShape]) -> None:
    nodes = [node for node in model.graph.node if node.op_type == "Attention"]
    for node, shape in zip(nodes, shapes, strict=False):
        for attribute in node.attribute:
            if attribute.name == "num_heads":
                attribute.i = shape.heads
