"""Inference graphs with early exits: first as a flat graph, then with what follows an exit in a branch.

The flat graph computes everything and chooses; it can be quantized as any other. `to_branches` then moves
what only the later answer needs into the branch of an `If` that is taken unless every row of the batch left.
The answers are the same: in a branch that is taken the rows that had left keep their early answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn
from transformers import PreTrainedModel

from app.errors import CompressionError
from compression.early_exit import ExitHead, exits_of, first_left, rule_of
from compression.graph import InferenceGraph, padding_scores, reshaped


class EarlyExitGraph(InferenceGraph):
    """(ids, mask) -> logits of the first exit at which a text leaves, or of the whole model."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        exits = exits_of(model)
        assert exits is not None  # noqa: S101 - only a model with exits gets here
        self.rule, self.after = rule_of(model), exits.layers
        self.exits = nn.ModuleList(exits.heads)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Shapes: (B, T) ids and mask to (B, C) logits."""
        hidden = self.embeddings(input_ids)
        padding = padding_scores(attention_mask, hidden.dtype)
        *layers, last = self.layers
        answers: list[torch.Tensor] = []
        for number, layer in enumerate(layers, start=1):
            hidden = layer(hidden, hidden, padding)
            if number in self.after:
                answers.append(_first(self.exits[len(answers)], hidden))
        return first_left(answers, self.head(last(hidden[:, :1], hidden, padding)), self.rule)


def _first(head: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    assert isinstance(head, ExitHead)  # noqa: S101 - what Exits is made of
    return reshaped(head(hidden[:, :1]), (0, -1))


def to_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with everything behind an exit in a branch of its own.

    Raises:
        CompressionError: the graph has no exit.
    """
    graph = model.graph
    nodes, output = list(graph.node), graph.output[0]
    if _maker(nodes, output.name).op_type != "Where":
        raise CompressionError(
            "the graph has no early exit; export a model that went through an 'exits' stage"
        )
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kept, moved = _branched(nodes, output.name, output, weights)
    del graph.node[:]
    graph.node.extend(kept)
    outer = [tensor for name, tensor in weights.items() if name not in moved]
    del graph.initializer[:]
    graph.initializer.extend(outer)
    # The shapes of what is now inside a branch are not those of the graph.
    del graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def _branched(
    nodes: Sequence[onnx.NodeProto],
    wanted: str,
    output: onnx.ValueInfoProto,
    weights: dict[str, onnx.TensorProto],
) -> tuple[list[onnx.NodeProto], set[str]]:
    """Nodes that give `wanted`, those behind its exit in a branch, and names of weights inside branches."""
    choice = _maker(nodes, wanted)
    if choice.op_type != "Where":
        return list(nodes), set()
    leaving, early, late = choice.input
    first = _needed(nodes, (leaving, early))
    behind = [node for node in nodes if id(node) not in first and node is not choice]
    inner, moved = _branched(behind, late, output, weights)
    used = {name for node in behind for name in node.input}
    outside = {name for node in nodes if id(node) in first for name in node.input}
    own = {name for name in used if name in weights and name not in outside}
    keep = helper.make_node("Where", [leaving, early, late], [f"{wanted}_late"], name=f"{wanted}/keep")
    late_branch = helper.make_graph(
        [*inner, keep],
        f"{wanted}_behind",
        [],
        [_renamed(output, f"{wanted}_late")],
        [weights[name] for name in sorted(own - moved)],
    )
    leave = helper.make_node("Identity", [early], [f"{wanted}_early"], name=f"{wanted}/leave")
    early_branch = helper.make_graph([leave], f"{wanted}_leaving", [], [_renamed(output, f"{wanted}_early")])
    decide = [
        helper.make_node(
            "Cast", [leaving], [f"{wanted}_number"], to=TensorProto.INT32, name=f"{wanted}/cast"
        ),
        helper.make_node(
            "ReduceMin", [f"{wanted}_number"], [f"{wanted}_least"], keepdims=0, name=f"{wanted}/all"
        ),
        helper.make_node(
            "Cast", [f"{wanted}_least"], [f"{wanted}_all"], to=TensorProto.BOOL, name=f"{wanted}/bool"
        ),
        helper.make_node(
            "If",
            [f"{wanted}_all"],
            [wanted],
            name=f"{wanted}/If",
            then_branch=early_branch,
            else_branch=late_branch,
        ),
    ]
    return [*(node for node in nodes if id(node) in first), *decide], moved | own


def _maker(nodes: Sequence[onnx.NodeProto], value: str) -> onnx.NodeProto:
    return next(node for node in nodes if value in node.output)


def _needed(nodes: Sequence[onnx.NodeProto], values: Sequence[str]) -> set[int]:
    """Nodes that these values need, by identity. `nodes` are in the order in which they can be run."""
    wanted, found = set(values), set()
    for node in reversed(nodes):
        if wanted & set(node.output):
            found.add(id(node))
            wanted |= set(node.input)
    return found


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(value)
    renamed.name = name
    return renamed
