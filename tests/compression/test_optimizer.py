from __future__ import annotations

import pytest

from compression.optimizer import parameter_groups
from tests.compression.tiny import FAMILIES, tiny_model


def test_biases_do_not_decay() -> None:
    model = tiny_model()
    decayed, others = parameter_groups(model, 1e-3, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert decayed["lr"] == others["lr"] == 1e-3
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_what_is_frozen_is_in_no_group() -> None:
    model = tiny_model()
    model.requires_grad_(False)
    assert parameter_groups(model, 1e-3, 0.1) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_lower_layers_learn_slower(family: str) -> None:
    model = tiny_model(family)
    rate_of = {
        id(parameter): group["lr"]
        for group in parameter_groups(model, 1.0, 0.1, layer_decay=0.5)
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        expected = 1.0
        for layer in range(3):
            if f"layer.{layer}." in name:
                expected = 0.5 ** (3 - layer)
        if "embeddings" in name:
            expected = 0.5**4
        assert rate_of[id(parameter)] == expected, name
