from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from app.artifact import Head
from app.errors import CompressionError
from compression import heads
from compression.batches import Batch
from compression.distillation.hidden_states import hidden_state_loss
from compression.distillation.minilm import MiniLmLoss, MiniLmSettings
from compression.distillation.objective import DistillationObjective, DistillationSettings
from compression.distillation.soft_labels import soft_label_loss
from compression.distillation.tinybert import TinyBertLoss, TinyBertSettings
from compression.distillation.trace import trace
from compression.training import train
from tests.compression.tiny import logits, random_batch, rows_of, tiny_model, training

TEACHER_LOGITS = torch.randn(10, 2, generator=torch.Generator().manual_seed(3))


def batch() -> Batch:
    """Four rows of the training set, the last one without a label."""
    plain = random_batch()
    labels = torch.tensor([1, 0, 1, -1])
    return Batch(plain.input_ids, plain.attention_mask, labels, torch.tensor([7, 2, 9, 0]))


def test_soft_and_true_labels_are_weighed() -> None:
    student = tiny_model(layers=1)
    settings = DistillationSettings(temperature=3.0, soft_weight=0.7, hard_weight=0.2)
    losses = DistillationObjective(settings, TEACHER_LOGITS, None, student)(student, batch())
    answers = logits(student, batch())
    soft = soft_label_loss(answers, TEACHER_LOGITS[[7, 2, 9, 0]], 3.0)
    true = [
        float(functional.cross_entropy(answers[row : row + 1], batch().labels[row : row + 1]))
        for row in range(3)
    ]
    expected = 0.7 * soft + 0.2 * torch.tensor([*true, 0.0])
    assert torch.allclose(losses.detach(), expected, atol=1e-5)


def test_layers_are_added() -> None:
    student, teacher = tiny_model(layers=1), tiny_model(seed=5)
    settings = DistillationSettings(
        hidden_weight=0.5, tinybert=TinyBertSettings(), minilm=MiniLmSettings(heads=4)
    )
    without = DistillationObjective(DistillationSettings(), TEACHER_LOGITS, teacher, student)
    objective = DistillationObjective(settings, TEACHER_LOGITS, teacher, student)
    assert without.teacher is None  # not run for nothing
    with torch.no_grad():
        ours, theirs = (trace(model, batch(), attention=True) for model in (student, teacher))
    mask = batch().attention_mask
    added = (
        0.5 * hidden_state_loss(ours.hidden, theirs.hidden, (3,), mask)
        + TinyBertLoss(TinyBertSettings(), student, teacher, (3,))(ours, theirs, mask)
        + MiniLmLoss(MiniLmSettings(heads=4), student, teacher)(ours, theirs, mask)
    )
    difference = objective(student, batch()) - without(student, batch())
    assert torch.allclose(difference.detach(), added.detach(), atol=1e-4)
    assert float(added.detach().min()) > 0.01


def test_a_layer_map_that_is_given() -> None:
    student, teacher = tiny_model(layers=2), tiny_model(seed=5)
    settings = DistillationSettings(hidden_weight=1.0, soft_weight=0.0, hard_weight=0.0, layer_map=(1, 2))
    objective = DistillationObjective(settings, None, teacher, student)
    with torch.no_grad():
        ours, theirs = (trace(model, batch(), attention=False) for model in (student, teacher))
    expected = hidden_state_loss(ours.hidden, theirs.hidden, (1, 2), batch().attention_mask)
    assert torch.allclose(objective(student, batch()).detach(), expected, atol=1e-5)
    for wrong in ((1,), (1, 4), (0, 1)):
        settings = DistillationSettings(hidden_weight=1.0, layer_map=wrong)
        with pytest.raises(
            CompressionError, match="does not name a layer, 1 to 3, for each of the student's 2"
        ):
            DistillationObjective(settings, TEACHER_LOGITS, teacher, student)


@pytest.mark.parametrize(
    "settings",
    [
        DistillationSettings(hidden_weight=0.5),
        DistillationSettings(tinybert=TinyBertSettings()),
        DistillationSettings(minilm=MiniLmSettings(heads=4)),
    ],
)
def test_the_student_learns_and_the_teacher_does_not(settings: DistillationSettings) -> None:
    student, teacher = tiny_model(layers=1), tiny_model(seed=5)
    objective = DistillationObjective(settings, TEACHER_LOGITS, teacher, student)
    objective(student, batch()).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert sum(parameter.grad is not None for parameter in student.parameters()) > 10
    assert all(parameter.grad is not None for parameter in objective.parameters())
    saved = set(objective.state_dict())
    assert not any("encoder" in name for name in saved)  # the teacher is in no checkpoint


def test_layers_need_the_teacher_and_soft_labels_its_logits() -> None:
    student = tiny_model()
    with pytest.raises(CompressionError, match="needs the teacher itself, not only its logits"):
        DistillationObjective(DistillationSettings(hidden_weight=0.1), TEACHER_LOGITS, None, student)
    with pytest.raises(CompressionError, match="soft_weight above 0 needs the teacher's logits"):
        DistillationObjective(DistillationSettings(), None, None, student)


def test_states_of_another_width_need_a_projection() -> None:
    settings, wide = DistillationSettings(hidden_weight=0.1), tiny_model(hidden_size=64)
    with pytest.raises(CompressionError, match="the student is 32 wide, its teacher 64; take tinybert"):
        DistillationObjective(settings, TEACHER_LOGITS, wide, tiny_model())


def test_settings_that_teach_nothing() -> None:
    with pytest.raises(ValidationError, match="the student would learn nothing"):
        DistillationSettings(soft_weight=0.0, hard_weight=0.0)
    for weights in ((-1.0, 2.0), (0.0, 0.0)):
        with pytest.raises(ValidationError, match="teacher_weights must be 0 or more, and not all 0"):
            DistillationSettings(teacher_weights=weights)


def test_a_phase_without_labels_keeps_the_smallest_loss(tmp_path: Path) -> None:
    """The classifier is not taught, so accuracy says nothing; what the layers lose must fall."""
    student, teacher = tiny_model(layers=1), tiny_model(seed=5)
    rows, validation = rows_of(64, tmp_path), rows_of(32, tmp_path, start=64)
    settings = DistillationSettings(soft_weight=0.0, hard_weight=0.0, tinybert=TinyBertSettings())
    objective = DistillationObjective(settings, None, teacher, student)
    before = objective.judge(student, validation, range(32))
    asked = training(epochs=3)
    progress = train(student, objective, rows, validation, asked, tmp_path / "run", judge=objective.judge)
    after = objective.judge(student, validation, range(32))
    assert before.accuracy is None
    assert after.loss < 0.8 * before.loss
    assert [set(entry) for entry in progress.history] == [{"epoch", "training_loss", "validation_loss"}] * 3
    assert after.loss == pytest.approx(min(entry["validation_loss"] for entry in progress.history), rel=1e-4)


def test_every_head_learns_its_part() -> None:
    student = tiny_model(labels=("no", "yes", "rating:1", "rating:2", "rating:3"), layers=1)
    heads.describe(
        student.config,
        [Head(name="label", labels=("no", "yes")), Head(name="rating", labels=("1", "2", "3"))],
    )
    taught = torch.randn(10, 5, generator=torch.Generator().manual_seed(4))
    plain = batch()
    further = torch.tensor([[2], [-1], [0], [1]])
    rated = Batch(plain.input_ids, plain.attention_mask, plain.labels, plain.rows, further)
    settings = DistillationSettings(temperature=2.0, soft_weight=1.0, hard_weight=0.5)
    found = DistillationObjective(settings, taught, None, student)(student, rated).detach()
    answers, theirs = logits(student, rated), taught[plain.rows]
    for row in range(4):
        soft, true = 0.0, 0.0
        for part, label in ((slice(0, 2), plain.labels[row]), (slice(2, 5), further[row, 0])):
            one = slice(row, row + 1)
            soft += float(soft_label_loss(answers[one, part], theirs[one, part], 2.0)) / 2
            if label >= 0:
                true += float(functional.cross_entropy(answers[one, part], label[None])) / 2
        assert float(found[row]) == pytest.approx(soft + 0.5 * true, abs=1e-5)
