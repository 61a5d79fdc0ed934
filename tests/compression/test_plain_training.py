from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import get_scheduler

from compression.batches import Rows
from compression.evaluation import Scores, by_labels
from compression.plain_training import PaddedRows, train_plainly
from tests.compression.tiny import rows_of, tiny_model, training


def test_every_row_is_padded_to_the_longest(tmp_path: Path) -> None:
    rows = rows_of(6, tmp_path)
    padded = PaddedRows(*rows.corpora)
    batch, expected = padded.batch([0, 3]), rows.batch([0, 3])
    assert batch.input_ids.shape == batch.attention_mask.shape == (2, 16)
    assert padded.lengths.tolist() == [16] * 6
    width = expected.input_ids.shape[1]
    assert (batch.input_ids[:, :width] == expected.input_ids).all()
    assert batch.attention_mask.sum() == expected.attention_mask.sum()
    assert (batch.labels == expected.labels).all()


def test_it_is_a_plain_loop(tmp_path: Path) -> None:
    """The same weights as a loop written out, without dropout, on one step of all rows."""
    padded = PaddedRows(*rows_of(12, tmp_path).corpora)
    settings = training(
        rows_per_step=12, epochs=3, evaluations_per_epoch=1, warmup_fraction=0.0, dropout="model"
    )
    ours, theirs = tiny_model(), tiny_model()
    for model in (ours, theirs):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    judged: list[float] = []

    def judge(model: torch.nn.Module, rows: Rows, chosen: object) -> Scores:
        assert not model.training
        judged.append(by_labels(model, rows, range(12)).loss)
        return Scores(1.0, judged[-1], 12)

    told: list[int] = []
    train_plainly(ours, padded, padded, settings, lambda done, *_: told.append(done), judge)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = get_scheduler("linear", optimizer, 0, 3)
    theirs.train()
    # In the same order: Adam makes steps of a size out of what sums in another order differ by.
    orders = np.random.default_rng(settings.seed)
    for _ in range(3):
        batch = padded.batch(orders.permutation(12).tolist())
        logits = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert told == [1, 2, 3]
    assert len(judged) == 3
    assert judged[-1] < judged[0]
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, expected, atol=2e-5)
