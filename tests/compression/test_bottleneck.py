from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from app.errors import RecipeError, UnsupportedModelError
from compression import bottleneck, export
from compression.architecture import describe, layer_shapes
from compression.batches import Batch
from compression.bottleneck import student_of
from compression.classifier import load, save
from compression.pruning import structured, tokens, width
from compression.pruning.structured import Kept
from compression.students import keep_layers
from tests.compression.exported import answers
from tests.compression.tiny import (
    FAMILIES,
    logits,
    random_batch,
    tiny_classifier,
    tiny_model,
    uneven_classifier,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_is_saved_loaded_exported_and_answers_the_same_in_any_batch(
    family: str, tmp_path: Path
) -> None:
    student, batch = student_of(tiny_classifier(family), 0.5, 3), random_batch(rows=5)
    assert describe(student.model).attention_heads == (4, 4, 4)
    assert describe(student.model).hidden_size == 32
    expected = logits(student.model, batch)
    save(student, tmp_path / "saved")
    loaded = load(str(tmp_path / "saved"))
    assert loaded.labels == student.labels
    assert torch.equal(logits(loaded.model, batch), expected)
    export.to_onnx(loaded.model, tmp_path / "model.onnx", opset=17)
    assert np.abs(answers(tmp_path / "model.onnx", batch) - expected.numpy()).max() < 1e-4
    for row in range(5):
        length = int(batch.attention_mask[row].sum())
        alone = Batch(
            batch.input_ids[row : row + 1, :length],
            batch.attention_mask[row : row + 1, :length],
            batch.labels[row : row + 1],
            batch.rows[row : row + 1],
        )
        assert np.abs(answers(tmp_path / "model.onnx", alone)[0] - expected[row].numpy()).max() < 1e-4
        assert torch.allclose(logits(loaded.model, alone)[0], expected[row], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_start_near_the_teachers(family: str) -> None:
    teacher, batch = tiny_classifier(family), random_batch(rows=5)

    def embedded(model: torch.nn.Module) -> torch.Tensor:
        part = next(module for name, module in model.named_modules() if name.endswith(".embeddings"))
        with torch.no_grad():
            states: torch.Tensor = part(input_ids=batch.input_ids)
        return states[batch.attention_mask.bool()]

    theirs = embedded(teacher.model)
    # With word vectors as wide as the states nothing is lost; with fewer elements, more and more.
    lost = [
        float((embedded(student_of(teacher, size, 1).model) - theirs).norm() / theirs.norm())
        for size in (32, 24, 8)
    ]
    assert lost[0] < 1e-3
    assert lost[0] < lost[1] < lost[2] < 1


def test_the_nearest_of_its_rank() -> None:
    table = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    left, right = bottleneck.approximated(table, 3)
    assert (left.shape, right.shape) == ((20, 3), (3, 8))
    u, s, v = torch.linalg.svd(table)
    nearest = u[:, :3] @ torch.diag(s[:3]) @ v[:3]
    assert torch.allclose(left @ right, nearest, atol=1e-4)


def test_heads_neurons_and_layers_of_a_student_are_pruned(tmp_path: Path) -> None:
    student, batch = student_of(tiny_classifier(), 16, 2), random_batch()
    structured.remove(student.model, Kept([[1], [0, 2], [0, 1, 2]], [list(range(32))] * 3))
    student = keep_layers(student, [0, 2])
    expected = logits(student.model, batch)
    save(student, tmp_path / "saved")
    loaded = load(str(tmp_path / "saved")).model
    assert [shape.heads for shape in layer_shapes(loaded)] == [1, 3]
    assert torch.equal(logits(loaded, batch), expected)
    export.to_onnx(loaded, tmp_path / "model.onnx", opset=17)
    assert np.abs(answers(tmp_path / "model.onnx", batch) - expected.numpy()).max() < 1e-4


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(RecipeError, match=r"layers have \[1, 2, 3\]; take one that is not pruned"):
        student_of(uneven_classifier(), 0.5, 1)
    with pytest.raises(RecipeError, match="width 10 asked for; it must be a multiple of the 4 heads"):
        student_of(tiny_classifier(), 10, 1)
    with pytest.raises(RecipeError, match="width 64 asked for"):
        student_of(tiny_classifier(), 64, 1)
    student = student_of(tiny_classifier(), 16, 1).model
    with pytest.raises(UnsupportedModelError, match="cannot prune tokens"):
        tokens.attach(student, (0.5, 0.5))
    with pytest.raises(RecipeError, match="its hidden width is not pruned"):
        width.keep(student, list(range(16)))
    student.config.classifier_activation = False
    with pytest.raises(UnsupportedModelError, match="classifier_activation = False cannot be compressed"):
        layer_shapes(student)


def test_the_teacher_stays_as_it_is() -> None:
    teacher, batch = tiny_classifier(), random_batch()
    before = logits(teacher.model, batch)
    student_of(teacher, 0.5, 2)
    assert torch.equal(logits(teacher.model, batch), before)
    assert torch.equal(before, logits(tiny_model(), batch))
