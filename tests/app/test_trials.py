from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from app.cost import CostModel
from app.engines.base import Ids, Logits
from app.session import Session
from app.trials import pass_seconds, texts_per_second

IDS = np.array([2, 7, 3], dtype=np.int64)


class SlowEngine:
    """Sleeps for so long; knows how many passes ran at once."""

    description = "fake"

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)
        self._lock = threading.Lock()
        self._running = self.most = 0
        self.shapes: list[tuple[int, ...]] = []

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
            self.shapes.append(input_ids.shape)
            seconds = self._seconds[0] if len(self._seconds) == 1 else self._seconds.pop(0)
        assert attention_mask.all()
        time.sleep(seconds)
        with self._lock:
            self._running -= 1
        return np.zeros((len(input_ids), 2), dtype=np.float32)

    def close(self) -> None:
        pass


def session(engine: Any) -> Session:
    return Session(engine, 1, CostModel({(1, 1): 1.0}))


def test_a_pass_that_allocates_is_followed_by_one_that_does_not() -> None:
    engine = SlowEngine(0.02, 0.001)
    assert 0.001 <= pass_seconds(session(engine), IDS, 4) < 0.02
    assert engine.shapes == [(4, 3)] * 2


def test_a_long_pass_is_made_once() -> None:
    engine = SlowEngine(0.04)
    assert pass_seconds(session(engine), IDS, 1) >= 0.04
    assert engine.shapes == [(1, 3)]


def test_texts_a_second_count_all_passes_and_rows() -> None:
    engine = SlowEngine(0.01)
    rate = texts_per_second(session(engine), IDS, rows=4, passes=2)
    assert engine.most == 2
    assert 0 < rate <= 2 * 4 / 0.01
    assert set(engine.shapes) == {(4, 3)}


def test_every_pass_runs_at_least_once() -> None:
    engine = SlowEngine(0.08)
    assert texts_per_second(session(engine), IDS, rows=1, passes=3) <= 3 / 0.08
    assert len(engine.shapes) == 3
