from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compression.quantization import static, weight_only
from compression.quantization.calibration import observe, ranges
from compression.quantization.editing import DensePart, GraphEditor
from compression.quantization.weights import Floats, QuantizedWeight, rounded
from compression.shared_weights import WEIGHTS_FILE, share
from tests.compression.exported import Export, answers
from tests.compression.tiny import random_batch, rows_of


def seven_bits(_: DensePart, weight: Floats) -> QuantizedWeight:
    return rounded(weight, 7)


@pytest.fixture
def graphs(exported: Export, tmp_path: Path) -> dict[str, Path]:
    """A static build and a weight-only one of the same integers."""
    made = exported("bert", True)
    observed = observe(made.path, rows_of(16, tmp_path), range(16))
    editor = GraphEditor.load(made.path)
    static.quantize(editor, ranges(observed), seven_bits)
    editor.save(tmp_path / "static.onnx")
    editor = GraphEditor.load(made.path)
    weight_only.store(editor, seven_bits)
    editor.save(tmp_path / "stored.onnx")
    return {"model.onnx": tmp_path / "static.onnx", "floats.onnx": tmp_path / "stored.onnx"}


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_the_graphs_answer_as_before(engine: str, graphs: dict[str, Path], tmp_path: Path) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    written = share(graphs, tmp_path / "shared")
    assert set(written) == {"model.onnx", "floats.onnx", WEIGHTS_FILE}
    for name, alone in graphs.items():
        batch = random_batch(5, 12)
        assert np.array_equal(answers(written[name], batch, engine), answers(alone, batch, engine))


def test_what_is_equal_is_stored_once(graphs: dict[str, Path], tmp_path: Path) -> None:
    written = share(graphs, tmp_path / "shared")
    before = sum(path.stat().st_size for path in graphs.values())
    after = written[WEIGHTS_FILE].stat().st_size
    one = sum(tensor.ByteSize() for tensor in GraphEditor.load(graphs["model.onnx"]).weights.values())
    # Constants begin at pages, so tiny ones grow; of each there is one.
    count = sum(
        len(tensor.raw_data) >= 1024 for tensor in GraphEditor.load(graphs["model.onnx"]).weights.values()
    )
    assert after < one + 4096 * count
    assert after < before + 4096 * count
    words = GraphEditor.load(graphs["floats.onnx"]).weight("embeddings.words.weight").tobytes()
    assert written[WEIGHTS_FILE].read_bytes().count(words) == 1
