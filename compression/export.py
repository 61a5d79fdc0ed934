"""A PyTorch classifier as a build in fp32, an ONNX graph or TorchScript: (ids, mask) -> logits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn
from transformers import PreTrainedModel

from compression.bottleneck_graph import BottleneckGraph
from compression.early_exit import exits_of
from compression.exit_graph import EarlyExitGraph
from compression.graph import InferenceGraph
from compression.pruning.tokens import prunes
from compression.token_graph import TokenPrunedGraph

INPUT_NAMES = ["input_ids", "attention_mask"]
OUTPUT_NAME = "logits"


def to_onnx(model: PreTrainedModel, path: Path, opset: int) -> None:
    """Write a graph of standard operators, batch and sequence left open.

    Every weight is named after the part it belongs to: `layers.0.query.weight`.
    """
    module_to_onnx(_graph(model), path, opset, vocabulary=int(model.config.vocab_size))


def module_to_onnx(module: nn.Module, path: Path, opset: int, vocabulary: int) -> None:
    """The same for any module that maps (ids, mask) to logits."""
    batch_axis = {0: "batch", 1: "sequence"}
    with _traceable(module):
        torch.onnx.export(
            module,
            _example(vocabulary),
            str(path),
            input_names=INPUT_NAMES,
            output_names=[OUTPUT_NAME],
            dynamic_axes={"input_ids": batch_axis, "attention_mask": batch_axis, OUTPUT_NAME: {0: "batch"}},
            opset_version=opset,
            # The other exporter rewrites the graph in its own way.
            dynamo=False,
        )
    graph = onnx.load(path)
    _name_weights(graph.graph)
    onnx.save(graph, path)


def to_torchscript(model: PreTrainedModel, path: Path) -> None:
    """Write a traced module."""
    module = _graph(model)
    with _traceable(module), torch.inference_mode():
        traced = torch.jit.trace(module, _example(int(model.config.vocab_size)))
        torch.jit.save(torch.jit.freeze(traced), str(path))


def _graph(model: PreTrainedModel) -> nn.Module:
    """What the answer needs of a copy of the model."""
    if model.config.model_type == "mobilebert":
        return BottleneckGraph(_copy(model))
    if exits_of(model) is not None:
        return EarlyExitGraph(_copy(model))
    return (TokenPrunedGraph if prunes(model) else InferenceGraph)(_copy(model))


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    """What is exported is put on the CPU and into eval mode; the model itself stays as it is."""
    copied = copy.deepcopy(model)
    nn.Module.to(copied, "cpu")
    copied.train(False)
    return copied


def _example(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows, one of them padded, so that nothing about batch, length or mask is taken as constant."""
    input_ids = torch.randint(5, vocabulary, (2, 12), generator=torch.Generator().manual_seed(0))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 8:] = 0
    return input_ids, attention_mask


@contextmanager
def _traceable(module: nn.Module) -> Iterator[None]:
    """In eval mode. Tracing warns of values it freezes; parity checks the result."""
    module.train(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _name_weights(graph: onnx.GraphProto) -> None:
    """The exporter numbers transposed weights; the node that uses one knows whose it is."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    named: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            name = node.name.removesuffix("/MatMul").strip("/").replace("/", ".") + ".weight"
            named.setdefault(node.input[1], name)
    for node in graph.node:
        # Equal weights are stored once, and every part that has them reads that one.
        node.input[:] = [named.get(value, value) for value in node.input]
    for number, name in named.items():
        weights[number].name = name
