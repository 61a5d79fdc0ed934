from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from app.errors import RecipeError
from compression.evaluation import probabilities
from compression.quantization.dynamic import quantize
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


@pytest.mark.parametrize("reduced_range", [False, True])
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_signed_per_channel_and_embeddings_unsigned(
    family: str, uneven: bool, reduced_range: bool, exported: Export, tmp_path: Path
) -> None:
    made, path = exported(family, uneven), tmp_path / "int8.onnx"
    quantize(made.path, path, reduced_range=reduced_range)
    signed = weights(path, TensorProto.INT8)
    # Six in each layer, and the one before the logits.
    assert len(signed) == 3 * 6 + 1
    for name, array in signed.items():
        assert scale_of(path, name).shape == (array.shape[1],), name
    widest = max(int(np.abs(array.astype(int)).max()) for array in signed.values())
    assert widest <= 64 if reduced_range else 120 <= widest <= 127
    tables = weights(path, TensorProto.UINT8)
    assert (160, 32) in {array.shape for array in tables.values()}
    assert max(int(array.max()) for array in tables.values()) > 200
    assert not {array.shape for array in weights(path, TensorProto.FLOAT).values()} & {(32, 128), (128, 32)}


@pytest.mark.parametrize("reduced_range", [False, True])
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_nearly_as_the_model(
    family: str, uneven: bool, reduced_range: bool, exported: Export, tmp_path: Path
) -> None:
    made = exported(family, uneven)
    quantize(made.path, tmp_path / "int8.onnx", reduced_range=reduced_range)
    for row in range(8):
        batch = random_batch(1, 12, seed=row)
        expected = probabilities(logits(made.classifier.model, batch).numpy())
        assert np.abs(probabilities(answers(tmp_path / "int8.onnx", batch)) - expected).max() < 0.1


def test_parts_can_stay_in_fp32(exported: Export, tmp_path: Path) -> None:
    made = exported("bert", False)
    quantize(made.path, tmp_path / "mixed.onnx", reduced_range=True, keep_fp32=["layers.1.query", "words"])
    quantize(made.path, tmp_path / "int8.onnx", reduced_range=True)
    as_they_were = weights(made.path, TensorProto.FLOAT)
    mixed, all_int8 = (weights(tmp_path / name, TensorProto.FLOAT) for name in ("mixed.onnx", "int8.onnx"))
    for kept in ("layers.1.query.weight", "embeddings.words.weight"):
        assert np.array_equal(mixed[kept], as_they_were[kept])
        assert kept not in all_int8
    assert "layers.0.query.weight" not in mixed


def test_a_part_that_is_not_there_cannot_be_kept(exported: Export, tmp_path: Path) -> None:
    message = "no part's name contains 'layers.9.query'; the nearest is 'layers.*query'"
    with pytest.raises(RecipeError, match=message):
        quantize(
            exported("bert", False).path,
            tmp_path / "x.onnx",
            reduced_range=True,
            keep_fp32=["layers.9.query"],
        )
    assert not (tmp_path / "x.onnx").exists()


def test_the_log_is_left_as_loud_as_it_was(exported: Export, tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    try:
        quantize(exported("bert", False).path, tmp_path / "int8.onnx", reduced_range=True)
        assert root.level == logging.DEBUG
    finally:
        root.setLevel(before)
