from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from app.tokenizer import pad
from compression.batches import Rows, by_token_budget, plan_epoch
from compression.corpus import build
from compression.data import Split
from tests.compression.tiny import corpus_of, made_up_reviews, text_settings, tiny_tokenizer

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


def test_a_sample_takes_the_same_share_of_every_corpus(tmp_path: Path) -> None:
    reviews = made_up_reviews()
    rows = Rows(*(corpus_of(reviews[a:b], tmp_path) for a, b in [(0, 40), (40, 45), (45, 85)]))
    chosen = rows.take(25)
    assert chosen == sorted(set(chosen)) == rows.take(25)
    assert [sum(row in part for row in chosen) for part in rows.parts()] == [10, 5, 10]
    assert rows.parts() == [range(40), range(40, 45), range(45, 85)]
    assert rows.take(1000) == list(range(85))
    only = rows.corpora[0]
    assert Rows(only).take(10, seed=3) == only.take(10, seed=3)


def test_labels_of_further_heads(tmp_path: Path) -> None:
    texts = tuple(text for text, _ in made_up_reviews()[:4])
    tiny_tokenizer().save_pretrained(tmp_path)
    split = Split(texts, (0, 1, 0, 1), ((3, -1, 2, 0),))
    corpus = build(split, tmp_path / "tokenizer.json", text_settings(), tmp_path / "tokens")
    rows = Rows(corpus, corpus.first(2))
    assert rows.further.tolist() == [[3], [-1], [2], [0], [3], [-1]]
    assert rows.batch([2, 4]).further.tolist() == [[2], [3]]
    assert rows.batch([2, 4]).to(torch.device("cpu")).further.tolist() == [[2], [3]]


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


def test_without_bucketing_rows_of_any_length_share_a_step() -> None:
    plan = plan_epoch(LENGTHS, 32, seed=0, epoch=0, bucketing=False)
    assert sorted(row for step in plan for row in step) == list(range(len(LENGTHS)))
    bucketed = plan_epoch(LENGTHS, 32, seed=0, epoch=0)

    def spread(steps: list[list[int]]) -> float:
        return sum(float(LENGTHS[step].max() - LENGTHS[step].min()) for step in steps) / len(steps)

    assert spread(plan) > 5 * spread(bucketed)
