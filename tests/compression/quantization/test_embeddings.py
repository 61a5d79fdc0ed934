from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from compression.quantization import embeddings
from compression.quantization.editing import GraphEditor
from compression.quantization.embeddings import block_size, eight_bits, four_bits
from compression.quantization.weights import Floats
from tests.compression.exported import Export, answers
from tests.compression.tiny import FAMILIES, random_batch


def table(rows: int = 30, width: int = 128) -> Floats:
    """Rows of very different size."""
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.normal(size=(rows, 1)))
    return np.asarray(generator.normal(size=(rows, width)) * sizes, np.float32)


def test_eight_bits_are_scaled_row_by_row() -> None:
    values, scale = eight_bits(table())
    assert (np.abs(values.astype(int)).max(1) == 127).all()
    assert (np.abs(values * scale - table()) <= scale / 2 + 1e-6).all()


def test_a_row_of_zeros_stays_zero() -> None:
    empty = table()
    empty[4] = 0
    assert not (eight_bits(empty)[0] * eight_bits(empty)[1])[4].any()
    assert np.abs(four_bits(empty).restored[4]).max() < 1e-3


def test_four_bits_are_packed_two_to_a_byte() -> None:
    packed = four_bits(table())
    assert packed.values.shape == (30, 64)
    assert packed.scale.shape == packed.offset.shape == (30, 2, 1)
    step = packed.scale.astype(np.float32).repeat(64, axis=-1).reshape(30, 128)
    # Half a step, and what half precision takes from scale and offset.
    assert (np.abs(packed.restored - table()) <= 0.52 * step + 2e-3 * np.abs(table()).max()).all()


def test_a_width_without_blocks_is_one_block() -> None:
    assert block_size(384) == 64
    assert block_size(32) == 32
    assert four_bits(table(width=32)).scale.shape == (30, 1, 1)


def restored_weights(made: Path, bits: int) -> onnx.ModelProto:
    """The fp32 graph with the tables that the integers stand for."""
    editor = GraphEditor.load(made)
    for name in ("embeddings.words.weight", "embeddings.positions"):
        exact = editor.weight(name)
        values, scale = eight_bits(exact)
        restored = (
            four_bits(exact).restored if bits == 4 and name.endswith("words.weight") else values * scale
        )
        editor.weights[name].CopyFrom(onnx.numpy_helper.from_array(restored, name))
    return editor.model


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_reads_what_the_integers_stand_for(
    family: str, bits: Literal[4, 8], exported: Export, tmp_path: Path
) -> None:
    made = exported(family, False)
    editor = GraphEditor.load(made.path)
    embeddings.quantize(editor, bits)
    editor.save(tmp_path / "small.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "small.onnx"))
    if family != "roberta":  # whose positions are looked up by id as well
        onnx.save(restored_weights(made.path, bits), tmp_path / "slow.onnx")
        for batch in (random_batch(1, 5), random_batch(5, 30)):
            slow = answers(tmp_path / "slow.onnx", batch)
            assert np.allclose(answers(tmp_path / "small.onnx", batch), slow, atol=1e-4)
    tables = {t.name for t in GraphEditor.load(tmp_path / "small.onnx").model.graph.initializer}
    assert not tables & {"embeddings.words.weight", "embeddings.positions"}


def test_openvino_unpacks_four_bits_as_well(exported: Export, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    editor = GraphEditor.load(exported("bert", False).path)
    embeddings.quantize(editor, 4)
    editor.save(tmp_path / "small.onnx")
    batch = random_batch(5, 30)
    found = answers(tmp_path / "small.onnx", batch, "openvino")
    assert np.allclose(found, answers(tmp_path / "small.onnx", batch), atol=0.5)


def test_a_table_can_be_kept(exported: Export, tmp_path: Path) -> None:
    editor = GraphEditor.load(exported("bert", False).path)
    embeddings.quantize(editor, 4, editor.matching(["words"]))
    editor.save(tmp_path / "small.onnx")
    names = {tensor.name for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert "embeddings.words.weight" in names
    assert "embeddings.positions" not in names
