from __future__ import annotations

import math

import torch

from compression.distillation.attention import over_tokens, row_divergence

GENERATOR = torch.Generator().manual_seed(0)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
LENGTHS = (5, 3, 1)


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def test_the_divergence_of_real_rows_over_real_keys() -> None:
    student, teacher = torch.randn(2, 3, 2, 5, 5, generator=GENERATOR)
    found = row_divergence(student, teacher, MASK)
    for row, length in enumerate(LENGTHS):
        total = 0.0
        for head in range(2):
            for query in range(length):
                ours = softmax(student[row, head, query, :length].tolist())
                theirs = softmax(teacher[row, head, query, :length].tolist())
                total += sum(q * math.log(q / p) for p, q in zip(ours, theirs, strict=True))
        assert math.isclose(float(found[row]), total / 2 / length, abs_tol=1e-5)


def test_what_stands_at_padding_changes_nothing() -> None:
    student, teacher = torch.randn(2, 3, 2, 5, 5, generator=GENERATOR)
    found = row_divergence(student, teacher, MASK)
    student[1, :, :, 3:], teacher[2, :, 1:] = 99.0, -99.0
    assert torch.allclose(row_divergence(student, teacher, MASK), found, atol=1e-6)


def test_equal_rows_have_no_divergence() -> None:
    scores = torch.randn(3, 2, 5, 5, generator=GENERATOR)
    assert row_divergence(scores, scores, MASK).abs().max() < 1e-6


def test_gradients_are_finite_with_padding() -> None:
    student = torch.randn(3, 2, 5, 5, generator=GENERATOR, requires_grad=True)
    row_divergence(student, student.detach() + 1.0, MASK).sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_the_mean_over_tokens() -> None:
    each = torch.randn(3, 5, 4, generator=GENERATOR)
    found = over_tokens(each, MASK)
    for row, length in enumerate(LENGTHS):
        assert math.isclose(float(found[row]), float(each[row, :length].mean()), abs_tol=1e-6)
