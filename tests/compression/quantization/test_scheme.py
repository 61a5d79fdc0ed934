from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from pydantic import ValidationError

from app.errors import RecipeError
from compression.batches import Rows
from compression.quantization.scheme import Quantization, apply, quantize
from tests.compression.exported import Export, answers
from tests.compression.tiny import random_batch, rows_of


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return rows_of(32, tmp_path)


ALL: list[dict[str, Any]] = [
    {},
    {"rounding": "compensated"},
    {"activations": "entropy"},
    {"activations": "percentile", "embeddings": 4},
    {"method": "per-token"},
    {"method": "dynamic"},
    {"method": "weight-only", "rounding": "compensated", "embeddings": 32},
    {"method": "weight-only", "weight_bits": 4, "rounding": "compensated"},
    {"method": "blocks", "weight_bits": 4, "block": 16},
    {"method": "blocks", "weight_bits": 8, "block": 16},
]


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_every_choice_gives_a_graph_that_runs(
    settings: dict[str, Any], exported: Export, rows: Rows, tmp_path: Path
) -> None:
    made = exported("bert", True)
    quantize(Quantization(**settings), made.path, tmp_path / "small.onnx", rows, range(32))
    found = answers(tmp_path / "small.onnx", random_batch())
    assert np.isfinite(found).all()
    assert not np.array_equal(found, answers(made.path, random_batch()))


def widest(path: Path) -> int:
    stored = [t for t in onnx.load(path).graph.initializer if t.data_type == TensorProto.INT8]
    dense = [t for t in stored if t.name.startswith(("layers", "head"))]
    return max(int(np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max()) for tensor in dense)


@pytest.mark.parametrize("method", ["static", "per-token", "dynamic"])
def test_a_reduced_range_is_seven_bits(method: Any, exported: Export, rows: Rows, tmp_path: Path) -> None:
    for reduced, limit in ((True, 64), (False, 127)):
        settings = Quantization(method=method, reduced_range=reduced)
        quantize(settings, exported("bert", False).path, tmp_path / "small.onnx", rows, range(32))
        assert limit / 2 < widest(tmp_path / "small.onnx") <= limit
        assert settings.needs_vnni != reduced


def test_data_are_looked_at_only_where_they_are_needed(exported: Export) -> None:
    for settings in (Quantization(method="per-token"), Quantization(method="dynamic")):
        assert not settings.looks_at_data
        apply(settings, exported("bert", False).path, {})
    assert Quantization().looks_at_data
    assert Quantization(method="weight-only", rounding="compensated").looks_at_data


def test_a_part_that_is_not_there_cannot_be_kept(exported: Export, rows: Rows, tmp_path: Path) -> None:
    settings = Quantization(keep_fp32=("layers.9.query",))
    message = "no part's name contains 'layers.9.query'; the nearest is 'layers.*query'"
    with pytest.raises(RecipeError, match=message):
        quantize(settings, exported("bert", False).path, tmp_path / "x.onnx", rows, range(4))
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("method", ["static", "per-token", "dynamic", "weight-only", "blocks"])
def test_parts_can_stay_in_fp32(method: Any, exported: Export, rows: Rows, tmp_path: Path) -> None:
    settings = Quantization(method=method, block=16, keep_fp32=("layers.1.query", "words"))
    quantize(settings, exported("bert", False).path, tmp_path / "mixed.onnx", rows, range(8))
    floats = {
        tensor.name
        for tensor in onnx.load(tmp_path / "mixed.onnx").graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
    }
    assert {"layers.1.query.weight", "embeddings.words.weight"} <= floats
    assert "layers.0.query.weight" not in floats


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activations": "entropy", "outliers": 2}, "outliers are kept with min-max only"),
        ({"weight_bits": 4}, "method 'static' computes with 8-bit weights"),
        ({"method": "blocks", "block": 48}, "Input should be 16, 32, 64 or 128"),
        ({"embeddings": 2}, "Input should be 4, 8 or 32"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Quantization(**settings)


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, "int8-reduced"),
        ({"reduced_range": False}, "int8"),
        ({"method": "per-token", "reduced_range": False}, "int8-per-token"),
        ({"method": "dynamic"}, "int8-dynamic-reduced"),
        ({"method": "blocks", "weight_bits": 4}, "int4-blocks"),
        ({"method": "weight-only"}, "int8-weight-only"),
    ],
)
def test_builds_are_named_after_what_they_are(settings: dict[str, Any], label: str) -> None:
    assert Quantization(**settings).label == label
