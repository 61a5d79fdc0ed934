from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import pytest

from app import batcher
from app.batcher import BatchLimits, Cost, Reason
from app.metrics import DISPATCH_REASONS

LATER = 1e9
WIDE = BatchLimits(max_rows=8, max_tokens=100_000, batch_invariant=True)


@dataclass(frozen=True)
class Text:
    length: int
    deadline: float = LATER
    name: int = 0


def fixed_plus_tokens(fixed: float) -> Cost:
    """A pass costs `fixed` and then one a token, padding included."""
    return lambda rows, length: fixed + rows * length


def next_batch(
    seed: Text, others: list[Text], cost: Cost, limits: BatchLimits, now: float, idle_workers: int = 1
) -> list[Text]:
    return batcher.next_batch(seed, others, cost, limits, now, idle_workers).rows


def by_length(texts: list[Text]) -> list[Text]:
    return sorted(texts, key=lambda text: text.length)


def apart(batch: list[Text], cost: Cost) -> float:
    return sum(cost(1, text.length) for text in batch)


def together(batch: list[Text], cost: Cost) -> float:
    return cost(len(batch), max(text.length for text in batch))


def test_a_lone_row_runs_alone() -> None:
    assert next_batch(Text(5), [], fixed_plus_tokens(10), WIDE, 0) == [Text(5)]


def test_equal_lengths_share() -> None:
    others = [Text(5, name=number) for number in range(1, 4)]
    assert len(next_batch(Text(5), others, fixed_plus_tokens(10), WIDE, 0)) == 4


def test_padding_that_costs_more_than_it_saves_is_refused() -> None:
    cost = fixed_plus_tokens(10)
    # Together they cost 10 + 2 * length; the longer one in a pair of its own length 10 / 2 + length.
    assert next_batch(Text(5), [Text(9)], cost, WIDE, 0) == [Text(5), Text(9)]
    assert next_batch(Text(5), [Text(11)], cost, WIDE, 0) == [Text(5)]
    assert next_batch(Text(16), [Text(5)], cost, WIDE, 0) == [Text(16)]


def test_a_row_that_others_of_its_length_may_join_is_left_to_them() -> None:
    cost = fixed_plus_tokens(10)
    near = [Text(9, name=1)]
    assert len(next_batch(Text(5), near, cost, WIDE, 0)) == 2
    # Four wait: the row of nine tokens may come to share its fixed cost with three others.
    waiting = by_length([*near, Text(500), Text(501)])
    assert len(next_batch(Text(5), waiting, cost, WIDE, 0)) == 1


def test_an_engine_for_which_batching_never_pays() -> None:
    others = [Text(5, name=number) for number in range(1, 4)]
    assert next_batch(Text(5), others, lambda rows, length: rows**2 * length, WIDE, 0) == [Text(5)]


def test_a_build_that_is_not_batch_invariant_runs_single_rows() -> None:
    limits = BatchLimits(max_rows=8, max_tokens=1000, batch_invariant=False)
    assert next_batch(Text(5), [Text(5, name=1)], fixed_plus_tokens(1000), limits, 0) == [Text(5)]


def test_rows_and_tokens_are_capped() -> None:
    others = [Text(10, name=number) for number in range(1, 30)]
    cost = fixed_plus_tokens(1000)
    assert len(next_batch(Text(10), others, cost, WIDE, 0)) == 8
    assert len(next_batch(Text(10), others, cost, BatchLimits(8, 35, True), 0)) == 3


def test_the_memory_of_attention_is_capped() -> None:
    others = [Text(10, name=number) for number in range(1, 30)]
    cost = fixed_plus_tokens(1000)
    assert len(next_batch(Text(10), others, cost, BatchLimits(8, 1000, True, max_pairs=20**2), 0)) == 4
    # a longer row would make all of them as long
    assert len(next_batch(Text(10), [*others[:2], Text(15)], cost, BatchLimits(8, 1000, True, 20**2), 0)) == 3
    assert next_batch(Text(30), others, cost, BatchLimits(8, 1000, True, 20**2), 0) == [Text(30)]


def test_a_row_over_the_token_cap_still_runs() -> None:
    assert next_batch(Text(50), [], fixed_plus_tokens(1), BatchLimits(8, 10, True), 0) == [Text(50)]


def test_rows_are_left_to_idle_workers() -> None:
    others = [Text(10, name=number) for number in range(1, 6)]
    assert len(next_batch(Text(10), others, fixed_plus_tokens(1000), WIDE, 0, idle_workers=2)) == 3
    assert len(next_batch(Text(10), others, fixed_plus_tokens(1000), WIDE, 0, idle_workers=6)) == 1


def test_a_neighbour_does_not_make_the_seed_late() -> None:
    cost = fixed_plus_tokens(10)
    assert next_batch(Text(5, deadline=16), [Text(5, name=1)], cost, WIDE, 0) == [Text(5, deadline=16)]
    assert len(next_batch(Text(5, deadline=20), [Text(5, name=1)], cost, WIDE, 0)) == 2


def test_who_is_late_anyway_shares() -> None:
    assert len(next_batch(Text(5, deadline=3), [Text(5, name=1)], fixed_plus_tokens(10), WIDE, 0)) == 2


def test_nearest_lengths_come_first() -> None:
    limits = BatchLimits(max_rows=3, max_tokens=1000, batch_invariant=True)
    batch = next_batch(
        Text(10), by_length([Text(2), Text(9), Text(12), Text(30)]), fixed_plus_tokens(100), limits, 0
    )
    assert [text.length for text in batch] == [10, 9, 12]


@pytest.mark.parametrize(
    ("reason", "others", "limits", "idle_workers"),
    [
        ("took_all", [], WIDE, 1),
        ("took_all", [Text(10)], WIDE, 1),
        ("not_invariant", [Text(10)], BatchLimits(8, 1000, False), 1),
        ("full_rows", [Text(10)] * 9, WIDE, 1),
        ("full_tokens", [Text(10)] * 3, BatchLimits(8, 30, True), 1),
        ("does_not_pay", [Text(9), Text(10), Text(500)], WIDE, 1),
        ("deadline", [Text(10, deadline=15)], WIDE, 1),
        ("idle_workers", [Text(10)] * 3, WIDE, 2),
    ],
)
def test_the_reason_says_why_there_are_not_more(
    reason: Reason, others: list[Text], limits: BatchLimits, idle_workers: int
) -> None:
    batch = batcher.next_batch(Text(10), others, fixed_plus_tokens(5), limits, 0, idle_workers)
    assert batch.reason == reason


def test_metrics_count_the_same_reasons() -> None:
    assert get_args(Reason) == DISPATCH_REASONS


def share(text: Text, cost: Cost, company: int) -> float:
    """What the text would cost in the best small batch of texts of its length."""
    return min(cost(rows, text.length) / rows for rows in (1, 2, 4) if rows <= company)


def obvious(
    seed: Text, others: list[Text], cost: Cost, limits: BatchLimits, company: int | None = None
) -> list[Text]:
    """The rule, spelt out: take the nearest length while that pays, and leave a side that stopped paying."""
    company = company or min(len(others) + 1, limits.max_rows)
    batch = [seed]
    shorter = [text for text in others if text.length < seed.length][::-1]
    longer = [text for text in others if text.length >= seed.length]
    while (shorter or longer) and len(batch) < limits.max_rows:
        side = shorter
        if not shorter or (longer and longer[0].length - seed.length <= seed.length - shorter[0].length):
            side = longer
        grown = [*batch, side[0]]
        longest = max(text.length for text in grown)
        fits = len(grown) * longest <= limits.max_tokens and len(grown) * longest**2 <= limits.max_pairs
        if fits and together(grown, cost) < together(batch, cost) + share(side[0], cost, company):
            batch = grown
            side.pop(0)
        else:
            side.clear()
    return batch


@pytest.mark.parametrize("number", range(200))
def test_against_the_obvious_and_the_best(number: int) -> None:
    draw = random.Random(number)
    cost = fixed_plus_tokens(draw.choice([0, 3, 30, 300]))
    texts = [Text(draw.randint(2, 60), name=name) for name in range(draw.randint(1, 8))]
    limits = BatchLimits(
        max_rows=draw.choice([2, 4, 8]),
        max_tokens=draw.choice([60, 200, 1000]),
        batch_invariant=True,
        max_pairs=draw.choice([60**2, 100**2]),
    )
    seed, others = texts[0], by_length(texts[1:])

    batch = next_batch(seed, others, cost, limits, 0)

    assert batch == obvious(seed, others, cost, limits)
    assert together(batch, cost) <= apart(batch, cost)
    best = best_saving(seed, others, cost, limits)
    assert saving(batch, others, cost, limits) >= 0.5 * best


def saving(batch: list[Text], others: list[Text], cost: Cost, limits: BatchLimits) -> float:
    """Against the seed by itself and each other row in the best small batch of its own length."""
    company = min(len(others) + 1, limits.max_rows)
    seed, *rest = batch
    left = sum(share(text, cost, company) for text in rest)
    return cost(1, seed.length) + left - together(batch, cost)


def best_saving(seed: Text, others: list[Text], cost: Cost, limits: BatchLimits) -> float:
    """Over every subset that fits."""
    batches = [[seed, *rest] for size in range(limits.max_rows) for rest in combinations(others, size)]
    return max(
        saving(batch, others, cost, limits)
        for batch in batches
        if len(batch) == 1 or limits.hold(len(batch), max(text.length for text in batch))
    )


def seconds_a_text(take: Callable[[Text, list[Text]], list[Text]], cost: Cost) -> float:
    """Sixteen texts wait; what a pass takes is replaced by others, a thousand passes long."""
    draw = random.Random(0)
    arriving = (Text(draw.randint(4, 60), name=number) for number in itertools.count())
    waiting = [next(arriving) for _ in range(16)]
    seconds, served = 0.0, 0
    for _ in range(1000):
        batch = take(waiting[0], by_length(waiting[1:]))
        seconds += together(batch, cost)
        served += len(batch)
        names = {text.name for text in batch}
        waiting = [text for text in waiting if text.name not in names] + [next(arriving) for _ in batch]
    return seconds / served


@pytest.mark.parametrize("fixed", [20, 40, 100])
def test_it_serves_a_steady_queue_cheaper_than_taking_all_that_pays_by_itself(fixed: int) -> None:
    def cost(rows: int, length: int) -> float:
        """Larger batches gain little, as on CPUs."""
        return fixed + rows * length * (1 + 0.02 * max(rows - 4, 0))

    def greedy(seed: Text, others: list[Text]) -> list[Text]:
        return obvious(seed, others, cost, WIDE, company=1)

    ours = seconds_a_text(lambda seed, others: next_batch(seed, others, cost, WIDE, 0), cost)
    assert ours < seconds_a_text(greedy, cost)
    assert ours < seconds_a_text(lambda seed, _: [seed], cost)
