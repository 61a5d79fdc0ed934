"""The dispatcher under a simulated clock: order, fairness, priorities, cores, overload."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from app.cost import CostModel
from app.dispatch import Dispatcher
from app.errors import BusyError, ClosingError, DeadlineExceededError, EngineError
from app.job import Job, Priority
from app.session import Session
from app.tokenizer import Encoded
from tests.app.simulation import FOREVER, Outcome, Request, Simulation, cost_model, fake_variant

ROW_SECONDS = 0.01  # of ten tokens


def make_job(
    variant: Any,
    *lengths: int,
    deadline: float = FOREVER,
    priority: Priority = "normal",
    client: str = "",
) -> Job:
    encoded = [Encoded(np.zeros(length, dtype=np.int64), False) for length in lengths]
    return Job(variant, encoded, deadline, lambda _: None, priority, client)


def one_variant(cores: int = 1, **options: Any) -> tuple[Dispatcher, Any]:
    dispatcher, variant = Dispatcher(cores), fake_variant(**options)
    dispatcher.variants.append(variant)
    return dispatcher, variant


def order_of(outcomes: list[Outcome]) -> list[int]:
    """Indexes in the order in which they were answered."""
    return sorted(range(len(outcomes)), key=lambda index: outcomes[index].finished_at or 0.0)


# order


def test_the_nearest_deadline_goes_first() -> None:
    timeouts = (9.0, 3.0, 6.0)
    blocker = Request(0.0)
    requests = [blocker, *(Request(0.001, timeout=timeout) for timeout in timeouts)]
    assert order_of(Simulation([fake_variant()]).run(requests)) == [0, 2, 3, 1]


def test_over_all_variants() -> None:
    requests = [
        Request(0.0),
        Request(0.001, timeout=9.0, variant=0),
        Request(0.001, timeout=3.0, variant=1),
        Request(0.001, timeout=6.0, variant=0),
    ]
    assert order_of(Simulation([fake_variant(), fake_variant()]).run(requests)) == [0, 2, 3, 1]


def test_high_goes_before_normal_and_normal_before_low() -> None:
    priorities: list[Priority] = ["low", "normal", "high", "low", "normal", "high"]
    requests = [Request(0.0), *(Request(0.001, timeout=9.0, priority=p) for p in priorities)]
    order = order_of(Simulation([fake_variant()]).run(requests))
    assert [priorities[index - 1] for index in order[1:]] == ["high"] * 2 + ["normal"] * 2 + ["low"] * 2


def test_a_low_row_with_a_nearer_deadline_goes_where_nobody_is_late_for_it() -> None:
    low = Request(0.001, timeout=0.5, priority="low")
    relaxed = [Request(0.001, timeout=5.0) for _ in range(3)]
    assert order_of(Simulation([fake_variant()]).run([Request(0.0), low, *relaxed]))[1] == 1
    tight = [Request(0.001, timeout=0.041) for _ in range(3)]
    outcomes = Simulation([fake_variant()]).run([Request(0.0), low, *tight])
    assert all(outcome.good for outcome in outcomes)
    assert order_of(outcomes)[-1] == 1


def test_low_moves_however_busy_the_others_are() -> None:
    """Twice as many normal texts as can be run: a low row still goes every second."""
    normal = [Request(number * ROW_SECONDS / 2, timeout=2.0) for number in range(2000)]
    low = [Request(0.5, timeout=FOREVER, priority="low") for _ in range(5)]
    outcomes = Simulation([fake_variant()]).run([*normal, *low])
    waits = sorted(outcome.waited for outcome in outcomes if outcome.request.priority == "low")
    for number, wait in enumerate(waits, start=1):
        assert wait <= number * (1.0 + 2 * ROW_SECONDS) + ROW_SECONDS
    assert all(outcome.finished_at is not None for outcome in outcomes)


# fairness


@pytest.mark.parametrize("cores", [1, 2, 4])
@pytest.mark.parametrize("clients", [("big", "small"), ("", "")])
@pytest.mark.parametrize("at", [0.001, 0.1, 0.25])
def test_a_single_text_does_not_wait_for_a_batch_of_128(
    cores: int, clients: tuple[str, str], at: float
) -> None:
    """It waits for what runs, and for at most one pass more; nothing is lost by it."""
    big = Request(0.0, lengths=(10,) * 128, timeout=10.0, client=clients[0])
    small = Request(at, timeout=10.0, client=clients[1])
    simulation = Simulation([fake_variant()], cores)
    outcomes = simulation.run([big, small])
    assert outcomes[1].waited <= 3 * ROW_SECONDS + 1e-9
    assert outcomes[0].waited == pytest.approx(129 * ROW_SECONDS / cores, abs=2 * ROW_SECONDS)
    assert simulation.busy_core_seconds == pytest.approx(129 * ROW_SECONDS)


def test_where_batches_pay_it_waits_for_a_batch() -> None:
    variant = fake_variant(batch_invariant=True)
    variant.session.cost = cost_model(lambda rows, length: (9 + rows) * length / 10_000)
    simulation = Simulation([variant], cores=2)
    simulation._true_cost = [variant.session.cost]
    big = Request(0.0, lengths=(10,) * 128, timeout=10.0)
    outcomes = simulation.run([big, Request(0.03, timeout=10.0)])
    full_batch = 0.017
    assert max(len(taken.rows) for taken in simulation.passes) == 8
    assert outcomes[1].waited <= 2 * full_batch + 1e-9


def test_a_busy_client_does_not_delay_the_others() -> None:
    """One client keeps a backlog of seconds; the rest ask now and then and hardly notice."""
    heavy = [Request(number / 5, lengths=(10,) * 40, timeout=60.0, client="heavy") for number in range(50)]
    light = [Request(0.5 + number / 3, timeout=60.0, client=f"light-{number % 7}") for number in range(27)]
    outcomes = Simulation([fake_variant()], cores=1).run([*heavy, *light])
    waits = [outcome.waited for outcome in outcomes if outcome.request.client != "heavy"]
    assert max(waits) < 0.5
    assert max(outcome.waited for outcome in outcomes) > 8


def test_two_busy_clients_share_evenly() -> None:
    requests = [
        Request(number * 0.02 * len(lengths), lengths=lengths, timeout=60.0, client=client)
        for client, lengths in (("batches", (10,) * 20), ("singles", (10,)))
        for number in range(20 // len(lengths) * 20)
    ]
    simulation = Simulation([fake_variant()], cores=1)
    simulation.run(requests)
    half = [taken.rows[0].job.client for taken in simulation.passes[100:400]]
    assert half.count("batches") == pytest.approx(150, abs=15)


def test_who_comes_later_has_no_claim_to_what_ran_before() -> None:
    """The second batch comes when half of the first is done; from then on they share."""
    batches = [
        Request(0.0, lengths=(10,) * 128, timeout=10.0),
        Request(0.64, lengths=(10,) * 128, timeout=10.0),
    ]
    outcomes = Simulation([fake_variant()]).run(batches)
    assert outcomes[0].waited == pytest.approx(0.64 + 2 * 0.64, abs=0.05)
    assert outcomes[1].waited == pytest.approx(2.56 - 0.64, abs=0.05)


def test_a_tight_deadline_beats_a_small_lead() -> None:
    urgent = Request(0.001, lengths=(10,) * 8, timeout=0.2, client="urgent")
    others = [Request(0.001, timeout=10.0, client=f"other-{number}") for number in range(50)]
    outcomes = Simulation([fake_variant()]).run([Request(0.0), urgent, *others])
    assert outcomes[1].good


# cores


@pytest.mark.parametrize("number", range(30))
def test_cores_are_never_oversubscribed_nor_idle_while_something_waits(number: int) -> None:
    draw = random.Random(number)
    cores = draw.choice([1, 2, 3, 4, 6])
    variants = [
        fake_variant(threads=draw.choice([t for t in (1, 2, 3, cores) if t <= cores])) for _ in range(3)
    ]
    for variant in variants:
        if draw.random() < 0.5:
            wide = Session(variant.session.engine, cores, cost_model(lambda _, length: length / 9000))
            variant.lone_session = wide
    simulation = Simulation(variants, cores)
    requests = [
        Request(
            draw.uniform(0, 2),
            lengths=tuple(draw.randint(1, 80) for _ in range(draw.choice([1, 1, 1, 20]))),
            variant=draw.randrange(3),
            client=draw.choice(["", "a", "b"]),
            priority=draw.choice(["high", "normal", "low"]),
        )
        for _ in range(150)
    ]
    outcomes = simulation.run(requests)
    assert simulation.most_cores <= cores
    assert all(outcome.finished_at is not None and outcome.error is None for outcome in outcomes)
    assert simulation.dispatcher.free_cores == cores
    assert sum(len(taken.rows) for taken in simulation.passes) == sum(len(r.lengths) for r in requests)


def test_a_wide_pass_is_not_passed_over() -> None:
    """Narrow passes keep coming; the wide one, due first, gets its cores all the same."""
    narrow, wide = fake_variant(), fake_variant(threads=2)
    narrows = [Request(number * 0.005, timeout=50.0, variant=0) for number in range(400)]
    outcome = Simulation([narrow, wide], cores=2).run([*narrows, Request(0.5, timeout=10.0, variant=1)])
    (waited,) = (o.waited for o in outcome if o.request.variant == 1)
    assert waited <= 3 * ROW_SECONDS


def test_a_lone_pass_takes_all_cores_where_that_is_faster() -> None:
    dispatcher, variant = one_variant(cores=2)
    quick, slow = cost_model(lambda _, length: length / 5000), cost_model(lambda _, length: length)
    for cost, threads in ((quick, 2), (slow, 1)):
        variant.lone_session = Session(variant.session.engine, 2, cost)
        dispatcher.push(make_job(variant, 10), 0.0)
        taken = dispatcher.take(0.0)
        assert taken is not None
        assert taken.session.threads == threads
        dispatcher.finish(taken, np.zeros((1, 2), dtype=np.float32), 0.01)


@pytest.mark.parametrize("more", [1, 3])
def test_no_lone_pass_where_others_wait_or_run(more: int) -> None:
    dispatcher, variant = one_variant(cores=2)
    variant.lone_session = Session(variant.session.engine, 2, cost_model(lambda *_: 1e-3))
    for _ in range(1 + more):
        dispatcher.push(make_job(variant, 10), 0.0)
    passes = [dispatcher.take(0.0), dispatcher.take(0.0)]
    assert [taken.session.threads for taken in passes if taken] == [1, 1]
    assert dispatcher.take(0.0) is None


def test_cores_held_for_something_else_are_missing() -> None:
    dispatcher, variant = one_variant(cores=2)
    assert dispatcher.hold(1)
    assert not dispatcher.hold(2)
    for _ in range(2):
        dispatcher.push(make_job(variant, 10), 0.0)
    assert dispatcher.take(0.0) is not None
    assert dispatcher.take(0.0) is None
    dispatcher.give_back(1)
    assert dispatcher.take(0.0) is not None


# what is late


def test_expired_rows_are_dropped_with_their_jobs() -> None:
    dispatcher, variant = one_variant()
    late, other = make_job(variant, 10, 10, deadline=5.0), make_job(variant, 10)
    for job in (late, other):
        dispatcher.push(job, 0.0)
    assert dispatcher.drop_late(4.0) == []
    assert dispatcher.drop_late(5.0) == [late]
    assert isinstance(late.error, DeadlineExceededError)
    assert dispatcher.waiting_rows == 1


def test_what_cannot_be_in_time_any_more_costs_nothing() -> None:
    dispatcher, variant = one_variant()
    job = make_job(variant, *[10] * 100, deadline=10.0)  # a second of work
    dispatcher.push(job, 0.0)
    assert dispatcher.drop_late(9.4) == []
    assert dispatcher.drop_late(9.6) == [job]
    assert dispatcher.waiting_rows == 0


def test_giving_up_at_the_deadline_is_learned_and_leaving_early_is_not() -> None:
    dispatcher, variant = one_variant()
    for waited, expected in ((0.9, 1.0), (1.0, 2.0)):
        for _ in range(200):
            job = make_job(variant, 10, deadline=1.0)
            job.predicted_seconds = 0.5
            dispatcher.push(job, 0.0)
            dispatcher.withdraw(job, waited)
        assert dispatcher.forecast.seconds(1.0) == pytest.approx(expected, abs=0.1)
    assert dispatcher.waiting_rows == 0


def test_the_time_in_a_pass_shared_with_others_is_waiting_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CostModel, "observe", lambda *_: None)
    dispatcher, variant = one_variant()
    for _ in range(200):
        job = make_job(variant, 10)
        job.predicted_seconds = 0.2
        dispatcher.push(job, 0.0)
        taken = dispatcher.take(0.2)
        assert taken is not None
        dispatcher.finish(taken, np.zeros((1, 2), dtype=np.float32), 0.2 + ROW_SECONDS)
    # 0.2 s in the queue and 0.2 s more than its own cost in the pass
    assert dispatcher.forecast.seconds(1.0) == pytest.approx(2.0, abs=0.2)


def test_a_job_is_failed_once() -> None:
    dispatcher, variant = one_variant(cores=2)
    job = make_job(variant, 10, 10, 10)
    dispatcher.push(job, 0.0)
    passes = [dispatcher.take(0.0), dispatcher.take(0.0)]
    assert passes[0] and passes[1]
    assert dispatcher.finish_failed(passes[0], EngineError("no")) == [job]
    assert dispatcher.waiting_rows == 0
    assert dispatcher.finish_failed(passes[1], EngineError("no")) == []
    assert dispatcher.free_cores == 2


def test_removing_a_variant_fails_its_jobs() -> None:
    dispatcher, variant = one_variant()
    other = fake_variant()
    dispatcher.variants.append(other)
    mine, theirs = make_job(variant, 10), make_job(other, 10)
    for job in (mine, theirs):
        dispatcher.push(job, 0.0)
    assert dispatcher.remove(variant) == [mine]
    assert isinstance(mine.error, ClosingError)
    assert dispatcher.waiting_rows == 1


# predictions


def test_the_wait_is_what_runs_and_what_goes_before() -> None:
    dispatcher, variant = one_variant()
    dispatcher.push(make_job(variant, 100, client="a"), 0.0)
    assert dispatcher.take(0.0) is not None
    dispatcher.push(make_job(variant, 200, deadline=1000.0, client="b"), 0.0)
    dispatcher.push(make_job(variant, 300, deadline=3000.0, client="c"), 0.0)
    between = make_job(variant, 10, deadline=2000.0, client="d")
    assert dispatcher.wait_seconds(between, 0.0) == pytest.approx(0.1 + 0.2)
    assert dispatcher.wait_seconds(between, 0.04) == pytest.approx(0.06 + 0.2)
    assert dispatcher.backlog_seconds(0.0) == pytest.approx(0.1 + 0.2 + 0.3)
    low = make_job(variant, 10, deadline=500.0, priority="low")
    assert dispatcher.wait_seconds(low, 0.0) == pytest.approx(0.1 + 0.2 + 0.3)


def test_the_wait_of_a_big_batch_counts_who_overtakes_it() -> None:
    dispatcher, variant = one_variant()
    dispatcher.push(make_job(variant, 10, deadline=20.0), 0.0)
    assert dispatcher.wait_seconds(make_job(variant, 10, deadline=10.0), 0.0) == 0
    assert dispatcher.wait_seconds(make_job(variant, *[10] * 100, deadline=10.0), 0.0) > 0


# overload


def poisson(rate: float, seconds: float, timeout: float, draw: random.Random) -> list[Request]:
    requests, at = [], 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        requests.append(Request(at, (draw.randint(5, 60),), timeout, client=f"client-{draw.randrange(50)}"))
    return requests


def goodput(rate: float, timeout: float, slower: float, seed: int) -> tuple[float, list[Outcome]]:
    simulation = Simulation([fake_variant()], cores=2, slower=slower, admit=True)
    outcomes = simulation.run(poisson(rate, 60.0, timeout, random.Random(seed)))
    warm = [outcome for outcome in outcomes if outcome.request.at > 5]
    return sum(outcome.good for outcome in warm) / 55, outcomes


@pytest.mark.parametrize("timeout", [0.2, 1.0, 10.0])
@pytest.mark.parametrize("slower", [0.7, 1.0, 1.6])
def test_goodput_at_twice_the_capacity(timeout: float, slower: float) -> None:
    """Passes take `slower` times what was measured; capacity is what the cores can then really do."""
    capacity = 2 / (0.0325 * slower)
    at_capacity, _ = goodput(capacity, timeout, slower, seed=1)
    at_twice, outcomes = goodput(2 * capacity, timeout, slower, seed=2)
    assert at_capacity > 0.85 * capacity
    assert at_twice > 0.9 * at_capacity
    late = sum(outcome.error is not None and outcome.refused is None for outcome in outcomes)
    assert late < 0.1 * len(outcomes)
    retry_after = [o.refused.retry_after_seconds for o in outcomes if isinstance(o.refused, BusyError)]
    assert retry_after
    assert 0 < min(retry_after) <= max(retry_after) < 30


def test_nobody_is_refused_where_there_is_room() -> None:
    capacity = 2 / 0.0325
    _, outcomes = goodput(0.5 * capacity, 10.0, 1.0, seed=3)
    assert all(outcome.good for outcome in outcomes)


def test_a_heavy_client_is_refused_before_the_others() -> None:
    draw = random.Random(4)
    light = poisson(10.0, 30.0, 2.0, draw)
    heavy = [Request(r.at, r.lengths, 2.0, client="heavy") for r in poisson(150.0, 30.0, 2.0, draw)]
    outcomes = Simulation([fake_variant()], cores=2, admit=True).run([*light, *heavy])
    others = [outcome for outcome in outcomes if outcome.request.client != "heavy"]
    assert sum(outcome.good for outcome in others) > 0.97 * len(others)
    assert any(outcome.refused for outcome in outcomes)
