from __future__ import annotations

import pytest

from app.settings import Settings
from app.threads import best_threads, candidates, core_budget, fixed_threads
from app.tuning import Trial


@pytest.mark.parametrize(
    ("threads", "sessions", "cores", "budget", "fixed"),
    [
        (None, None, 4, 4, None),
        (2, None, 4, 4, 2),
        (3, None, 4, 3, 3),
        (8, None, 4, 8, 8),
        (None, 2, 4, 4, 2),
        (None, 1, 4, 4, 4),
        (None, 3, 4, 3, 1),
        (None, 8, 4, 8, 1),
        (2, 3, 4, 6, 2),
    ],
)
def test_the_settings_decide(
    threads: int | None, sessions: int | None, cores: int, budget: int, fixed: int | None
) -> None:
    settings = Settings(threads=threads, sessions=sessions)
    assert core_budget(settings, cores) == budget
    assert fixed_threads(settings, cores) == fixed


def test_cores_are_shared_out_without_a_rest() -> None:
    assert candidates(1) == [1]
    assert candidates(6) == [1, 2, 3, 6]


def test_nothing_is_best_of_nothing() -> None:
    assert best_threads({}) is None


def test_throughput_decides() -> None:
    assert best_threads({1: Trial(110.0, 0.02), 2: Trial(97.0, 0.012)}) == 1


def test_the_quicker_answer_decides_between_equals() -> None:
    assert best_threads({1: Trial(100.0, 0.02), 2: Trial(97.0, 0.012), 4: Trial(50.0, 0.007)}) == 2
    assert best_threads({1: Trial(100.0, 0.01), 2: Trial(100.0, 0.01)}) == 1
