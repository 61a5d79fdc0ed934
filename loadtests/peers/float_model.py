"""The float model behind a quantized build, in Hugging Face's form: what users of other servers would load.

The published artifacts carry integers only. What they stand for makes a model of the same shape and nearly
the same answers, which anybody can make again: what it costs to run does not depend on the values. What the
graph folded together (`compression.graph`) is put where that form has room for it: the scale of the attention
scores comes out of the query weights, the biases of key and value stay zero, and so do token types.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from app.errors import DataError
from compression.quantization.embeddings import PackedTable

Weights = dict[str, npt.NDArray[np.float32]]
Stored = Mapping[str, npt.NDArray[np.generic]]
_CONFIG_FILE = "config.json"
_COPIED = (_CONFIG_FILE, "tokenizer.json", "tokenizer_config.json")
# Names in the graph, and in Hugging Face's BertForSequenceClassification.
_DENSE = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "ffn_input": "intermediate.dense",
    "ffn_output": "output.dense",
}
_NORMS = {"attention_norm": "attention.output.LayerNorm", "ffn_norm": "output.LayerNorm"}


def write(version: Path, builds: Sequence[str], folder: Path) -> Path:
    """Write the float model behind the first fitting build of a version into a folder; returns the folder.

    Raises:
        DataError: none of the builds is a BERT that Hugging Face's form can hold.
    """
    config = json.loads((version / _CONFIG_FILE).read_text(encoding="utf-8"))
    weights = _first_dequantized(version, builds, config)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        shutil.copyfile(version / name, folder / name)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _first_dequantized(version: Path, builds: Sequence[str], config: Mapping[str, int]) -> Weights:
    refused = []
    for build in builds:
        try:
            return dequantized(onnx.load(str(version / build)), config)
        except DataError as error:
            refused.append(f"{build}: {error}")
    raise DataError(
        f"{version} has no build to make a float model of ({'; '.join(refused)}); give --float-model DIR"
    )


def dequantized(model: onnx.ModelProto, config: Mapping[str, int]) -> Weights:
    """The float weights of BertForSequenceClassification, by their names there.

    Raises:
        DataError: the graph is no BERT that `bertpress` exported, or has lost parts unevenly.
    """
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    try:
        return _weights(stored, config)
    except KeyError as error:
        raise DataError(f"no BERT as `bertpress export` writes it: it has no {error}") from error


def _weights(stored: Stored, config: Mapping[str, int]) -> Weights:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    token_types = np.zeros((config["type_vocab_size"], width), np.float32)
    weights: Weights = {
        "bert.embeddings.word_embeddings.weight": _words(stored),
        "bert.embeddings.position_embeddings.weight": _table(stored, "embeddings.positions"),
        "bert.embeddings.token_type_embeddings.weight": token_types,
    }
    weights |= _norm(stored, "embeddings.norm", "bert.embeddings.LayerNorm")
    for number in range(config["num_hidden_layers"]):
        ours, theirs = f"layers.{number}", f"bert.encoder.layer.{number}"
        for name, full_name in _DENSE.items():
            weights |= _dense(stored, f"{ours}.{name}", f"{theirs}.{full_name}")
        for kind in ("weight", "bias"):
            weights[f"{theirs}.attention.self.query.{kind}"] *= np.float32(math.sqrt(width // heads))
        for name, full_name in _NORMS.items():
            weights |= _norm(stored, f"{ours}.{name}", f"{theirs}.{full_name}")
        _check_shape(weights, theirs, width, config["intermediate_size"])
    weights |= _dense(stored, "head.dense", "bert.pooler.dense")
    weights |= _dense(stored, "head.output", "classifier")
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}


def _check_shape(weights: Weights, layer: str, width: int, ffn: int) -> None:
    found = weights[f"{layer}.attention.self.query.weight"], weights[f"{layer}.intermediate.dense.weight"]
    if [len(each) for each in found] != [width, ffn]:
        raise DataError(
            f"{layer} has {len(found[0])} rows of queries and {len(found[1])} neurons where Hugging Face's "
            f"form wants {width} and {ffn}: it was pruned"
        )


def _dense(stored: Stored, ours: str, theirs: str) -> Weights:
    """Weights as (out, in); a bias that the graph does not have is zero."""
    weight = _table(stored, f"{ours}.weight").T
    bias = stored.get(f"{ours}.bias", np.zeros(len(weight), np.float32))
    return {f"{theirs}.weight": weight, f"{theirs}.bias": bias.astype(np.float32)}


def _norm(stored: Stored, ours: str, theirs: str) -> Weights:
    return {f"{theirs}.{kind}": stored[f"{ours}.{kind}"].astype(np.float32) for kind in ("weight", "bias")}


def _words(stored: Stored) -> npt.NDArray[np.float32]:
    name = "embeddings.words.weight"
    if f"{name}_packed" not in stored:
        return _table(stored, name)
    packed = PackedTable(
        stored[f"{name}_packed"].astype(np.uint8),
        stored[f"{name}_scale"].astype(np.float16),
        stored[f"{name}_offset"].astype(np.float16),
    )
    return packed.restored


def _table(stored: Stored, name: str) -> npt.NDArray[np.float32]:
    """`scale * integers`, the scale by row or by column; as it is where it was not quantized."""
    if name in stored:
        return stored[name].astype(np.float32)
    integers = stored[f"{name}_quantized"].astype(np.float32)
    return np.asarray(integers * stored[f"{name}_scale"].astype(np.float32), dtype=np.float32)
