from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from app.tokenizer import pad
from compression.batches import Rows, by_token_budget, plan_epoch
from tests.compression.tiny import corpus_of, made_up_reviews

LENGTHS = np.random.default_rng(0).integers(3, 257, 5000)


@pytest.mark.parametrize("rows_per_step", [1, 7, 32, 10_000])
def test_an_epoch_sees_every_row_once(rows_per_step: int) -> None:
    lengths = LENGTHS[:1000]
    plan = plan_epoch(lengths, rows_per_step, seed=0, epoch=0)
    assert sorted(row for step in plan for row in step) == list(range(1000))
    assert len(plan) == -(-1000 // rows_per_step)
    assert sum(len(step) != rows_per_step for step in plan) <= 1


def test_a_plan_follows_from_seed_and_epoch_alone() -> None:
    plan = plan_epoch(LENGTHS, 32, seed=1, epoch=2)
    assert plan_epoch(LENGTHS, 32, seed=1, epoch=2) == plan
    others = [plan_epoch(LENGTHS, 32, seed, epoch) for seed, epoch in [(1, 3), (2, 2), (2, 1)]]
    assert all(other != plan for other in others)
    # Not the same steps in another order, either: who shares a step changes.
    assert {frozenset(step) for step in plan}.isdisjoint(frozenset(step) for step in others[0])


def test_rows_of_a_step_are_of_like_length() -> None:
    plan = plan_epoch(LENGTHS, 32, seed=0, epoch=0)
    padded = sum(len(step) * int(LENGTHS[step].max()) for step in plan)
    shuffled = np.random.default_rng(0).permutation(5000)
    at_random = sum(
        len(shuffled[i : i + 32]) * int(LENGTHS[shuffled[i : i + 32]].max()) for i in range(0, 5000, 32)
    )
    assert padded < 1.05 * LENGTHS.sum()
    assert at_random > 1.8 * LENGTHS.sum()


def test_steps_do_not_come_sorted_by_length() -> None:
    longest = [int(LENGTHS[step].max()) for step in plan_epoch(LENGTHS, 32, seed=0, epoch=0)]
    rising = sum(after > before for before, after in pairwise(longest))
    assert 0.3 < rising / len(longest) < 0.7


@pytest.mark.parametrize("budget", [1, 256, 1000, 2048, 10**9])
def test_the_token_budget_is_kept(budget: int) -> None:
    rows = list(range(100, 300))
    groups = by_token_budget(rows, LENGTHS, budget)
    assert sorted(row for group in groups for row in group) == rows
    for group in groups:
        assert len(group) == 1 or len(group) * LENGTHS[group].max() <= budget
    # No group could have taken the next row as well.
    for group, following in pairwise(groups):
        assert (len(group) + 1) * LENGTHS[[*group, *following]].max() > budget


def test_no_rows_are_no_groups() -> None:
    assert by_token_budget([], LENGTHS, 100) == []


def test_several_corpora_are_read_as_one(tmp_path: Path) -> None:
    reviews = made_up_reviews()
    labelled, free = corpus_of(reviews[:10], tmp_path), corpus_of(reviews[10:25], tmp_path, labelled=False)
    rows = Rows(labelled, free)
    assert len(rows) == 25
    assert rows.labels.tolist() == [*(label for _, label in reviews[:10]), *[-1] * 15]
    assert rows.fingerprint == f"{labelled.fingerprint} {free.fingerprint}"
    whole = corpus_of(reviews[:25], tmp_path)
    for row in range(25):
        assert rows.row(row).tolist() == whole.row(row).tolist()
        assert rows.lengths[row] == len(whole.row(row))


def test_a_batch_is_padded_and_knows_its_rows(tmp_path: Path) -> None:
    rows = Rows(corpus_of(made_up_reviews()[:30], tmp_path))
    chosen = [17, 3, 29]
    batch = rows.batch(chosen)
    input_ids, attention_mask = pad([rows.row(row) for row in chosen], 0)
    assert batch.input_ids.tolist() == input_ids.tolist()
    assert batch.attention_mask.tolist() == attention_mask.tolist()
    assert batch.labels.tolist() == [made_up_reviews()[row][1] for row in chosen]
    assert batch.rows.tolist() == chosen
    assert batch.to(torch.device("cpu")).rows.tolist() == chosen
