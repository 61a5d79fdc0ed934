from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from app.artifact import EngineName, Precision
from compression import candidates
from compression.builds import CandidateBuild
from compression.candidates import gather
from compression.shared_weights import WEIGHTS_FILE
from tests.compression.exported import Export, answers
from tests.compression.tiny import random_batch


def stage(
    folder: Path, graph: Path, name: str, engine: EngineName = "onnx", precision: Precision = "fp32"
) -> Path:
    """A folder as a stage leaves it."""
    folder.mkdir()
    shutil.copyfile(graph, folder / "model.onnx")
    CandidateBuild(name, engine, precision, "model.onnx", (), folder).write(folder)
    return folder


def test_builds_of_equal_bytes_are_one_file(exported: Export, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    graph = exported("bert", False).path
    first = stage(tmp_path / "a", graph, "onnx-fp32")
    second = stage(tmp_path / "b", graph, "openvino-fp32", "openvino")
    gathered = gather([first, second], tmp_path / "version")
    assert list(gathered.files) == ["model.onnx"]
    one, other = gathered.builds
    assert one.path == other.path
    batch = random_batch()
    ids, mask = batch.input_ids.numpy(), batch.attention_mask.numpy()
    assert np.allclose(one.engine.logits(ids, mask), other.engine.logits(ids, mask), atol=1e-3)


def test_other_bytes_are_another_file(exported: Export, tmp_path: Path) -> None:
    folders = [
        stage(tmp_path / "a", exported("bert", False).path, "onnx-fp32"),
        stage(tmp_path / "b", exported("bert", True).path, "onnx-pruned"),
    ]
    gathered = gather(folders, tmp_path / "version")
    # Two models have nothing in common but their tables.
    assert [build.path.name for build in gathered.builds] == ["model.onnx", "onnx-pruned.onnx"]


def test_graphs_share_their_weights_where_it_is_worth_it(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = exported("bert", False).path
    twin = tmp_path / "twin.onnx"
    twin.write_bytes(graph.read_bytes() + b"\x32\x00")  # the same graph with an empty documentation string
    folders = [stage(tmp_path / "a", graph, "onnx-fp32"), stage(tmp_path / "b", twin, "onnx-twin")]
    gathered = gather(folders, tmp_path / "version")
    assert set(gathered.files) == {"model.onnx", "onnx-twin.onnx", WEIGHTS_FILE}
    assert sum(path.stat().st_size for path in gathered.files.values()) < 1.6 * graph.stat().st_size
    for build in gathered.builds:
        assert np.allclose(answers(build.path, random_batch()), answers(graph, random_batch()), atol=1e-5)
    monkeypatch.setattr(candidates, "_WORTH_SHARING", 0.9)
    gathered = gather(folders, tmp_path / "version")
    assert set(gathered.files) == {"model.onnx", "onnx-twin.onnx"}


def test_companions_come_along(exported: Export, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from compression.openvino_ir import convert

    folder = tmp_path / "ir"
    folder.mkdir()
    file, *companions = convert(exported("bert", False).path, folder)
    names = tuple(path.name for path in companions)
    CandidateBuild("openvino-fp32", "openvino", "fp32", file.name, (), folder, names).write(folder)
    gathered = gather([folder], tmp_path / "version")
    assert set(gathered.files) == {"model.xml", "model.bin"}
    batch = random_batch()
    found = gathered.builds[0].engine.logits(batch.input_ids.numpy(), batch.attention_mask.numpy())
    assert np.allclose(found, answers(exported("bert", False).path, batch), atol=1e-3)
