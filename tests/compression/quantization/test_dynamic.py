from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from compression.batches import Batch
from compression.evaluation import probabilities
from compression.quantization import dynamic
from compression.quantization.editing import GraphEditor
from tests.compression.exported import Export, answers
from tests.compression.tiny import FAMILIES, logits, random_batch


def weights(path: Path, kind: int) -> dict[str, npt.NDArray[np.generic]]:
    """Matrices of one data type, by name."""
    found = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type == kind
    }
    return {name: array for name, array in found.items() if array.ndim == 2 and array.size > 64}


def scale_of(path: Path, name: str) -> npt.NDArray[np.generic]:
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return scales[name.replace("_quantized", "_scale")]


def quantized(source: Path, target: Path, reduced_range: bool) -> None:
    dynamic.quantize(GraphEditor.load(source), reduced_range=reduced_range).save(target)


@pytest.mark.parametrize("reduced_range", [False, True])
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_signed_per_channel(
    family: str, uneven: bool, reduced_range: bool, exported: Export, tmp_path: Path
) -> None:
    made, path = exported(family, uneven), tmp_path / "int8.onnx"
    quantized(made.path, path, reduced_range)
    signed = weights(path, TensorProto.INT8)
    # Six in each layer, and the one before the logits.
    assert len(signed) == 3 * 6 + 1
    for name, array in signed.items():
        assert scale_of(path, name).shape == (array.shape[1],), name
    widest = max(int(np.abs(array.astype(int)).max()) for array in signed.values())
    assert widest <= 64 if reduced_range else 120 <= widest <= 127
    assert not {array.shape for array in weights(path, TensorProto.FLOAT).values()} & {(32, 128), (128, 32)}


@pytest.mark.parametrize("reduced_range", [False, True])
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_nearly_as_the_model(
    family: str, uneven: bool, reduced_range: bool, exported: Export, tmp_path: Path
) -> None:
    made = exported(family, uneven)
    quantized(made.path, tmp_path / "int8.onnx", reduced_range)
    for row in range(8):
        batch = random_batch(1, 12, seed=row)
        expected = probabilities(logits(made.classifier.model, batch).numpy())
        assert np.abs(probabilities(answers(tmp_path / "int8.onnx", batch)) - expected).max() < 0.1


def test_its_answers_move_with_their_batch(exported: Export, tmp_path: Path) -> None:
    """Why this is not the default."""
    quantized(exported("bert", False).path, tmp_path / "int8.onnx", reduced_range=False)
    batch = random_batch(9, 30, seed=3)
    alone = Batch(batch.input_ids[:1], batch.attention_mask[:1], batch.labels[:1], batch.rows[:1])
    together = answers(tmp_path / "int8.onnx", batch)
    assert np.abs(answers(tmp_path / "int8.onnx", alone)[0] - together[0]).max() > 1e-3


def test_the_log_is_left_as_loud_as_it_was(exported: Export, tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    try:
        quantized(exported("bert", False).path, tmp_path / "int8.onnx", reduced_range=True)
        assert root.level == logging.DEBUG
    finally:
        root.setLevel(before)
