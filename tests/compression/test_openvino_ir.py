from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from app.engines import load_engine
from app.errors import CompressionError, EngineError
from compression.openvino_ir import check_readable, convert
from compression.quantization import static
from compression.quantization.calibration import observe, ranges
from compression.quantization.editing import DensePart, GraphEditor
from compression.quantization.scheme import Quantization, apply
from compression.quantization.weights import rounded
from tests.compression.exported import Export, answers
from tests.compression.tiny import random_batch, rows_of


def test_it_answers_as_the_graph(exported: Export, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = exported("bert", True)
    model, weights = convert(made.path, tmp_path)
    assert (model.name, weights.name) == ("model.xml", "model.bin")
    for batch in (random_batch(1, 5), random_batch(5, 30)):
        engine = load_engine("openvino", model, 1, "fp32")
        found = engine.logits(batch.input_ids.numpy(), batch.attention_mask.numpy())
        assert np.allclose(found, answers(made.path, batch), atol=1e-4)


def test_integers_stay_integers(exported: Export, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = exported("bert", False)
    observed = observe(made.path, rows_of(16, tmp_path), range(16))
    editor = GraphEditor.load(made.path)
    static.quantize(editor, ranges(observed), lambda _, weight: rounded(weight, 8))
    editor.save(tmp_path / "int8.onnx")
    (tmp_path / "floats").mkdir()
    (tmp_path / "integers").mkdir()
    _, floats = convert(made.path, tmp_path / "floats")
    _, integers = convert(tmp_path / "int8.onnx", tmp_path / "integers")
    dense = sum(GraphEditor.load(made.path).weight(part.weight).size for part in editor_parts(made.path))
    assert integers.stat().st_size < floats.stat().st_size - 2.5 * dense


def editor_parts(path: Path) -> list[DensePart]:
    return GraphEditor.load(path).dense_parts()


def test_operators_of_onnx_runtime_are_refused(exported: Export, tmp_path: Path) -> None:
    editor = apply(Quantization(method="per-token"), exported("bert", False).path, {})
    editor.save(tmp_path / "per_token.onnx")
    with pytest.raises(CompressionError, match="MatMulIntegerToFloat"):
        check_readable(tmp_path / "per_token.onnx")
    with pytest.raises(CompressionError, match="quantize with method 'static' or 'weight-only'"):
        convert(tmp_path / "per_token.onnx", tmp_path)


def test_without_openvino_it_says_what_to_install(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"pip install 'bertpress\[openvino\]'"):
        convert(exported("bert", False).path, tmp_path)
