from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from app.errors import DataError
from loadtests.peers import float_model
from loadtests.peers.float_model import Weights, dequantized
from loadtests.peers.known import PEERS

HIDDEN, FFN, WORDS = 4, 8, 5
DENSE = {
    "bert.encoder.layer.0.attention.output.dense": (HIDDEN, HIDDEN),
    "bert.encoder.layer.0.intermediate.dense": (HIDDEN, FFN),
    "bert.encoder.layer.0.output.dense": (FFN, HIDDEN),
    "bert.pooler.dense": (HIDDEN, HIDDEN),
    "classifier": (HIDDEN, 2),
}
EMBEDDINGS = {
    "word_embeddings.weight": (WORDS, HIDDEN),
    "position_embeddings.weight": (3, HIDDEN),
    "token_type_embeddings.weight": (2, HIDDEN),
    "LayerNorm.weight": (HIDDEN,),
    "LayerNorm.bias": (HIDDEN,),
}


class Graph:
    """Builds a fused, dynamically quantized BERT of one layer, and knows the weights that went in."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.tensors: list[onnx.TensorProto] = []
        self.expected: Weights = {}
        nodes = [self._embeddings(), self._attention()]
        nodes += [self._dense(name, shape, number) for number, (name, shape) in enumerate(DENSE.items())]
        self.model = helper.make_model(helper.make_graph(nodes, "bert", [], [], self.tensors))

    def _quantized(self, stored: str, shape: tuple[int, ...], per_column: bool) -> npt.NDArray[np.float32]:
        """Store integers with scale and zero point, and return what they stand for."""
        columns = shape[-1:] if per_column else ()
        scale = self.random.uniform(0.01, 0.1, columns).astype(np.float32)
        zero_point = np.zeros(columns, np.int8) if per_column else np.array(7, np.uint8)
        integers = self.random.integers(0, 100, shape).astype(zero_point.dtype)
        for suffix, values in (("quantized", integers), ("scale", scale), ("zero_point", zero_point)):
            self.tensors.append(numpy_helper.from_array(np.asarray(values), f"{stored}_{suffix}"))
        return np.asarray((integers.astype(np.float32) - zero_point) * scale, dtype=np.float32)

    def _bias(self, name: str, stored: str, size: int) -> None:
        values = self.random.normal(size=size).astype(np.float32)
        self.tensors.append(numpy_helper.from_array(values, stored))
        self.expected[name] = values

    def _embeddings(self) -> onnx.NodeProto:
        inputs = ["input_ids", "segment_ids"]
        for name, shape in EMBEDDINGS.items():
            stored = f"model.bert.embeddings.{name}"
            self.expected[f"bert.embeddings.{name}"] = self._quantized(stored, shape, per_column=False)
            inputs.append(f"{stored}_quantized")
        return helper.make_node("QEmbedLayerNormalization", inputs, ["hidden"], domain="com.microsoft")

    def _attention(self) -> onnx.NodeProto:
        weight = self._quantized("Attention_0_qkv_weight", (HIDDEN, 3 * HIDDEN), per_column=True)
        bias = self.random.normal(size=3 * HIDDEN).astype(np.float32)
        self.tensors.append(numpy_helper.from_array(bias, "Attention_0_qkv_bias"))
        for number, name in enumerate(("query", "key", "value")):
            columns = slice(number * HIDDEN, (number + 1) * HIDDEN)
            prefix = f"bert.encoder.layer.0.attention.self.{name}"
            self.expected[f"{prefix}.weight"] = weight[:, columns].T
            self.expected[f"{prefix}.bias"] = bias[columns]
        inputs = ["hidden", "Attention_0_qkv_weight_quantized", "Attention_0_qkv_bias"]
        return helper.make_node("QAttention", inputs, ["attended"], domain="com.microsoft")

    def _dense(self, name: str, shape: tuple[int, int], number: int) -> onnx.NodeProto:
        # an exported product's weight is named by a number; biases keep their names
        stored = f"onnx::MatMul_{number}"
        self.expected[f"{name}.weight"] = self._quantized(stored, shape, per_column=True).T
        self._bias(f"{name}.bias", f"model.{name}.bias", shape[1])
        return helper.make_node("MatMulInteger", ["x", f"{stored}_quantized"], [f"y{number}"])


def test_every_weight_is_what_its_integers_stand_for() -> None:
    graph = Graph()

    weights = dequantized(graph.model)

    assert weights.keys() == graph.expected.keys()
    for name, expected in graph.expected.items():
        np.testing.assert_allclose(weights[name], expected, rtol=1e-6, err_msg=name)
        assert weights[name].dtype == np.float32


def test_it_is_written_in_hugging_face_s_form(tmp_path: Path) -> None:
    graph, version = Graph(), tmp_path / "1"
    version.mkdir()
    onnx.save(graph.model, version / "model.onnx")
    onnx.save(other_graph(), version / "other.onnx")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (version / name).write_text(f'"{name}"')

    folder = float_model.write(version, ["other.onnx", "model.onnx"], tmp_path / "float")

    assert load_file(folder / "model.safetensors").keys() == graph.expected.keys()
    assert (folder / "tokenizer.json").read_text() == '"tokenizer.json"'


def other_graph() -> onnx.ModelProto:
    """Neither a BERT nor quantized."""
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1])]
    return helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "other", inputs, [])
    )


def test_builds_of_another_kind_are_refused(tmp_path: Path) -> None:
    onnx.save(other_graph(), tmp_path / "other.onnx")

    with pytest.raises(DataError, match=r"other\.onnx: not a fused BERT .*give --float-model DIR"):
        float_model.write(tmp_path, ["other.onnx"], tmp_path / "float")


def test_every_peer_has_a_setting_that_reads_it_or_says_otherwise() -> None:
    engines = {setting.engine for peer in PEERS.values() for setting in peer.documented}

    assert engines == {"transformers", "torch", "optimum, int8"}
