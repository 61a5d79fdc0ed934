"""The float model behind an int8 build, in Hugging Face's form: what the users of other servers would load.

The published artifacts carry int8 weights only. Their dequantized weights make a model of the same shape and
nearly the same answers, which anybody can make again: what it costs to run does not depend on the values.
Only for what `bertpress compress` exports: fused BERT, dynamic int8 (a `--float-model` of one's own serves
as well).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from app.errors import DataError

Weights = dict[str, npt.NDArray[np.float32]]
_COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json")
_KINDS = ("QEmbedLayerNormalization", "QAttention", "MatMulInteger")
_OF_A_LAYER = ("attention.output.dense", "intermediate.dense", "output.dense")
_EMBEDDINGS = (
    "word_embeddings.weight",
    "position_embeddings.weight",
    "token_type_embeddings.weight",
    "LayerNorm.weight",
    "LayerNorm.bias",
)


def write(version: Path, builds: Sequence[str], folder: Path) -> Path:
    """Write the float model behind the first fitting build of a version into a folder; returns the folder.

    Raises:
        DataError: none of the builds is a fused BERT with dynamic int8 weights.
    """
    weights = _first_dequantized(version, builds)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        shutil.copyfile(version / name, folder / name)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _first_dequantized(version: Path, builds: Sequence[str]) -> Weights:
    refused = []
    for build in builds:
        try:
            return dequantized(onnx.load(str(version / build)))
        except DataError as error:
            refused.append(f"{build}: {error}")
    raise DataError(
        f"{version} has no build to make a float model of ({'; '.join(refused)}); give --float-model DIR"
    )


def dequantized(model: onnx.ModelProto) -> Weights:
    """The float weights of BertForSequenceClassification, by their names there.

    Raises:
        DataError: the graph is not a fused BERT with dynamic int8 weights.
    """
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = {kind: [node for node in model.graph.node if node.op_type == kind] for kind in _KINDS}
    layers = len(nodes["QAttention"])
    if not layers or len(nodes["QEmbedLayerNormalization"]) != 1:
        raise DataError("not a fused BERT with dynamic int8 weights")
    # biases and layer norms kept their names, under the module that was exported
    weights = {
        name.removeprefix("model."): array
        for name, array in stored.items()
        if name.startswith("model.") and array.dtype == np.float32 and not name.endswith("_scale")
    }
    weights |= _embeddings(list(nodes["QEmbedLayerNormalization"][0].input), stored)
    for layer, node in enumerate(nodes["QAttention"]):
        weights |= _attention(f"bert.encoder.layer.{layer}.attention.self", list(node.input), stored)
    dense = [f"bert.encoder.layer.{layer}.{name}" for layer in range(layers) for name in _OF_A_LAYER]
    products = [node.input[1] for node in nodes["MatMulInteger"]]
    for name, product in zip([*dense, "bert.pooler.dense", "classifier"], products, strict=True):
        weights[f"{name}.weight"] = _float(stored, re.sub("_quantized$", "", product)).T
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}


def _float(stored: dict[str, npt.NDArray[np.generic]], name: str) -> npt.NDArray[np.float32]:
    """`scale * (quantized - zero_point)`, per tensor or per column."""
    quantized = stored[f"{name}_quantized"].astype(np.float32)
    zero_point = stored[f"{name}_zero_point"].astype(np.float32)
    scale = stored[f"{name}_scale"].astype(np.float32)
    return np.asarray((quantized - zero_point) * scale, dtype=np.float32)


def _embeddings(inputs: list[str], stored: dict[str, npt.NDArray[np.generic]]) -> Weights:
    names = (name.removesuffix("_quantized") for name in inputs if name.endswith("_quantized"))
    return {
        f"bert.embeddings.{ours}": _float(stored, theirs)
        for ours, theirs in zip(_EMBEDDINGS, names, strict=True)
    }


def _attention(prefix: str, inputs: list[str], stored: dict[str, npt.NDArray[np.generic]]) -> Weights:
    """Split the fused projection of shape (H, 3 H) and its bias into query, key and value."""
    weight = _float(stored, inputs[1].removesuffix("_quantized"))
    bias = stored[inputs[2]]
    parts = zip(("query", "key", "value"), np.split(weight, 3, axis=1), np.split(bias, 3), strict=True)
    return {
        f"{prefix}.{name}.{kind}": values
        for name, columns, offsets in parts
        for kind, values in (("weight", columns.T), ("bias", offsets.astype(np.float32)))
    }
