from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from app.errors import CompressionError
from compression.bottleneck import student_of
from compression.distillation.mobilebert import (
    ProgressiveTransfer,
    TransferWeights,
    attention_transfer_loss,
    feature_map_loss,
)
from compression.distillation.trace import trace
from compression.training import train
from tests.compression.tiny import random_batch, rows_of, tiny_classifier, tiny_model, training


def test_feature_maps_are_compared_token_by_token() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 2, 5, 4, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = feature_map_loss(ours, theirs, mask)
    for row, tokens in ((0, 5), (1, 2)):
        each = [
            float((ours[row, token, element] - theirs[row, token, element]) ** 2)
            for token in range(tokens)
            for element in range(4)
        ]
        assert float(found[row]) == pytest.approx(sum(each) / (tokens * 4), rel=1e-5)


def test_attention_is_compared_query_by_query() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 1, 3, 4, 4, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0]])
    total = 0.0
    for head in range(3):
        for query in range(3):
            p = functional.softmax(theirs[0, head, query, :3], -1)
            q = functional.softmax(ours[0, head, query, :3], -1)
            total += float((p * (p.log() - q.log())).sum())
    assert attention_transfer_loss(ours, theirs, mask).tolist() == pytest.approx([total / 9], rel=1e-5)


def progressive(student: PreTrainedModel, rows: int = 30) -> ProgressiveTransfer:
    return ProgressiveTransfer(TransferWeights(), student, tiny_model(seed=3), rows)


def test_one_layer_learns_at_a_time_and_nothing_below_it() -> None:
    student, batch = student_of(tiny_classifier(), 16, 2).model, random_batch(rows=10)
    objective = progressive(student)
    student.train()
    learning = []
    with objective.attached():
        for layer in range(3):
            assert objective.layer == layer
            student.zero_grad()
            objective(student, batch).sum().backward()
            names = {name for name, weight in student.named_parameters() if weight.grad is not None}
            learning.append({name.split("layer.")[1][0] for name in names if "layer." in name})
            assert any("embeddings" in name for name in names) == (layer == 0)
            assert not any("classifier" in name for name in names)
    assert learning == [{"0"}, {"1"}, {"2"}]


def test_evaluation_does_not_move_on() -> None:
    student = student_of(tiny_classifier(), 16, 2).model
    objective = progressive(student)
    objective(student, random_batch(rows=20))
    assert objective.layer == 0


def test_layers_come_near_the_teachers(tmp_path: Path) -> None:
    teacher, rows, batch = tiny_classifier(), rows_of(160, tmp_path), random_batch(rows=8)
    student = student_of(teacher, 16, 2).model

    def distances() -> list[float]:
        with torch.no_grad():
            ours, theirs = (trace(model, batch, attention=True) for model in (student, teacher.model))
        return [
            float(feature_map_loss(ours.hidden[n], theirs.hidden[n], batch.attention_mask).mean())
            for n in (1, 2, 3)
        ]

    before = distances()
    objective = ProgressiveTransfer(TransferWeights(), student, teacher.model, len(rows) * 6)
    settings = training(epochs=6, learning_rate=3e-3, schedule="constant")
    with objective.attached():
        train(student, objective, rows, rows, settings, tmp_path / "run", judge=objective.judge)
    assert all(after < 0.7 * first for first, after in zip(before, distances(), strict=True))


def test_only_what_is_alike_is_compared() -> None:
    with pytest.raises(CompressionError, match=r"heads \[4, 4\] in states 32 wide.*kind 'bottleneck'"):
        ProgressiveTransfer(TransferWeights(), tiny_model(layers=2), tiny_model(), 10)
