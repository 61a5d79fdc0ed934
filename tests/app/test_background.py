from __future__ import annotations

from concurrent.futures import Future

import pytest

from app.background import PATIENCE_SECONDS, QUIET_SECONDS, Background, Chore


def chore(submitted: float = 0.0) -> Chore:
    return Chore(lambda: None, 1, Future(), submitted)


def test_nothing_to_do() -> None:
    background = Background()
    assert background.overdue(9.0) is None
    assert background.next(9.0, quiet_since=0.0) is None
    assert background.seconds_until_quiet(9.0, quiet_since=0.0) is None


def test_a_load_waits_for_requests_but_not_for_long() -> None:
    background, load = Background(), chore()
    background.add(load, when_idle=False)
    assert background.next(0.0, quiet_since=None) is load
    assert background.overdue(PATIENCE_SECONDS) is None
    assert background.overdue(PATIENCE_SECONDS + 0.01) is load
    background.start(load)
    assert background.next(1.0, quiet_since=0.0) is None


def test_measuring_waits_for_silence() -> None:
    background, tuning = Background(), chore()
    background.add(tuning, when_idle=True)
    assert background.overdue(1e9) is None
    assert background.next(1e9, quiet_since=None) is None
    assert background.next(5.0, quiet_since=5.0) is None
    assert background.seconds_until_quiet(5.0, quiet_since=5.0) == pytest.approx(QUIET_SECONDS)
    assert background.seconds_until_quiet(9.0, quiet_since=5.0) == 0
    assert background.next(5.0 + QUIET_SECONDS, quiet_since=5.0) is tuning
    background.start(tuning)
    assert background.drain() == []


def test_loads_go_before_measuring() -> None:
    background, tuning, load = Background(), chore(), chore()
    background.add(tuning, when_idle=True)
    background.add(load, when_idle=False)
    assert background.next(9.0, quiet_since=0.0) is load
    background.start(load)
    assert background.drain() == [tuning]
    assert background.drain() == []
