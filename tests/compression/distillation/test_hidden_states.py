from __future__ import annotations

import math

import pytest
import torch

from compression.distillation.hidden_states import hidden_state_loss, layer_map


@pytest.mark.parametrize(
    ("student", "teacher", "mapped"),
    [(3, 6, (2, 4, 6)), (6, 12, (2, 4, 6, 8, 10, 12)), (2, 6, (3, 6)), (1, 6, (6,)), (4, 4, (1, 2, 3, 4))],
)
def test_layers_follow_evenly_and_last_follows_last(
    student: int, teacher: int, mapped: tuple[int, ...]
) -> None:
    assert layer_map(student, teacher) == mapped


def test_a_layer_map_ascends_and_never_takes_the_embeddings() -> None:
    for teacher in range(1, 25):
        for student in range(1, teacher + 1):
            mapped = layer_map(student, teacher)
            assert mapped[-1] == teacher
            assert mapped[0] >= 1
            assert list(mapped) == sorted(set(mapped))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    dot = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
    norms = [math.sqrt(sum(float(value) ** 2 for value in vector)) for vector in (one, other)]
    return dot / (norms[0] * norms[1])


def test_it_is_the_mean_over_layers_of_the_mean_over_real_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    student = [torch.randn(3, 5, 4, generator=generator) for _ in range(3)]
    teacher = [torch.randn(3, 5, 4, generator=generator) for _ in range(7)]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    losses = hidden_state_loss(student, teacher, (3, 6), mask)
    for row in range(3):
        per_layer = []
        for index, followed in ((1, 3), (2, 6)):
            per_token = [
                1 - cosine(student[index][row, token], teacher[followed][row, token])
                for token in range(5)
                if mask[row, token]
            ]
            per_layer.append(sum(per_token) / len(per_token))
        assert float(losses[row]) == pytest.approx(sum(per_layer) / 2, abs=1e-5)


def test_padding_and_length_of_vectors_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 4, 8, generator=generator) for _ in range(2)]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    scaled = [state * 3 for state in states]
    scaled[1][1, 2:] = -1
    assert torch.allclose(hidden_state_loss(states, scaled, (1,), mask), torch.zeros(2), atol=1e-6)
