from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from compression.batches import Rows
from compression.quantization import sensitivity
from compression.quantization.calibration import Observed, observe
from compression.quantization.editing import GraphEditor
from compression.quantization.scheme import Quantization
from compression.quantization.sensitivity import MixedPrecision, Sensitivity, choose, part_sizes, scan
from tests.compression.exported import Export
from tests.compression.tiny import rows_of

SETTINGS = Quantization(outliers=0)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return rows_of(24, tmp_path)


@pytest.fixture
def fragile(exported: Export, tmp_path: Path) -> Path:
    """A graph of which one part hates to be quantized: one of its weights is far out in every channel."""
    editor = GraphEditor.load(exported("bert", False).path)
    name = "layers.1.ffn_output.weight"
    weight = editor.weight(name).copy()
    weight[3] = 60 * np.abs(weight).max()
    editor.weights[name].CopyFrom(onnx.numpy_helper.from_array(weight, name))
    # What it is multiplied with is as small as it is large, so that in fp32 little changes.
    bias, source = "layers.1.ffn_input.bias", "layers.1.ffn_input.weight"
    for name, index in ((bias, np.s_[3]), (source, np.s_[:, 3])):
        array = editor.weight(name).copy()
        array[index] *= 0.001
        editor.weights[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    editor.save(tmp_path / "fragile.onnx")
    return tmp_path / "fragile.onnx"


@pytest.fixture
def observed(fragile: Path, rows: Rows) -> dict[str, Observed]:
    return observe(fragile, rows, range(24))


def test_the_part_that_hurts_is_found(fragile: Path, observed: dict[str, Observed], rows: Rows) -> None:
    told: list[str] = []
    found = scan(SETTINGS, fragile, observed, rows, range(12), 2, lambda _, __, part: told.append(part))
    assert len(found) == len(told) == 3 * 6 + 1 + 2
    by_name = {each.part: each for each in found}
    worst = max(found, key=lambda each: each.logit_error)
    assert worst.part == "layers.1.ffn_output"
    assert by_name["layers.1.ffn_output"].bytes_kept == 3 * 128 * 32
    assert [each.error_per_byte for each in found] == sorted((e.error_per_byte for e in found), reverse=True)


def test_it_is_kept_and_the_error_falls(fragile: Path, observed: dict[str, Observed], rows: Rows) -> None:
    ranking = [Sensitivity("layers.1.ffn_output", 1.0, 0.1, 100), Sensitivity("layers.0.key", 0.1, 0.0, 100)]
    wanted = MixedPrecision(max_label_flip_rate=0, most_parts=1)
    with pytest.MonkeyPatch.context() as patched:
        # Flips of a few rows are chance; the errors are not.
        patched.setattr(sensitivity, "flip_rate", lambda logits, exact: float(np.abs(logits - exact).mean()))
        steps = choose(wanted, SETTINGS, fragile, observed, rows, range(12), 2, ranking)
    assert [step.kept for step in steps] == [(), ("layers.1.ffn_output",)]
    assert steps[1].logit_error < steps[0].logit_error / 2


def test_nothing_is_kept_where_nothing_changes(
    fragile: Path, observed: dict[str, Observed], rows: Rows
) -> None:
    ranking = [Sensitivity("layers.1.ffn_output", 1.0, 0.1, 100)]
    steps = choose(
        MixedPrecision(max_label_flip_rate=1), SETTINGS, fragile, observed, rows, range(6), 2, ranking
    )
    assert [step.kept for step in steps] == [()]


def test_what_was_to_be_kept_anyway_stays_kept(
    fragile: Path, observed: dict[str, Observed], rows: Rows
) -> None:
    settings = Quantization(outliers=0, keep_fp32=("layers.0",))
    steps = choose(MixedPrecision(max_label_flip_rate=1), settings, fragile, observed, rows, range(6), 2, [])
    assert steps[-1].kept == ("layers.0",)


def test_every_part_has_its_size(fragile: Path) -> None:
    sizes = part_sizes(GraphEditor.load(fragile))
    assert sizes["embeddings.words"] == 160 * 32
    assert sizes["embeddings.positions"] == 64 * 32
    assert sizes["layers.2.ffn_input"] == 32 * 128
    assert sizes["head.dense"] == 32 * 32
    assert "head.output" not in sizes
