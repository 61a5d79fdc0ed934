from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from compression.architecture import encoder_layers, family_of, linear
from compression.batches import Batch
from compression.pruning import gates
from compression.pruning.gates import GatedObjective, chance_open, drawn, settled
from compression.pruning.structured import choose, remove
from compression.students import keep_layers
from compression.teacher import true_labels
from compression.training import Objective, train
from tests.compression.tiny import (
    FAMILIES,
    logits,
    random_batch,
    rows_of,
    tiny_classifier,
    tiny_model,
    training,
    uneven_classifier,
)

ALL = {"heads": 0.5, "neurons": 0.5, "layers": 0.3, "elements": 0.25}


def slow_gate(openness: float, uniform: float) -> float:
    """Louizos et al., equations 10 and 11, one number at a time."""
    soft = 1 / (1 + math.exp(-(math.log(uniform) - math.log(1 - uniform) + openness) / (2 / 3)))
    return min(1.0, max(0.0, soft * 1.2 - 0.1))


def test_gates_are_drawn_as_the_paper_says() -> None:
    openness, uniform = torch.tensor([-3.0, 0.0, 0.5, 4.0]), torch.tensor([0.2, 0.5, 0.9, 0.3])
    expected = [slow_gate(o, u) for o, u in zip(openness.tolist(), uniform.tolist(), strict=True)]
    assert drawn(openness, uniform).tolist() == pytest.approx(expected, abs=1e-6)
    at_the_ends = drawn(torch.zeros(2), torch.tensor([0.0, 1.0]))
    assert at_the_ends.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("openness", [-2.0, 0.0, 0.6, 3.0])
def test_the_chance_to_be_open_is_the_share_of_draws(openness: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = drawn(torch.full((200_000,), openness), torch.rand(200_000, generator=generator))
    assert float(chance_open(torch.tensor(openness))) == pytest.approx(
        float((draws > 0).float().mean()), abs=5e-3
    )


def test_settled_gates_reach_zero_and_one() -> None:
    assert settled(torch.tensor([-9.0, 0.0, 9.0])).tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_gates_begin_open() -> None:
    objective = GatedObjective(true_labels, tiny_model(), ALL, rows=10, pace=1000.0)
    for kind, count in (("heads", 12), ("neurons", 384), ("layers", 3), ("elements", 32)):
        assert chance_open(objective.learned(kind)).tolist() == pytest.approx([0.9] * count, abs=1e-4)


def opened(objective: GatedObjective, kind: str, values: torch.Tensor) -> None:
    """Set how open the gates of a kind are."""
    objective.openness[kind].data.copy_(values / objective._pace)


def far_apart(count: int, seed: int = 0) -> torch.Tensor:
    """Half of the gates wide open, half of them shut."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.where(order < count // 2, -20.0, 20.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_shut_heads_and_neurons_are_those_that_are_removed(family: str) -> None:
    classifier, batch = uneven_classifier(family), random_batch()
    model = classifier.model
    objective = GatedObjective(true_labels, model, {"heads": 0.5, "neurons": 0.5}, rows=10, pace=1.0)
    heads = torch.tensor([20.0, 20, -20, 20, -20, 20])  # layers of 1, 3 and 2 heads
    opened(objective, "heads", heads)
    neurons = torch.full((32 + 96 + 64,), 20.0)
    neurons[32:64] = -20.0
    opened(objective, "neurons", neurons)
    with objective.attached():
        expected = logits(model, batch)
    assert not torch.allclose(expected, logits(model, batch))
    kept = choose(objective.importance(), 4, 160, by_layer=False)
    assert kept.heads == [[0], [0, 2], [1]]
    assert kept.neurons == [list(range(32)), list(range(32, 96)), list(range(64))]
    objective.fold()
    remove(model, kept)
    assert torch.allclose(logits(model, batch), expected, atol=1e-5)


def test_gates_in_between_are_folded_into_the_weights() -> None:
    model, batch = tiny_model(), random_batch()
    kinds = {"heads": 12, "neurons": 384, "elements": 32}
    objective = GatedObjective(true_labels, model, dict.fromkeys(kinds, 0.5), rows=10, pace=7.0)
    generator = torch.Generator().manual_seed(0)
    for kind, count in kinds.items():
        opened(objective, kind, torch.randn(count, generator=generator))
    with objective.attached():
        expected = logits(model, batch)
    objective.fold()
    assert torch.allclose(logits(model, batch), expected, atol=1e-5)


def test_a_shut_layer_is_skipped() -> None:
    classifier, batch = tiny_classifier(), random_batch()
    objective = GatedObjective(true_labels, classifier.model, {"layers": 0.3}, rows=10, pace=1.0)
    opened(objective, "layers", torch.tensor([20.0, -20.0, 20.0]))
    with objective.attached():
        expected = logits(classifier.model, batch)
    skipped = keep_layers(classifier, [0, 2])
    assert torch.allclose(logits(skipped.model, batch), expected, atol=1e-5)


def test_shut_elements_are_zero_after_every_layernorm() -> None:
    model, batch, seen = tiny_model(), random_batch(), []
    objective = GatedObjective(true_labels, model, {"elements": 0.5}, rows=10, pace=1.0)
    openness = far_apart(32)
    opened(objective, "elements", openness)
    family = family_of(model.config)

    def look(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0])

    handles = [linear(layer, family.query).register_forward_pre_hook(look) for layer in encoder_layers(model)]
    with objective.attached():
        logits(model, batch)
    for handle in handles:
        handle.remove()
    assert all((states[..., openness < 0] == 0).all() for states in seen)
    assert all((states[..., openness > 0] != 0).any() for states in seen)


def test_kinds_without_a_target_have_no_gates() -> None:
    model, batch = tiny_model(), random_batch()
    objective = GatedObjective(true_labels, model, {"heads": 0.5, "neurons": 0.0}, rows=10, pace=1.0)
    assert list(objective.openness) == ["heads"]
    opened(objective, "heads", torch.full((12,), 20.0))
    expected = logits(model, batch)
    with objective.attached():
        assert torch.allclose(logits(model, batch), expected, atol=1e-6)
    assert all(bool((part == 1).all()) for part in objective.importance().neurons)
    objective.fold()
    assert torch.allclose(logits(model, batch), expected, atol=1e-6)


def test_multipliers_climb_and_gates_descend() -> None:
    objective = GatedObjective(true_labels, tiny_model(), {"heads": 0.5}, rows=100, pace=1.0, rising=0.5)
    objective.get_buffer("seen").fill_(25)  # half way up: a quarter is to be closed
    objective.multipliers["heads"].data.copy_(torch.tensor([-2.0, 3.0]))
    excess = 0.1 - 0.25
    penalty = objective.penalty()
    assert float(penalty.detach()) == pytest.approx(-2.0 * excess + 3.0 * excess**2, abs=1e-4)
    penalty.backward()
    slopes = objective.multipliers["heads"].grad
    assert slopes is not None
    assert slopes.tolist() == pytest.approx([-excess, -(excess**2)], abs=1e-4)
    openness = objective.openness["heads"].grad
    assert openness is not None
    # Too few are closed: a step against the slope closes more.
    assert bool((openness > 0).all())


def test_the_pace_is_that_of_the_steps_and_not_of_the_slope() -> None:
    slopes = []
    for pace in (1.0, 50.0):
        objective = GatedObjective(true_labels, tiny_model(), {"heads": 0.5}, rows=100, pace=pace)
        objective.multipliers["heads"].data.copy_(torch.tensor([-2.0, 3.0]) / pace)
        objective.penalty().backward()
        before = objective.learned("heads").clone()
        slope = objective.openness["heads"].grad
        assert slope is not None
        slopes.append(slope.clone())
        objective.openness["heads"].data.add_(0.01)
        assert (objective.learned("heads") - before).tolist() == pytest.approx([0.01 * pace] * 12, rel=1e-2)
    assert torch.allclose(slopes[0], slopes[1], atol=1e-6)


def telling(model: nn.Module, head: int) -> Objective:
    """A loss that only the output of one head of the first layer can lower."""
    layer = encoder_layers(model)[0]  # type: ignore[arg-type]
    part = linear(layer, family_of(model.config).attention_output)  # type: ignore[arg-type]

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        states: list[torch.Tensor] = []
        handle = part.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        handle.remove()
        return -states[0][..., head * 8 : (head + 1) * 8].abs().mean((1, 2)).clamp_max(2.0)

    return objective


def test_what_the_loss_needs_stays_open(tmp_path: Path) -> None:
    model, rows = tiny_model(layers=1), rows_of(320, tmp_path)
    settings = training(epochs=4, rows_per_step=8, learning_rate=1e-3)
    needed = GatedObjective(telling(model, head=2), model, {"heads": 0.75}, len(rows) * 4, pace=50.0)
    with needed.attached():
        train(model, needed, rows, rows, settings, tmp_path / "run", judge=needed.judge)
    openness = needed.learned("heads")
    assert int(openness.argmax()) == 2
    assert float(1 - chance_open(openness).mean()) == pytest.approx(0.75, abs=0.15)
    assert choose(needed.importance(), 1, 128, by_layer=False).heads == [[2]]


def test_the_last_weights_count(tmp_path: Path) -> None:
    objective = GatedObjective(true_labels, tiny_model(), ALL, rows=100, pace=1.0)
    early = objective.judge(nn.Identity(), None, [1, 2])  # type: ignore[arg-type]
    objective.get_buffer("seen").fill_(60)
    late = objective.judge(nn.Identity(), None, [1, 2])  # type: ignore[arg-type]
    assert early.accuracy is None
    assert (early.loss, late.loss) == pytest.approx((1.0, 0.4))


def test_a_draw_is_the_same_for_the_whole_batch_and_new_for_the_next() -> None:
    model, batch = tiny_model(), random_batch()
    objective = GatedObjective(true_labels, model, ALL, rows=100, pace=1.0)
    model.train()
    torch.manual_seed(0)
    with objective.attached(), torch.no_grad():
        first = objective(model, batch)
        second = objective(model, batch)
        torch.manual_seed(0)
        again = objective(model, batch)
    assert not torch.allclose(first, second)
    assert torch.allclose(first, again, atol=1e-2)  # the target has risen a little in between
    assert set(gates.KINDS) == set(objective._gates)
