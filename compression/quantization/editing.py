"""An exported graph under the knife: its dense parts, its tables, and how their nodes are replaced."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from app.errors import RecipeError

Array = npt.NDArray[Any]
LOGITS_PART = "head.output"
# Operators of ONNX Runtime itself.
CONTRIBUTED = "com.microsoft"


@dataclass(frozen=True)
class DensePart:
    """A product with a constant matrix: `output = input @ weight`. Shape of the weight: (K, N)."""

    name: str
    node: onnx.NodeProto
    weight: str

    @property
    def input(self) -> str:
        """Name of the activation that is multiplied."""
        return str(self.node.input[0])

    @property
    def output(self) -> str:
        """Name of the product."""
        return str(self.node.output[0])


class GraphEditor:
    """A graph with its weights by name; every change is made through it and saved in the end."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.weights: dict[str, onnx.TensorProto] = {
            tensor.name: tensor for tensor in model.graph.initializer
        }

    @classmethod
    def load(cls, path: Path) -> GraphEditor:
        """Read a graph from its file."""
        return cls(onnx.load(path))

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return next(int(entry.version) for entry in self.model.opset_import if not entry.domain)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes, in order."""
        return list(self.model.graph.node)

    def weight(self, name: str) -> Array:
        """A constant of the graph as an array."""
        return numpy_helper.to_array(self.weights[name])

    def add(self, name: str, array: Array) -> str:
        """A new constant; returns its name. A constant of that name stays as it is."""
        if name not in self.weights:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
            self.model.graph.initializer.append(tensor)
            self.weights[name] = tensor
        return name

    def dense_parts(self) -> list[DensePart]:
        """Products with a constant matrix, in order; not the one that gives the logits, which stays exact."""
        return [
            DensePart(part_name(node), node, str(node.input[1]))
            for node in self.nodes
            if node.op_type == "MatMul" and node.input[1] in self.weights and part_name(node) != LOGITS_PART
        ]

    def lookups(self) -> list[onnx.NodeProto]:
        """Nodes that read rows of a constant float table: by ids (Gather), or from its start (Slice)."""
        return [
            node
            for node in self.nodes
            if node.op_type in ("Gather", "Slice")
            and node.input[0] in self.weights
            and self.weights[node.input[0]].data_type == onnx.TensorProto.FLOAT
            and len(self.weights[node.input[0]].dims) == 2
        ]

    def matching(self, wanted: Sequence[str]) -> list[str]:
        """Names of the nodes that can be quantized and whose part's name contains one of `wanted`.

        Raises:
            RecipeError: an entry that matches no part; the message names the nearest.
        """
        names = {part.name: str(part.node.name) for part in self.dense_parts()}
        names |= {str(node.input[0]).removesuffix(".weight"): str(node.name) for node in self.lookups()}
        for entry in wanted:
            if not any(entry in name for name in names):
                near = difflib.get_close_matches(entry, names, n=1, cutoff=0.0)
                raise RecipeError(f"keep_fp32: no part's name contains {entry!r}; the nearest is {near[0]!r}")
        return [node for name, node in names.items() if any(entry in name for entry in wanted)]

    def rewrite(self, replace: Callable[[onnx.NodeProto], Sequence[onnx.NodeProto] | None]) -> None:
        """Put other nodes in the place of each node for which `replace` gives any (None: it stays)."""
        rewritten: list[onnx.NodeProto] = []
        for node in self.nodes:
            replacement = replace(node)
            rewritten += [node] if replacement is None else replacement
        del self.model.graph.node[:]
        self.model.graph.node.extend(rewritten)

    def use_contributed_operators(self) -> None:
        """Declare that the graph has operators of ONNX Runtime itself."""
        if CONTRIBUTED not in {entry.domain for entry in self.model.opset_import}:
            self.model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))

    def save(self, path: Path) -> None:
        """Write the graph without the constants nobody uses any more."""
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.model.graph.initializer if tensor.name in used]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        onnx.save(self.model, path)


def part_name(node: onnx.NodeProto) -> str:
    """`/layers.0/query/MatMul` is the part `layers.0.query`."""
    return str(node.name).rpartition("/")[0].strip("/").replace("/", ".")


def operator(
    kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
) -> onnx.NodeProto:
    """A node with one output, named after it."""
    return helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", domain=domain, **attributes)
