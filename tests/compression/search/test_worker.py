"""A worker whose trials cost nothing: their figures follow from their rates."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from app.errors import DiskFullError, ParityError, SearchError, TrainingError
from compression.search.book import Book, Entry
from compression.search.goals import Goals, Values, frontier, goals
from compression.search.outcome import NOT_MET, Outcome, failures, verdict
from compression.search.recipes import Template
from compression.search.space import Rates, Space
from compression.search.worker import Bench, Limits, Worker, expected
from compression.stages.base import Context
from tests.compression.search.tiny_search import CHEAP, FULL

SPACE = Space(
    layers=(6, 5, 4, 3, 2, 1),
    heads=(0.0, 0.25, 0.5),
    ffn=(0.0, 0.2, 0.4, 0.6, 0.8),
    vocabulary=(1.0,),
    embeddings=(8, 4),
    scheme=("static", "weight-only"),
)
WANTED = goals(["size=12MB"], ["retention=0.96"], ["latency"], [])


def figures(rates: Rates, effort: str = "full") -> dict[str, Any]:
    """Fewer layers cost less and know less; weight-only is slower and a little better."""
    work = rates.layers * (0.4 * (1 - rates.heads) + 0.6 * (1 - rates.ffn))
    lost = 0.004 * (6 - rates.layers) ** 1.5 + 0.02 * rates.heads**2 + 0.03 * rates.ffn**2
    lost += 0.004 * (rates.embeddings == 4) - 0.001 * (rates.scheme == "weight-only")
    if effort == "cheap":
        lost *= 1.2
    latency = (0.005 + 0.01 * work) * (1.8 if rates.scheme == "weight-only" else 1.0)
    return {
        "size": 3e6 * work + (12e6 if rates.embeddings == 8 else 6e6) / 2,
        "latency": latency,
        "latency-ms": 150 * latency,
        "memory": 1e8,
        "energy": 30 * latency,
        "accuracy": 0.93 * (1 - lost),
        "retention": 1 - lost,
    }


class Fake(Worker):
    """Counts what it did; `spoil` may raise instead of a trial."""

    def __init__(
        self,
        folder: Path,
        wanted: Goals = WANTED,
        limits: Limits = Limits(30, None),  # noqa: B008 - frozen
        spoil: Callable[[Rates, str], None] = lambda _rates, _effort: None,
        clock: Callable[[], float] = lambda: 0.0,
        space: Space = SPACE,
        identity: str = "same",
    ) -> None:
        book = Book(folder, identity, wanted, space, (CHEAP.name, FULL.name), seed=0)
        nothing = cast(Context, None)
        cheap, full = (Bench(effort, nothing, cast(Any, None)) for effort in (CHEAP, FULL))
        super().__init__(
            cheap, full, {}, cast(Template, None), wanted, space, book, limits, lambda _: None, clock
        )
        self.book, self.spoil, self.measured, self.wanted = book, spoil, list[tuple[str, Rates]](), wanted
        self.published: list[Rates] = []

    def _measured(self, rates: Rates, bench: Bench) -> dict[str, Any]:
        self.spoil(rates, bench.effort.name)
        self.measured.append((bench.effort.name, rates))
        return figures(rates, bench.effort.name)

    def _published(self, rates: Rates) -> tuple[str, dict[str, Any]]:
        self.published.append(rates)
        return f"found/{len(self.published)}", {}

    def outcome(self, repository: Path) -> Outcome:
        cheap, full = (tuple(self.book.entries(effort.name)) for effort in (CHEAP, FULL))
        return Outcome(self.wanted, cheap, full, "over", False, repository)


def _values(entries: list[Entry] | tuple[Entry, ...]) -> Mapping[Rates, Values]:
    return {entry.rates: entry.values for entry in entries if entry.values is not None}


def test_it_finds_what_trying_everything_would(tmp_path: Path) -> None:
    worker = Fake(tmp_path, limits=Limits(60, None))
    assert worker.run() == "everything worth it was tried"
    best = worker.outcome(tmp_path).best
    assert best is not None
    assert best.values is not None
    every = [figures(rates) for rates in SPACE.all_rates()]
    possible = [values["latency"] for values in every if not WANTED.missed(values)]
    # Of 360 points 60 were tried cheaply and a third of those in full.
    assert best.values["latency"] <= 1.25 * min(possible)
    assert best.values["latency"] < 0.7 * statistics.median(possible)
    assert worker.outcome(tmp_path).exit_code == 0


def test_what_full_training_adds_is_expected_of_cheap_trials() -> None:
    def entry(layers: int, effort: str, retention: float) -> Entry:
        return Entry(0, effort, Rates(layers=layers), {"accuracy": retention, "retention": retention})

    cheap = [entry(layers, "cheap", 0.8) for layers in (6, 5, 4, 3, 2)]
    two = [entry(layers, "full", 0.8 + 0.01 * layers) for layers in (6, 5, 4)]
    assert {v["retention"] for v in expected(cheap, two, 6).values()} == {0.8}  # six layers train nothing
    three = [*two, entry(3, "full", 0.83)]
    assert [v["retention"] for v in expected(cheap, three, 6).values()] == pytest.approx([0.84] * 5)


def test_a_third_is_trained_in_full_and_the_frontier_is_published(tmp_path: Path) -> None:
    wanted = goals([], ["retention=0.9"], ["latency"], ["retention"])
    worker = Fake(tmp_path, wanted)
    worker.run()
    found = worker.outcome(tmp_path)
    assert len(found.cheap) == 30
    assert 10 <= len(found.full) < 30
    points = _values(found.full)
    keeping = {rates: values for rates, values in points.items() if not wanted.missed(values)}
    assert {entry.rates for entry in found.frontier} == set(frontier(keeping, wanted.axes))
    assert all(entry.version for entry in found.frontier)
    assert len(found.frontier) > 3
    first = min(found.full, key=lambda entry: entry.number)
    assert (first.rates, first.version) == (SPACE.mildest(), "found/1")


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    def spoil(rates: Rates, effort: str) -> None:
        if rates.scheme == "weight-only":
            raise ParityError("build onnx-int8: label flips 0.2, limit 0.01; it is not published")
        if rates.layers == 1:
            raise TrainingError("the loss became nan in epoch 1, step 2\nmore")
        if rates.layers == 2 and effort == "full":
            raise MemoryError

    worker = Fake(tmp_path, spoil=spoil)
    worker.run()
    found = worker.outcome(tmp_path)
    assert len(found.cheap) == 30
    told = failures(found)
    assert len(told) == sum(entry.values is None for entry in (*found.cheap, *found.full)) > 0
    assert any("ParityError: build onnx-int8: label flips 0.2" in line for line in told)
    assert any("TrainingError: the loss became nan in epoch 1, step 2" in line for line in told)
    assert not any("more" in line for line in told)
    assert found.best is not None
    assert found.best.rates.scheme == "static"


def test_a_search_in_which_all_fails_ends(tmp_path: Path) -> None:
    def spoil(rates: Rates, effort: str) -> None:
        raise RuntimeError("no such device")

    with pytest.raises(
        SearchError, match="all of 5 trials failed, the last one with RuntimeError: no such d"
    ):
        Fake(tmp_path, spoil=spoil).run()


def test_a_full_disk_ends_it_and_the_trial_is_tried_again(tmp_path: Path) -> None:
    def full(rates: Rates, effort: str) -> None:
        raise DiskFullError("no room left")

    with pytest.raises(DiskFullError):
        Fake(tmp_path, spoil=full).run()
    again = Fake(tmp_path, limits=Limits(3, None))
    again.run()
    assert ("cheap", SPACE.mildest()) in again.measured
    assert failures(again.outcome(tmp_path)) == []


def test_what_cannot_be_had_is_said_with_what_is_nearest(tmp_path: Path) -> None:
    wanted = goals(["size=1MB"], ["retention=0.97"], ["latency"], [])
    worker = Fake(tmp_path, wanted)
    worker.run()
    found = worker.outcome(tmp_path)
    assert found.exit_code == NOT_MET
    assert found.frontier == []
    best = found.best
    assert best is not None
    assert best.values is not None
    assert best.version is not None
    # The floor is kept, and of what keeps it nothing is smaller.
    kept = [values for values in _values(found.full).values() if values["retention"] >= 0.97]
    assert best.values["size"] == min(values["size"] for values in kept)
    nearest = f"{best.values['size'] / 1e6:.2f} MB"
    assert verdict(found).startswith(
        f"Not met: size at most 1.00 MB (the nearest has {nearest}). The nearest is"
    )


class Clock:
    """A second passes whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_a_budget_ends_it_and_its_second_half_is_for_full_trials(tmp_path: Path) -> None:
    clock, begun = Clock(), list[tuple[str, float]]()

    def take_time(rates: Rates, effort: str) -> None:
        begun.append((effort, clock.now))
        clock.now += 5 if effort == "cheap" else 60

    worker = Fake(tmp_path, limits=Limits(None, 600), clock=clock, spoil=take_time)
    assert worker.run() == "the budget is spent"
    before, after = ([e for e, at in begun if (at < 300) == early] for early in (True, False))
    assert before.count("cheap") > before.count("full") > 0
    assert after[:2] == ["full", "full"]
    assert after.count("full") >= after.count("cheap")
    assert worker.outcome(tmp_path).best is not None


def test_a_small_space_is_tried_to_its_end(tmp_path: Path) -> None:
    space = Space(
        layers=(2, 1),
        heads=(0.0,),
        ffn=(0.0, 0.4),
        vocabulary=(1.0,),
        embeddings=(8,),
        scheme=("static", "weight-only"),
    )
    worker = Fake(tmp_path, limits=Limits(100, None), space=space)
    worker.run()
    tried = [rates for effort, rates in worker.measured if effort == "cheap"]
    assert len(tried) == len(set(tried)) == 8 == space.points


def test_other_goals_begin_with_what_is_known(tmp_path: Path) -> None:
    first = Fake(tmp_path)
    first.run()
    known = {rates for effort, rates in first.measured if effort == "cheap"}
    again = Fake(tmp_path, goals(["latency=20x"], [], ["size"], []))
    again.run()
    tried = _values(again.outcome(tmp_path).cheap)
    assert known <= set(tried)
    assert not known & {rates for effort, rates in again.measured if effort == "cheap"}


def test_other_data_begin_with_nothing(tmp_path: Path) -> None:
    Fake(tmp_path, limits=Limits(3, None)).run()
    again = Fake(tmp_path, limits=Limits(3, None), identity="other")
    again.run()
    assert len([1 for effort, _ in again.measured if effort == "cheap"]) == 3


def test_stopped_again_and_again_a_trial_is_not_given_up(tmp_path: Path) -> None:
    """Ctrl-C and a spent budget are no fault of the trial."""

    def stopped(rates: Rates, effort: str) -> None:
        if rates == SPACE.middle():
            raise KeyboardInterrupt

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            Fake(tmp_path, limits=Limits(4, None), spoil=stopped).run()
    last = Fake(tmp_path, limits=Limits(4, None))
    last.run()
    found = last.outcome(tmp_path)
    assert failures(found) == []
    assert SPACE.middle() in _values(found.cheap)
    assert len(found.cheap) == 4


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    """After three workers that died at it a trial counts as failed, and the search goes on."""

    def deadly(rates: Rates, effort: str) -> None:
        if rates == SPACE.middle():
            raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            Fake(tmp_path, limits=Limits(4, None), spoil=deadly).run()
    last = Fake(tmp_path, limits=Limits(4, None), spoil=deadly)
    last.run()
    found = last.outcome(tmp_path)
    (told,) = failures(found)
    assert SPACE.middle().text in told
    assert told.endswith("3 workers ended at it: killed, perhaps for their memory")
    assert len(found.cheap) == 4


def test_two_workers_never_take_the_same_trial(tmp_path: Path) -> None:
    """The second asks while the first is in the middle of a trial."""
    second = Fake(tmp_path, limits=Limits(8, None))
    taken: list[tuple[str, Rates]] = []

    def meanwhile(rates: Rates, effort: str) -> None:
        taken.append((effort, rates))
        if len(taken) == 2:
            second.run()

    first = Fake(tmp_path, limits=Limits(8, None), spoil=meanwhile)
    first.run()
    everything = first.measured + second.measured
    assert len(everything) == len(set(everything))
    assert len([1 for effort, _ in everything if effort == "cheap"]) == 8
