from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from compression.architecture import encoder_layers
from compression.batches import Batch
from compression.evaluation import Scores
from compression.pruning import movement, unstructured
from compression.pruning.movement import MovementObjective
from compression.pruning.unstructured import cubic_sparsity, largest, prunable
from compression.teacher import true_labels
from compression.training import train
from tests.compression.tiny import logits, random_batch, rows_of, tiny_model, training


def test_scores_get_the_gradient_as_if_every_weight_were_used() -> None:
    """By the paper's equation: the slope by the masked weight, times the weight."""
    model = tiny_model()
    objective = MovementObjective(true_labels, model, 0.5, rows=100)
    part = prunable(model)["1.intermediate.dense"]
    index = list(prunable(model)).index("1.intermediate.dense")
    mask = torch.rand(part.weight.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    objective.get_buffer(f"mask_{index}").copy_(mask)
    batch = random_batch()
    with objective.attached():
        objective(model, batch).sum().backward()
    found, weight_slope = objective.scores[index].grad, part.weight.grad
    assert found is not None
    assert weight_slope is not None
    # The obvious way: a leaf in the masked weight's place.
    leaf = (part.weight.detach() * mask).requires_grad_()
    part.forward = lambda states: functional.linear(states, leaf, part.bias)  # type: ignore[assignment,method-assign]
    true_labels(model, batch).sum().backward()
    assert leaf.grad is not None
    assert torch.allclose(found, leaf.grad * part.weight.detach(), atol=1e-6)
    assert torch.allclose(weight_slope, leaf.grad * mask, atol=1e-6)


def test_masked_weights_are_used_while_it_is_attached_and_not_after() -> None:
    model, batch = tiny_model(), random_batch()
    dense = logits(model, batch)
    objective = MovementObjective(true_labels, model, 0.5, rows=100)
    for index in range(len(objective.scores)):
        objective.get_buffer(f"mask_{index}").zero_()
    with objective.attached():
        assert not torch.allclose(logits(model, batch), dense)
    assert torch.equal(logits(model, batch), dense)


def test_masks_follow_the_schedule_and_then_stay() -> None:
    model = tiny_model()
    objective = MovementObjective(true_labels, model, 0.8, rows=100, settling=0.5)
    generator = torch.Generator().manual_seed(0)
    model.train()
    shares = []
    for _ in range(10):
        for score in objective.scores:
            score.data.copy_(torch.randn(score.shape, generator=generator))
        objective(model, random_batch(rows=10))
        dropped = sum(int((~mask).sum()) for mask in objective.masks.values())
        shares.append(dropped / sum(mask.numel() for mask in objective.masks.values()))
    expected = [cubic_sparsity(min(1.0, 10 * step / 50), 0.8) for step in range(1, 11)]
    assert shares == pytest.approx(expected, abs=1e-4)
    before = objective.masks
    objective(model, random_batch(rows=10))
    assert all(torch.equal(mask, before[name]) for name, mask in objective.masks.items())


def test_evaluation_does_not_move_the_schedule() -> None:
    model = tiny_model()
    objective = MovementObjective(true_labels, model, 0.8, rows=100)
    model.eval()
    objective(model, random_batch())
    assert objective.progress == 0


def test_weights_are_judged_only_once_the_masks_are_final() -> None:
    objective = MovementObjective(true_labels, tiny_model(), 0.8, rows=100, settling=0.5)
    judge = objective.judge(lambda *_: Scores(0.7, 0.2, 3))
    objective.get_buffer("seen").fill_(20)
    early = judge(nn.Identity(), None, [1, 2, 3])  # type: ignore[arg-type]
    assert early.accuracy is None
    assert early.loss == pytest.approx(0.6)
    objective.get_buffer("seen").fill_(50)
    assert judge(nn.Identity(), None, [1, 2, 3]) == Scores(0.7, 0.2, 3)  # type: ignore[arg-type]


def test_it_keeps_what_moves_away_from_zero(tmp_path: Path) -> None:
    """Large weights that shrink are dropped, small ones that grow are kept: what magnitude cannot see."""
    model = tiny_model(layers=1)
    part = prunable(model)["0.output.dense"]
    with torch.no_grad():
        part.weight.fill_(0.02)
        part.weight[0].fill_(1.0)  # the largest, and every step makes them smaller

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        states = torch.ones(len(batch.labels), part.in_features)
        outputs = part(states)
        loss: torch.Tensor = outputs[:, 0] - outputs[:, 1:].sum(-1)
        return loss

    rows = rows_of(64, tmp_path)
    moving = MovementObjective(objective, model, 1 / 32, rows=len(rows) * 2, scope="layer", settling=0.5)
    settings = training(epochs=2, learning_rate=1e-3)
    with moving.attached():
        judge = moving.judge(lambda *_: Scores(0.5, 1.0, 1))
        train(model, moving, rows, rows, settings, tmp_path / "run", judge=judge)
    mask = moving.masks["0.output.dense"]
    assert not mask[0].any()
    assert mask[1:].all()
    by_magnitude = unstructured.magnitude_masks(model, 1 / 32, "layer")["0.output.dense"]
    assert by_magnitude[0].all()


def test_a_trial_for_memory_does_not_move_the_schedule(tmp_path: Path) -> None:
    model, rows = tiny_model(), rows_of(64, tmp_path)
    moving = MovementObjective(true_labels, model, 0.5, rows=len(rows))
    with moving.attached():
        train(model, moving, rows, rows, training(), tmp_path / "run")
    assert int(moving.get_buffer("seen")) == len(rows)


def test_a_stopped_run_ends_with_the_same_masks(tmp_path: Path) -> None:
    rows = rows_of(64, tmp_path)
    settings = training(epochs=2, micro_batch_tokens=64, checkpoint_seconds=0)

    def run(folder: Path, stop_after: int | None) -> dict[str, torch.Tensor]:
        model = tiny_model()
        moving = MovementObjective(true_labels, model, 0.7, rows=len(rows) * 2)
        steps = 0

        def stop(*_: object) -> None:
            nonlocal steps
            steps += 1
            if steps == stop_after:
                raise KeyboardInterrupt

        with moving.attached():
            train(
                model, moving, rows, rows, settings, folder, stop, moving.judge(lambda *_: Scores(0.5, 1, 1))
            )
        return moving.masks

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", 4)
    resumed = run(tmp_path / "stopped", None)
    assert all(torch.equal(mask, whole[name]) for name, mask in resumed.items())
    assert sum(int((~mask).sum()) for mask in whole.values()) > 0


def test_ranking_is_not_done_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    model.train()
    ranked = []

    def rank(*given: Any) -> dict[str, torch.Tensor]:
        ranked.append(1)
        return largest(*given)

    monkeypatch.setattr(movement, "_UPDATES", 4)
    monkeypatch.setattr(movement, "largest", rank)
    objective = MovementObjective(true_labels, model, 0.5, rows=100, settling=0.0)
    for _ in range(20):
        objective(model, random_batch(rows=5))
    assert len(ranked) == 4


def test_every_part_of_every_layer_has_scores() -> None:
    model = tiny_model()
    objective = MovementObjective(true_labels, model, 0.5, rows=10)
    assert len(objective.scores) == 6 * len(encoder_layers(model))
