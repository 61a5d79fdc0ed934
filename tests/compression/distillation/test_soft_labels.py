from __future__ import annotations

import math

import pytest
import torch

from compression.distillation.soft_labels import soft_label_loss


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_it_is_the_formula(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 3, generator=generator) * 3
    teacher = torch.randn(5, 3, generator=generator) * 3
    losses = soft_label_loss(student, teacher, temperature)
    for row in range(5):
        answers = []
        for logits in (student[row], teacher[row]):
            raised = [math.exp(float(logit) / temperature) for logit in logits]
            answers.append([value / sum(raised) for value in raised])
        ours, theirs = answers
        divergence = sum(p * math.log(p / q) for p, q in zip(theirs, ours, strict=True))
        assert float(losses[row]) == pytest.approx(divergence * temperature**2, rel=1e-4, abs=1e-6)


def test_equal_answers_cost_nothing() -> None:
    logits = torch.tensor([[1.0, -2.0], [0.0, 5.0]])
    assert torch.allclose(soft_label_loss(logits, logits + 3, 2.0), torch.zeros(2), atol=1e-6)


def test_gradients_keep_their_size_as_the_temperature_rises() -> None:
    teacher = torch.tensor([[2.0, -1.0]])
    sizes = []
    for temperature in (10.0, 100.0):
        student = torch.zeros(1, 2, requires_grad=True)
        soft_label_loss(student, teacher, temperature).sum().backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
