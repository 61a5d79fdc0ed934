"""What the service has used of electricity: measured where a counter can be read, else estimated.

Measured (`rapl`): the processor's own counters (RAPL) through /sys/class/powercap: packages and memory of the
whole machine, other processes included. Since 2020 only root may read them (CVE-2020-8694); cloud instances
rarely show them.

Estimated (`estimate`): from CPU time and what an idle and a busy core take:
`app.hardware.estimated_joules`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from app.hardware import ROOT, EnergyCounters, energy_counters, estimated_joules

Source = Literal["rapl", "estimate"]
# between readings closer than this, the last power stands
_LEAST_SECONDS = 1.0


class Energy(Protocol):
    """Joules since the service started."""

    source: Source

    def joules(self) -> float:
        """Never less than the last time."""
        ...


class Estimate:
    """From CPU time."""

    source: Source = "estimate"

    def __init__(
        self,
        cores: float,
        idle_watts: float,
        busy_watts: float,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._cores, self._idle_watts, self._busy_watts = cores, idle_watts, busy_watts
        self._clock, self._cpu_clock = clock, cpu_clock
        self._started, self._cpu_started = clock(), cpu_clock()

    def joules(self) -> float:
        """See the formula above."""
        seconds = self._clock() - self._started
        cpu_seconds = self._cpu_clock() - self._cpu_started
        return estimated_joules(self._cores, seconds, cpu_seconds, self._idle_watts, self._busy_watts)


class Rapl:
    """From the processor's counters, which must be read before they wrap: every few minutes."""

    source: Source = "rapl"

    def __init__(self, counters: EnergyCounters) -> None:
        self._counters = counters

    def joules(self) -> float:
        """Of all counters; one that can no longer be read stands still."""
        return self._counters.joules()


class Power:
    """Watts, averaged between one reading and the next."""

    def __init__(self, energy: Energy, clock: Callable[[], float] = time.monotonic) -> None:
        self._energy, self._clock = energy, clock
        self._at, self._joules, self._watts = clock(), energy.joules(), 0.0

    def watts(self) -> float:
        """Since the last reading, if that was a second ago or more; else what it said."""
        now = self._clock()
        if now - self._at >= _LEAST_SECONDS:
            joules = self._energy.joules()
            self._watts = (joules - self._joules) / (now - self._at)
            self._at, self._joules = now, joules
        return self._watts


def find_energy(cores: float, idle_watts: float, busy_watts: float, root: Path = ROOT) -> Energy:
    """The counters if this process may read them, else the estimate."""
    counters = energy_counters(root)
    return Estimate(cores, idle_watts, busy_watts) if counters is None else Rapl(counters)
