"""bf16 step by step, beside the definition and beside what CPUs that have it gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app import artifact
from app.engines import load_engine
from app.errors import RecipeError
from app.tokenizer import Tokenizer
from compression import candidates
from compression.builds import CandidateBuild
from compression.candidates import gather
from compression.quantization import bf16
from tests.compression.exported import Export, answers
from tests.compression.tiny import random_batch

MODELS = Path(__file__).parents[3] / "models"
# What lies between two neighbours of bf16 from 1 to 2, and from 2 to 4: logits of other magnitude are rare.
_ULP = 2.0**-7


def test_what_comes_out_is_near_and_coarser(exported: Export, tmp_path: Path) -> None:
    plain = exported("bert", False).path
    found = answers(bf16.emulate(plain, tmp_path / "bf16.onnx"), random_batch())
    exact = answers(plain, random_batch())
    assert np.allclose(found, exact, atol=0.05)
    assert not np.allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize("name", ["sentiment-balanced", "sentiment-fast"])
def test_it_gives_what_the_hardware_gave(name: str, tmp_path: Path) -> None:
    """Published logits that were computed by a CPU with bf16: a step or two of bf16 apart, no more."""
    folder = artifact.newest_folder(MODELS, name)
    manifest = artifact.read(folder)
    build = next(each for each in manifest.builds if each.precision == "bf16")
    assert build.parity is not None and not build.parity.emulated
    emulated = load_engine("onnx", bf16.emulate(folder / build.file, tmp_path / "bf16.onnx"), 1)
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, manifest.tokenizer)
    for probe in manifest.probes:
        ids = tokenizer.encode(probe.text).input_ids[None, :]
        found = emulated.logits(ids, np.ones_like(ids))[0]
        assert np.abs(found - np.asarray(probe.logits[build.name])).max() <= 4 * _ULP


def stage(folder: Path, graph: Path) -> Path:
    folder.mkdir()
    (folder / graph.name).write_bytes(graph.read_bytes())
    CandidateBuild("openvino-bf16", "openvino", "bf16", graph.name, ("bf16",), folder).write(folder)
    return folder


def test_a_build_that_this_cpu_cannot_run_is_emulated(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = exported("bert", False).path
    monkeypatch.setattr(candidates, "cpu_features", lambda: frozenset({"avx2"}))
    (candidate,) = gather([stage(tmp_path / "a", graph)], tmp_path / "version").builds
    assert candidate.emulated
    assert candidate.path.read_bytes() == graph.read_bytes(), "what is published is the graph itself"
    batch = random_batch()
    found = candidate.engine.logits(batch.input_ids.numpy(), batch.attention_mask.numpy())
    assert np.array_equal(found, answers(bf16.emulate(graph, tmp_path / "bf16.onnx"), batch))


def test_another_form_than_onnx_cannot_be_emulated(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "model.xml"
    graph.write_bytes(exported("bert", False).path.read_bytes())
    monkeypatch.setattr(candidates, "cpu_features", lambda: frozenset({"avx2"}))
    with pytest.raises(RecipeError, match="computes in bf16, which this CPU does not"):
        gather([stage(tmp_path / "a", graph)], tmp_path / "version")
