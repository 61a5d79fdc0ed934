from __future__ import annotations

import itertools
import random

import pytest

from app.errors import SearchError
from compression.search.goals import Goals, dominates, frontier, goals, ranked
from compression.search.metrics import METRICS

AXES = (METRICS["latency"], METRICS["retention"])


def _values(size: float = 10e6, latency: float = 0.05, retention: float = 0.98) -> dict[str, float]:
    return {
        "size": size,
        "latency": latency,
        "latency-ms": latency * 100,
        "memory": 1e8,
        "energy": 2.0,
        "accuracy": retention * 0.93,
        "retention": retention,
    }


WANTED = goals(["size=15MB"], ["retention=0.97"], ["latency"], [])


def test_limits_in_their_good_direction() -> None:
    assert not WANTED.missed(_values())
    assert [limit.text for limit in WANTED.missed(_values(size=16e6))] == ["size at most 15.00 MB"]
    assert [limit.kind for limit in WANTED.missed(_values(16e6, retention=0.9))] == ["target", "floor"]
    assert [limit.kind for limit in WANTED.missed(_values(16e6, retention=0.9), "floor")] == ["floor"]
    on_the_limit = _values(size=15e6, retention=0.97)
    assert not WANTED.missed(on_the_limit)


def test_a_latency_in_milliseconds_is_the_axis_of_its_share() -> None:
    wanted = goals(["latency=4ms"], [], ["latency"], [])
    assert [axis.name for axis in wanted.axes] == ["latency"]
    assert wanted.missed(_values(latency=0.05))
    assert not wanted.missed(_values(latency=0.03))


def test_the_line_that_tells_them() -> None:
    assert WANTED.text == "target size at most 15.00 MB; floor retention at least 97.00%; minimise latency"
    assert goals(["latency=20x"], [], [], []).text == "target latency at least 20.0x faster; minimise latency"


@pytest.mark.parametrize(("minimise", "maximise"), [(["retention"], []), ([], ["size"])])
def test_an_objective_in_its_bad_direction(minimise: list[str], maximise: list[str]) -> None:
    with pytest.raises(SearchError, match="is better the other way round; say --m"):
        goals([], [], minimise, maximise)


def test_a_frontier_is_what_nothing_beats() -> None:
    numbers = random.Random(0)
    points = {n: _values(latency=numbers.random(), retention=numbers.random()) for n in range(200)}
    obvious = []
    for name, values in points.items():
        beaten = False
        for other in points.values():
            as_fast, as_good = (
                other["latency"] <= values["latency"],
                other["retention"] >= values["retention"],
            )
            better = other["latency"] < values["latency"] or other["retention"] > values["retention"]
            beaten = beaten or (as_fast and as_good and better)
        if not beaten:
            obvious.append(name)
    assert frontier(points, AXES) == obvious
    assert 2 < len(obvious) < 30
    fastest_first = sorted(obvious, key=lambda name: points[name]["latency"])
    retained = [points[name]["retention"] for name in fastest_first]
    assert retained == sorted(retained)


def test_equals_do_not_beat_each_other() -> None:
    assert not dominates(_values(), _values(), AXES)
    assert frontier({"a": _values(), "b": _values()}, AXES) == ["a", "b"]


def test_what_keeps_the_limits_comes_first_then_by_fronts_then_the_nearest() -> None:
    wanted: Goals = goals([], ["retention=0.97"], ["latency"], ["retention"])
    points = {
        "fast": _values(latency=0.02, retention=0.975),
        "good": _values(latency=0.05, retention=0.99),
        "beaten": _values(latency=0.06, retention=0.98),
        "near": _values(latency=0.01, retention=0.969),
        "far": _values(latency=0.001, retention=0.6),
    }
    for order in itertools.permutations(points):
        assert ranked({name: points[name] for name in order}, wanted) == [
            "fast",
            "good",
            "beaten",
            "near",
            "far",
        ]


def test_a_floor_is_worth_more_than_a_target() -> None:
    points = {"breaks the floor": _values(14e6, retention=0.9), "misses the target": _values(40e6)}
    assert ranked(points, WANTED) == ["misses the target", "breaks the floor"]
