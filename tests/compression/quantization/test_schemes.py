"""What every scheme must keep: the model's answers, and that nobody's answer depends on others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compression.batches import Batch
from compression.evaluation import probabilities
from compression.quantization import embeddings, per_token, static, weight_only
from compression.quantization.calibration import Observed, observe, ranges
from compression.quantization.editing import GraphEditor
from compression.quantization.weights import Floats, QuantizedWeight, rounded
from tests.compression.exported import Export, Exported, answers
from tests.compression.tiny import FAMILIES, logits, random_batch, rows_of

Scheme = Callable[[GraphEditor, dict[str, Observed]], None]


def eight_bits(_: object, weight: Floats) -> QuantizedWeight:
    return rounded(weight, 8)


def static_scheme(outliers: int) -> Scheme:
    return lambda editor, observed: static.quantize(editor, ranges(observed, "min-max", outliers), eight_bits)


# Whether the standard operators suffice, so that OpenVINO reads the graph as well.
SCHEMES: dict[str, tuple[Scheme, bool]] = {
    "static": (static_scheme(0), True),
    "static, outliers": (static_scheme(4), True),
    "per token": (lambda editor, _: per_token.quantize(editor, eight_bits), False),
    "stored": (lambda editor, _: weight_only.store(editor, eight_bits), True),
    "blocks of 16, 8 bits": (lambda editor, _: weight_only.in_blocks(editor, 8, 16), False),
    "embeddings, 8 bits": (lambda editor, _: embeddings.quantize(editor, 8), True),
}


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Exported], dict[str, Observed]]:
    rows = rows_of(64, tmp_path_factory.mktemp("rows"))
    return lambda made: observe(made.path, rows, range(len(rows)))


def alone(batch: Batch, row: int) -> Batch:
    """One row without its padding."""
    length = int(batch.attention_mask[row].sum())
    return Batch(
        batch.input_ids[row : row + 1, :length],
        batch.attention_mask[row : row + 1, :length],
        batch.labels[row : row + 1],
        torch.tensor([row]),
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_nearly_as_the_model(
    family: str,
    uneven: bool,
    scheme: str,
    exported: Export,
    observed: Callable[[Exported], dict[str, Observed]],
    tmp_path: Path,
) -> None:
    made, path = exported(family, uneven), tmp_path / "small.onnx"
    change, standard = SCHEMES[scheme]
    editor = GraphEditor.load(made.path)
    change(editor, observed(made))
    editor.save(path)
    onnx.checker.check_model(onnx.load(path)) if standard else None
    for seed in range(4):
        batch = random_batch(5, 12, seed=seed)
        expected = probabilities(logits(made.classifier.model, batch).numpy())
        assert np.abs(probabilities(answers(path, batch)) - expected).max() < 0.1
        assert not np.array_equal(answers(path, batch), answers(made.path, batch))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_answer_does_not_depend_on_its_batch(
    scheme: str, exported: Export, observed: Callable[[Exported], dict[str, Observed]], tmp_path: Path
) -> None:
    made, path = exported("bert", True), tmp_path / "small.onnx"
    editor = GraphEditor.load(made.path)
    SCHEMES[scheme][0](editor, observed(made))
    editor.save(path)
    batch = random_batch(9, 30, seed=3)
    together = answers(path, batch)
    for row in range(9):
        assert np.abs(answers(path, alone(batch, row))[0] - together[row]).max() < 1e-4


@pytest.mark.parametrize("scheme", [name for name, (_, standard) in SCHEMES.items() if standard])
def test_openvino_reads_the_same_file(
    scheme: str, exported: Export, observed: Callable[[Exported], dict[str, Observed]], tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    made, path = exported("bert", True), tmp_path / "small.onnx"
    editor = GraphEditor.load(made.path)
    SCHEMES[scheme][0](editor, observed(made))
    editor.save(path)
    batch = random_batch(5, 12)
    expected = probabilities(logits(made.classifier.model, batch).numpy())
    assert np.abs(probabilities(answers(path, batch, "openvino")) - expected).max() < 0.15
