from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper

from compression.graph import InferenceGraph
from tests.compression.exported import Export, answers
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_model, uneven_classifier

BATCHES = [random_batch(1, 3), random_batch(1, 40), random_batch(5, 12, seed=1), random_batch(9, 30, seed=2)]


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_as_the_whole_model(family: str, uneven: bool) -> None:
    model = uneven_classifier(family).model if uneven else tiny_model(family)
    graph = InferenceGraph(model)
    graph.train(False)
    for batch in BATCHES:
        with torch.no_grad():
            found = graph(batch.input_ids, batch.attention_mask)
        assert torch.allclose(found, logits(model, batch), atol=1e-5)


@pytest.mark.parametrize("bias", ["key", "value"])
def test_biases_that_are_left_out_were_there(bias: str) -> None:
    """The test above would not notice them if they were zero."""
    model = tiny_model()
    parts = [module for name, module in model.named_modules() if name.endswith(f"self.{bias}")]
    assert len(parts) == 3
    assert all(float(torch.as_tensor(part.bias).detach().abs().max()) > 0.1 for part in parts)
    graph = InferenceGraph(model)
    assert all(getattr(layer, bias).bias is None for layer in graph.layers)


def shapes_in(path: Path, names: list[str], rows: int, tokens: int) -> list[tuple[int, ...]]:
    """Shapes of inner values for a batch."""
    model = onnx.load(path)
    model.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = random_batch(rows, tokens)
    feeds = {"input_ids": batch.input_ids.numpy(), "attention_mask": batch.attention_mask.numpy()}
    return [np.asarray(value).shape for value in session.run(names, feeds)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_computes_one_position(family: str, exported: Export) -> None:
    path = exported(family, False).path
    output_of = {node.name: node.output[0] for node in onnx.load(path).graph.node}

    def shape(layer: int, part: str) -> tuple[int, ...]:
        return shapes_in(path, [output_of[f"/layers.{layer}/{part}/MatMul"]], rows=2, tokens=9)[0]

    assert shape(1, "query") == shape(1, "attention_output") == (2, 9, 32)
    assert shape(1, "ffn_input") == (2, 9, 128)
    assert shape(2, "query") == shape(2, "attention_output") == shape(2, "ffn_output") == (2, 1, 32)
    assert shape(2, "ffn_input") == (2, 1, 128)
    assert shape(2, "key") == shape(2, "value") == (2, 9, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_runtimes_can_read_every_operator(family: str, exported: Export) -> None:
    pytest.importorskip("openvino")
    made = exported(family, True)
    graph = onnx.load(made.path)
    assert {node.domain for node in graph.graph.node} == {""}
    for batch in BATCHES:
        expected = logits(made.classifier.model, batch).numpy()
        assert np.allclose(answers(made.path, batch, engine="onnx"), expected, atol=1e-4)
        # OpenVINO computes in bf16 where the CPU has it.
        assert np.allclose(answers(made.path, batch, engine="openvino"), expected, atol=0.5)


def test_no_shape_is_computed_at_run_time_but_the_length(exported: Export) -> None:
    counted = Counter(node.op_type for node in onnx.load(exported("bert", False).path).graph.node)
    assert counted["Shape"] == 1
    assert counted["LayerNormalization"] == 7
    assert counted["MatMul"] == 3 * 8 + 2
