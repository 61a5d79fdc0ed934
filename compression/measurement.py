"""Latency, measured so that two figures can be compared: warm, in one run, taking turns.

The speed of a shared machine drifts by tens of percent within minutes. Whatever is compared is run
alternately, and medians are quoted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from app.artifact import LatencyPoint

Ids = npt.NDArray[np.int64]
Predict = Callable[[Ids, Ids], object]

_WARMUP = 3


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = _WARMUP,
    processor_time: bool = False,
) -> dict[str, list[float]]:
    """Seconds of every call in every round; in each round all calls are made, one after the other.

    `processor_time` counts what all threads of this process computed instead of what passed: with one
    thread that is the latency this machine would have if nobody else used it.
    """
    clock = time.process_time if processor_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + rounds):
        for name, call in calls.items():
            started = clock()
            call()
            if turn >= warmup:
                seconds[name].append(clock() - started)
    return seconds


def latency(
    models: Mapping[str, Predict],
    tokens: Sequence[int],
    rounds: int,
    rows: int = 1,
    processor_time: bool = False,
) -> dict[str, list[LatencyPoint]]:
    """Latency of so many texts of each length, all models alternating."""
    points: dict[str, list[LatencyPoint]] = {name: [] for name in models}
    for length in tokens:
        seconds = interleaved(_calls(models, rows, length), rounds, processor_time=processor_time)
        for name, taken in seconds.items():
            points[name].append(
                LatencyPoint(
                    rows=rows,
                    tokens=length,
                    median_ms=round(statistics.median(taken) * 1e3, 3),
                    p90_ms=round(float(np.quantile(taken, 0.9)) * 1e3, 3),
                )
            )
    return points


def _calls(models: Mapping[str, Predict], rows: int, length: int) -> dict[str, Callable[[], object]]:
    # Ids within every vocabulary we meet; which ids they are does not change the work.
    input_ids = np.random.default_rng(0).integers(5, 100, (rows, length))
    attention_mask = np.ones_like(input_ids)

    def bind(predict: Predict) -> Callable[[], object]:
        return lambda: predict(input_ids, attention_mask)

    return {name: bind(predict) for name, predict in models.items()}
