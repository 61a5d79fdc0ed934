from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from compression.export import to_onnx, to_torchscript
from tests.compression.exported import Export, answers
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_classifier, uneven_classifier

# Other sizes than the exporter's example, which has two rows of twelve.
BATCHES = [random_batch(1, 3), random_batch(1, 40), random_batch(5, 12, seed=1), random_batch(9, 30, seed=2)]


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_answers_as_the_model_in_any_batch(family: str, uneven: bool, exported: Export) -> None:
    made = exported(family, uneven)
    for batch in BATCHES:
        expected = logits(made.classifier.model, batch).numpy()
        assert np.allclose(answers(made.path, batch), expected, atol=1e-4)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_torchscript_answers_as_the_model_in_any_batch(family: str, uneven: bool, tmp_path: Path) -> None:
    model = (uneven_classifier(family) if uneven else tiny_classifier(family)).model
    model.train(True)  # whatever it was in
    to_torchscript(model, tmp_path / "model.pt")
    for batch in BATCHES:
        found = answers(tmp_path / "model.pt", batch, engine="torchscript")
        assert np.allclose(found, logits(model, batch).numpy(), atol=1e-4)


def test_padding_changes_nothing(exported: Export) -> None:
    path = exported("bert", False).path
    batch = random_batch(5, 20)
    together = answers(path, batch)
    for row in range(5):
        length = int(batch.attention_mask[row].sum())
        alone = random_batch(5, 20)
        alone = type(alone)(
            alone.input_ids[row : row + 1, :length],
            alone.attention_mask[row : row + 1, :length],
            alone.labels[row : row + 1],
            alone.rows[row : row + 1],
        )
        assert np.allclose(answers(path, alone)[0], together[row], atol=1e-4)


@pytest.mark.parametrize("opset", [17, 20])
def test_the_opset_is_the_one_asked_for(opset: int, tmp_path: Path) -> None:
    to_onnx(tiny_classifier().model, tmp_path / "model.onnx", opset)
    graph = onnx.load(tmp_path / "model.onnx")
    assert [entry.version for entry in graph.opset_import if not entry.domain] == [opset]
    assert [node.name for node in graph.graph.input] == ["input_ids", "attention_mask"]
    assert [node.name for node in graph.graph.output] == ["logits"]


def test_weights_are_named_after_their_part(exported: Export) -> None:
    graph = onnx.load(exported("bert", True).path).graph
    names = {tensor.name for tensor in graph.initializer}
    parts = ("query", "key", "value", "attention_output", "ffn_input", "ffn_output")
    assert names >= {f"layers.{layer}.{part}.weight" for layer in range(3) for part in parts}
    assert not any("::" in name for name in names)


def test_the_model_itself_is_left_as_it_was(tmp_path: Path) -> None:
    model = tiny_classifier().model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train(True)
    to_onnx(model, tmp_path / "model.onnx", opset=17)
    assert model.training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
