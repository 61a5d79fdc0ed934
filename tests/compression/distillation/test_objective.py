from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from app.errors import CompressionError
from compression.batches import Batch
from compression.distillation.hidden_states import hidden_state_loss
from compression.distillation.objective import DistillationObjective, DistillationSettings
from compression.distillation.soft_labels import soft_label_loss
from tests.compression.tiny import logits, random_batch, tiny_model

TEACHER_LOGITS = torch.randn(10, 2, generator=torch.Generator().manual_seed(3))


def batch() -> Batch:
    """Four rows of the training set, the last one without a label."""
    plain = random_batch()
    labels = torch.tensor([1, 0, 1, -1])
    return Batch(plain.input_ids, plain.attention_mask, labels, torch.tensor([7, 2, 9, 0]))


def test_soft_and_true_labels_are_weighed() -> None:
    student = tiny_model(layers=1)
    settings = DistillationSettings(temperature=3.0, soft_weight=0.7, hard_weight=0.2)
    losses = DistillationObjective(settings, TEACHER_LOGITS, None, (1, 3))(student, batch())
    answers = logits(student, batch())
    soft = soft_label_loss(answers, TEACHER_LOGITS[[7, 2, 9, 0]], 3.0)
    true = [
        float(functional.cross_entropy(answers[row : row + 1], batch().labels[row : row + 1]))
        for row in range(3)
    ]
    expected = 0.7 * soft + 0.2 * torch.tensor([*true, 0.0])
    assert torch.allclose(losses.detach(), expected, atol=1e-5)


def test_hidden_states_are_added() -> None:
    student, teacher = tiny_model(layers=1), tiny_model(seed=5)
    plain = DistillationSettings(hidden_weight=0.0)
    with_states = DistillationSettings(hidden_weight=0.5)
    without = DistillationObjective(plain, TEACHER_LOGITS, teacher, (1, 3))
    objective = DistillationObjective(with_states, TEACHER_LOGITS, teacher, (1, 3))
    assert without.teacher is None  # not run for nothing
    inputs = {"input_ids": batch().input_ids, "attention_mask": batch().attention_mask}
    with torch.no_grad():
        ours, theirs = (
            model(**inputs, output_hidden_states=True).hidden_states for model in (student, teacher)
        )
    added = 0.5 * hidden_state_loss(ours, theirs, (3,), batch().attention_mask)
    difference = objective(student, batch()) - without(student, batch())
    assert torch.allclose(difference.detach(), added, atol=1e-5)
    assert float(added.min()) > 0.01


def test_the_student_learns_and_the_teacher_does_not() -> None:
    student, teacher = tiny_model(layers=1), tiny_model(seed=5)
    settings = DistillationSettings(hidden_weight=0.5)
    objective = DistillationObjective(settings, TEACHER_LOGITS, teacher, (1, 3))
    objective(student, batch()).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert sum(parameter.grad is not None for parameter in student.parameters()) > 10


def test_hidden_states_need_the_teacher() -> None:
    with pytest.raises(CompressionError, match="needs the teacher itself, not only its logits"):
        DistillationObjective(DistillationSettings(hidden_weight=0.1), TEACHER_LOGITS, None, (1, 3))
