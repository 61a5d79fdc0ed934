from __future__ import annotations

import pytest
import torch
from torch import nn

from app.errors import CompressionError
from compression.averaging import AveragedWeights, mean_weights


def moved(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def test_the_mean_by_its_definition() -> None:
    model = nn.Linear(3, 2)
    averaged = AveragedWeights(model, decay=0.5)
    mean = model.weight.detach().clone()
    for step in range(1, 30):
        moved(model, 0.1 * step)
        averaged.update()
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * model.weight.detach()
    with averaged.in_place():
        assert torch.allclose(model.weight, mean, atol=1e-5)


def test_the_weights_come_back() -> None:
    model = nn.Linear(3, 2)
    averaged = AveragedWeights(model, decay=0.9)
    moved(model, 1.0)
    averaged.update()
    before = model.weight.detach().clone()
    with pytest.raises(KeyError), averaged.in_place():
        assert not torch.equal(model.weight, before)
        raise KeyError
    assert torch.equal(model.weight, before)


def test_it_goes_on_from_its_state() -> None:
    model = nn.Linear(3, 2)
    one, other = AveragedWeights(model, decay=0.9), AveragedWeights(nn.Linear(3, 2), decay=0.9)
    moved(model, 1.0)
    one.update()
    other.load_state_dict(one.state_dict())
    assert other.steps == 1
    assert all(torch.equal(a, b) for a, b in zip(one._mean, other._mean, strict=True))


def test_several_models_by_the_definition() -> None:
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    moved(second, 1.0)
    second.num_batches_tracked = torch.tensor(7)
    mean = mean_weights([first, second], (3.0, 1.0))
    assert torch.allclose(mean["weight"], 0.75 * first.weight + 0.25 * second.weight)
    assert torch.allclose(mean_weights([first, second])["bias"], torch.full((3,), 0.5))
    assert mean["num_batches_tracked"] == 0, "a count is nothing to average"


def test_models_of_another_shape_are_refused() -> None:
    with pytest.raises(CompressionError, match="same shape"):
        mean_weights([nn.Linear(3, 2), nn.Linear(2, 2)])
