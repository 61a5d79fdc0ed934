from __future__ import annotations

import pytest
import torch

from compression.distillation.trace import trace
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_model, uneven_classifier


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_the_model_computes(family: str) -> None:
    """The attention maps that transformers returns follow from the queries and keys that were read off."""
    model, batch = tiny_model(family), random_batch()
    with torch.no_grad():
        found = trace(model, batch, attention=True)
        output = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            output_hidden_states=True,
            output_attentions=True,
        )
    assert torch.equal(found.logits, output.logits)
    assert all(torch.equal(a, b) for a, b in zip(found.hidden, output.hidden_states, strict=True))
    padding = ~batch.attention_mask.bool()[:, None, None, :]
    for layer in range(3):
        scores = found.attention_scores(layer).masked_fill(padding, -1e9)
        assert torch.allclose(scores.softmax(-1), output.attentions[layer], atol=1e-5)
        assert found.values[layer].shape == (4, 4, 12, 8)


def test_uneven_heads() -> None:
    found = trace(uneven_classifier().model, random_batch(), attention=True)
    assert [queries.shape[1] for queries in found.queries] == [1, 3, 2]


def test_without_attention_nothing_is_recorded_and_nothing_left_behind() -> None:
    model = tiny_model()
    found = trace(model, random_batch(), attention=False)
    assert found.queries == found.keys == found.values == ()
    before = [len(module._forward_hooks) for module in model.modules()]  # transformers leaves its own
    trace(model, random_batch(), attention=True)
    assert [len(module._forward_hooks) for module in model.modules()] == before
    assert torch.equal(found.logits.detach(), logits(model, random_batch()))
