from __future__ import annotations

import importlib.metadata
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engines import KeepsMemory, accelerators, available_engines, base, load_engine, runtime_version
from app.errors import EngineError
from app.hardware import resident_memory_bytes, trim_memory
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


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_passes_at_once_answer_as_one_alone(tmp_path: Path, engine: str) -> None:
    if engine not in available_engines():
        pytest.skip(f"{engine} is not installed")
    write_graph(tmp_path / "model.onnx", seed=3, layers=3)
    loaded = load_engine(engine, tmp_path / "model.onnx", threads=1, passes=2)
    draw = np.random.default_rng(0)
    batches = [draw.integers(1, 20, size=(2, length)) for length in range(3, 23)]
    expected = [loaded.logits(batch, np.ones_like(batch)) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: loaded.logits(batch, np.ones_like(batch)), batches * 5))
    for one, other in zip(found, expected * 5, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-2)


def test_trimming_gives_back_what_a_large_pass_has_taken(tmp_path: Path) -> None:
    write_graph(tmp_path / "model.onnx", seed=3, layers=3)
    loaded = load_engine("onnx", tmp_path / "model.onnx", threads=1)
    small, large = np.ones((1, 8), dtype=np.int64), np.ones((512, 512), dtype=np.int64)
    expected = loaded.logits(small, small)
    assert isinstance(loaded, KeepsMemory)
    loaded.trim()
    trim_memory()
    at_rest = resident_memory_bytes()
    for rows in (64, 256, 512):
        loaded.logits(large[:rows], large[:rows])
    assert resident_memory_bytes() > at_rest + 16 * 2**20
    loaded.trim()
    trim_memory()
    assert resident_memory_bytes() < at_rest + 8 * 2**20
    np.testing.assert_array_equal(loaded.logits(small, small), expected)


def test_openvino_has_a_stream_for_each_pass(tmp_path: Path) -> None:
    if "openvino" not in available_engines():
        pytest.skip("openvino is not installed")
    write_graph(tmp_path / "model.onnx", seed=3)
    loaded = load_engine("openvino", tmp_path / "model.onnx", threads=1, passes=2)
    assert re.fullmatch(r"openvino \d+\.\d+\.\d+ at \w+, 2 streams", loaded.description)


def test_torchscript_opens_without_a_warning(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Sum(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return (input_ids * attention_mask).sum(dim=1, keepdim=True).float()

    example = torch.ones(1, 3, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Sum(), (example, example)).save(str(tmp_path / "model.pt"))
    loaded = load_engine("torchscript", tmp_path / "model.pt", 1)
    assert loaded.logits(np.array([[2, 3]]), np.array([[1, 0]])).tolist() == [[2.0]]
    assert loaded.description.startswith("torch ")
    loaded.close()
    with pytest.raises(EngineError, match="closed"):
        loaded.logits(np.array([[2, 3]]), np.array([[1, 0]]))
    (tmp_path / "model.pt").write_bytes(b"no module")
    with pytest.raises(EngineError, match="cannot load"):
        load_engine("torchscript", tmp_path / "model.pt", 1)


def test_the_runtimes_are_named() -> None:
    assert re.fullmatch(r"onnxruntime \d+\.\d+.*", runtime_version("onnx"))


def test_a_runtime_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "onnxruntime-gpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.20.1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert runtime_version("onnx") == "onnxruntime 1.20.1"
    assert runtime_version("openvino") == "openvino"


needs_cuda = pytest.mark.skipif("cuda" not in accelerators(), reason="this onnxruntime has no CUDA")


@pytest.mark.skipif("cuda" in accelerators(), reason="this onnxruntime has CUDA")
def test_without_cuda_a_build_for_it_does_not_open(tmp_path: Path) -> None:
    write_graph(tmp_path / "model.onnx", seed=1)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(EngineError, match="NVIDIA"):
        load_engine("onnx", tmp_path / "model.onnx", 1, device="cuda")


def test_other_engines_run_on_the_cpu_alone(tmp_path: Path) -> None:
    if "openvino" not in available_engines():
        pytest.skip("openvino is not installed")
    with pytest.raises(EngineError, match="on the CPU alone"):
        load_engine("openvino", tmp_path, 1, device="cuda")


@needs_cuda
def test_on_cuda_it_answers_as_on_the_cpu(tmp_path: Path) -> None:
    write_graph(tmp_path / "model.onnx", seed=3, classes=4, layers=2)
    ids = np.array([[2, 7, 8, 3], [2, 9, 3, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    on_gpu = load_engine("onnx", tmp_path / "model.onnx", 1, device="cuda")
    assert on_gpu.description.endswith("on CUDA")
    on_cpu = load_engine("onnx", tmp_path / "model.onnx", 1)
    np.testing.assert_allclose(on_gpu.logits(ids, mask), on_cpu.logits(ids, mask), atol=1e-3)


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
