"""Electricity per prediction: measured where the processor's counters can be read, else estimated.

All models take turns, each answering for a while before the next: what the machine does besides falls on all
of them alike. Every figure says which it is. Measured (`rapl`) is the whole machine's processors and memory,
other processes included, through powercap; estimated is CPU time times published coefficients
(`app.hardware.estimated_joules`), which are part of the figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from app.hardware import (
    ROOT,
    WATTS_PER_BUSY_CORE,
    WATTS_PER_IDLE_CORE,
    energy_counters,
    estimated_joules,
    usable_cores,
)

Source = Literal["rapl", "estimate"]

_TURNS = 4
# Counters advance about every millisecond: a turn must last many of them.
_SECONDS_PER_TURN = 0.5


@dataclass(frozen=True)
class Meter:
    """Joules since some moment, and where they come from; the coefficients only where it is an estimate."""

    source: Source
    joules: Callable[[], float]
    watts_per_idle_core: float | None = None
    watts_per_busy_core: float | None = None


@dataclass(frozen=True)
class Energy:
    """What predictions took. `watts` is the mean power while they were made."""

    source: Source
    joules_per_1000: float
    watts: float
    predictions: int
    seconds: float
    watts_per_idle_core: float | None
    watts_per_busy_core: float | None

    @property
    def text(self) -> str:
        """For a table: joules per 1,000 predictions and watts under load, and how they were found."""
        how = "measured" if self.source == "rapl" else "estimated"
        return f"{self.joules_per_1000:,.1f} J, {self.watts:.1f} W ({how})"


@dataclass
class _Used:
    """What one model has used so far."""

    joules: list[float] = field(default_factory=list)
    seconds: float = 0.0
    predictions: int = 0


def meter(
    root: Path = ROOT,
    cores: int | None = None,
    idle_watts: float = WATTS_PER_IDLE_CORE,
    busy_watts: float = WATTS_PER_BUSY_CORE,
) -> Meter:
    """The processor's counters if this process may read them, else the estimate."""
    counters = energy_counters(root)
    if counters is not None:
        return Meter("rapl", counters.joules)
    available = cores or usable_cores()

    def estimate() -> float:
        seconds, cpu_seconds = time.perf_counter(), time.process_time()
        return estimated_joules(available, seconds, cpu_seconds, idle_watts, busy_watts)

    return Meter("estimate", estimate, idle_watts, busy_watts)


def measure(
    calls: Mapping[str, Callable[[], object]],
    source: Meter,
    predictions_per_call: int = 1,
    turns: int = _TURNS,
    seconds_per_turn: float = _SECONDS_PER_TURN,
) -> dict[str, Energy]:
    """Energy of every call, all taking turns; each is made once before, uncounted.

    Units: joules per 1,000 predictions, watts.
    """
    used = {name: _Used() for name in calls}
    for call in calls.values():
        call()
    for _ in range(turns):
        for name, call in calls.items():
            _take_turn(call, used[name], source, predictions_per_call, seconds_per_turn)
    return {name: _energy(each, source) for name, each in used.items()}


def _take_turn(
    call: Callable[[], object], used: _Used, source: Meter, predictions: int, seconds_per_turn: float
) -> None:
    before, started = source.joules(), time.perf_counter()
    while True:
        call()
        used.predictions += predictions
        passed = time.perf_counter() - started
        if passed >= seconds_per_turn:
            break
    used.joules.append(source.joules() - before)
    used.seconds += passed


def _energy(used: _Used, source: Meter) -> Energy:
    joules = sum(used.joules)
    return Energy(
        source=source.source,
        joules_per_1000=1000 * joules / used.predictions,
        watts=joules / used.seconds,
        predictions=used.predictions,
        seconds=used.seconds,
        watts_per_idle_core=source.watts_per_idle_core,
        watts_per_busy_core=source.watts_per_busy_core,
    )


def footnote(figures: Sequence[Energy]) -> str:
    """How the figures of a table were found, with the coefficients."""
    if not figures:
        return ""
    first = figures[0]
    if first.source == "rapl":
        return (
            "Energy per 1,000 predictions and watts under load: measured with RAPL, the whole machine's "
            "processors and memory, other processes included."
        )
    return (
        "Energy per 1,000 predictions and watts under load: estimated from CPU time, "
        f"{first.watts_per_idle_core} W a virtual core that waits and {first.watts_per_busy_core} W one that "
        "works (Cloud Carbon Footprint's averages for AWS), without memory, network and cooling."
    )
