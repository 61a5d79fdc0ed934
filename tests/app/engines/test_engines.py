from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.engines import available_engines, base, load_engine
from app.errors import EngineError
from tests.app.tiny import write_graph


def test_the_default_install_has_onnx() -> None:
    assert "onnx" in available_engines()


def test_what_is_unknown_or_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="unknown engine 'abacus'"):
        load_engine("abacus", tmp_path, 1)
    monkeypatch.setitem(base._ENGINES, "openvino", ("app.engines.openvino", "no_such_runtime"))
    with pytest.raises(EngineError, match=r"pip install 'bertpress\[openvino\]'"):
        load_engine("openvino", tmp_path, 1)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_padded_batch_answers_as_single_rows(tmp_path: Path, engine: str) -> None:
    if engine not in available_engines():
        pytest.skip(f"{engine} is not installed")
    write_graph(tmp_path / "model.onnx", seed=3, classes=4)
    loaded = load_engine(engine, tmp_path / "model.onnx", threads=2)
    ids = np.array([[2, 7, 8, 3], [2, 9, 3, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    batch = loaded.logits(ids, mask)
    assert batch.shape == (2, 4)
    assert batch.dtype == np.dtype(np.float32)
    alone = loaded.logits(ids[1:, :3], mask[1:, :3])
    np.testing.assert_allclose(batch[1:], alone, rtol=1e-2 if engine == "openvino" else 1e-5, atol=1e-2)


def test_onnx_failures_are_ours(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot load"):
        load_engine("onnx", tmp_path / "broken.onnx", 1)
    write_graph(tmp_path / "model.onnx", seed=1)
    engine = load_engine("onnx", tmp_path / "model.onnx", 1)
    with pytest.raises(EngineError, match=r"shape \(1, 1\)"):
        engine.logits(np.array([[10_000]]), np.array([[1]]))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.logits(np.array([[1]]), np.array([[1]]))


def test_openvino_computes_in_the_precision_of_the_build(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    write_graph(tmp_path / "model.onnx", seed=3)
    ids = np.array([[2, 7, 8, 3, 11, 4]])
    exact = load_engine("onnx", tmp_path / "model.onnx", 1).logits(ids, np.ones_like(ids))
    found = load_engine("openvino", tmp_path / "model.onnx", 1, "fp32").logits(ids, np.ones_like(ids))
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
    rough = load_engine("openvino", tmp_path / "model.onnx", 1, "bf16").logits(ids, np.ones_like(ids))
    np.testing.assert_allclose(rough, exact, rtol=0.05, atol=0.05)
