from __future__ import annotations

import pytest
import torch

from app.artifact import Head
from app.errors import CompressionError
from compression.distillation.ensemble import by_heads, mean_logits

ONE, OTHER = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)) * 4


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.2, 0.6)])
def test_it_is_the_mean_of_probabilities(temperature: float, weights: tuple[float, float]) -> None:
    mean = mean_logits([ONE, OTHER], weights, temperature)
    for row in range(6):
        one, other = ((logits[row] / temperature).exp() for logits in (ONE, OTHER))
        expected = (weights[0] * one / one.sum() + weights[1] * other / other.sum()) / sum(weights)
        assert torch.allclose((mean[row] / temperature).softmax(-1), expected, atol=1e-6)


def test_one_teacher_is_itself() -> None:
    assert torch.allclose(mean_logits([ONE], [2.0], 3.0).softmax(-1), ONE.softmax(-1), atol=1e-6)


def test_a_teacher_of_weight_zero_is_not_heard() -> None:
    mean = mean_logits([ONE, OTHER], [1.0, 0.0], 2.0)
    assert torch.allclose(mean.softmax(-1), ONE.softmax(-1), atol=1e-6)


HEADS = (Head(name="label", labels=("no", "yes")), Head(name="rating", labels=("1", "2", "3")))


def test_each_head_is_taught_by_those_who_have_it() -> None:
    whole = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    linear = torch.randn(6, 2, generator=torch.Generator().manual_seed(2))
    mean = by_heads([whole, linear], [1.0, 3.0], 2.0, HEADS)
    assert torch.equal(mean[:, :2], mean_logits([whole[:, :2], linear], [1.0, 3.0], 2.0))
    assert torch.allclose(mean[:, 2:].softmax(-1), whole[:, 2:].softmax(-1), atol=1e-6)


def test_a_head_that_nobody_teaches() -> None:
    linear = torch.zeros(6, 2)
    with pytest.raises(CompressionError, match="no teacher has the head 'rating'"):
        by_heads([linear], [1.0], 2.0, HEADS)
    with pytest.raises(CompressionError, match="no teacher has the head 'rating'"):
        by_heads([torch.zeros(6, 5), linear], [0.0, 1.0], 2.0, HEADS)


def test_far_apart_logits_stay_finite() -> None:
    sure = torch.tensor([[500.0, -500.0]])
    assert torch.isfinite(mean_logits([sure, -sure], [1.0, 1.0], 1.0)).all()
