"""fp16 for GPUs: what a CPU can tell of it, and on a GPU that the CPU's emulation gives the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from app.engines import accelerators, load_engine
from compression import candidates
from compression.builds import CandidateBuild
from compression.candidates import answering
from compression.quantization import half
from tests.compression.exported import Export, answers
from tests.compression.tiny import random_batch

FAMILIES = ("bert", "roberta", "distilbert")


@pytest.mark.parametrize("family", FAMILIES)
def test_floats_are_halved_and_answers_stay_near(family: str, exported: Export, tmp_path: Path) -> None:
    plain = exported(family, False).path
    converted = half.convert(plain, tmp_path / "half.onnx")
    graph = onnx.load(converted).graph
    floats = {tensor.data_type for tensor in graph.initializer} & {TensorProto.FLOAT, TensorProto.FLOAT16}
    assert floats == {TensorProto.FLOAT16}
    assert [output.type.tensor_type.elem_type for output in graph.output] == [TensorProto.FLOAT]
    assert {node.type.tensor_type.elem_type for node in graph.input} == {TensorProto.INT64}
    assert converted.stat().st_size < 0.7 * plain.stat().st_size
    found, exact = (answers(path, random_batch()) for path in (converted, plain))
    assert np.allclose(found, exact, atol=0.01)
    assert not np.allclose(found, exact, atol=1e-7)


def test_padding_does_not_reach_an_answer(exported: Export, tmp_path: Path) -> None:
    """The scores of padding fit into half precision."""
    engine = load_engine("onnx", half.convert(exported("bert", False).path, tmp_path / "half.onnx"), 1)
    ids = np.array([[2, 9, 8, 7, 3]])
    padded = np.pad(ids, ((0, 0), (0, 59)))
    alone = engine.logits(ids, np.ones_like(ids))
    assert np.allclose(engine.logits(padded, (padded > 0).astype(np.int64)), alone, atol=2e-3)


def build_for_cuda(folder: Path) -> CandidateBuild:
    return CandidateBuild("cuda-fp16", "onnx", "fp16", "half.onnx", ("cuda",), folder)


def test_without_cuda_it_is_emulated(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = half.convert(exported("bert", False).path, tmp_path / "half.onnx")
    monkeypatch.setattr(candidates, "accelerators", frozenset)
    engine, emulated = answering(build_for_cuda(tmp_path), path)
    assert emulated
    assert engine.description.endswith("on CPU")


@pytest.mark.skipif("cuda" not in accelerators(), reason="this onnxruntime has no CUDA")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_emulation_gives_what_the_gpu_gives(family: str, exported: Export, tmp_path: Path) -> None:
    path = half.convert(exported(family, False).path, tmp_path / "half.onnx")
    engine, emulated = answering(build_for_cuda(tmp_path), path)
    assert not emulated
    assert engine.description.endswith("on CUDA")
    batch = random_batch(rows=16)
    found = engine.logits(batch.input_ids.numpy(), batch.attention_mask.numpy())
    assert np.abs(found - answers(path, batch)).max() <= 5e-3
