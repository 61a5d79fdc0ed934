"""What the service has used of electricity: measured where a counter can be read, else estimated.

Measured (`rapl`): the processor's own counters (RAPL) through /sys/class/powercap: packages and memory of the
whole machine, other processes included. Since 2020 only root may read them (CVE-2020-8694); cloud instances
rarely show them.

Estimated (`estimate`): a core that waits takes `idle` watts and one that works `busy`; with the cores this
process may use and the CPU time it took,

    joules = cores * seconds * idle + cpu_seconds * (busy - idle)

The defaults, 0.74 W and 3.5 W a virtual core, are Cloud Carbon Footprint's averages for the servers of AWS
(https://www.cloudcarbonfootprint.org/docs/methodology, "Compute"), derived from SPECpower results; for GCP it
gives 0.71 and 4.26, for Azure 0.78 and 3.76. They leave out memory, network and cooling. Good for comparing
one variant with another on the same machine, not for a bill.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from app.hardware import ROOT

Source = Literal["rapl", "estimate"]
_POWERCAP = "sys/class/powercap"
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
        return self._cores * seconds * self._idle_watts + cpu_seconds * (self._busy_watts - self._idle_watts)


class Rapl:
    """From the processor's counters, which must be read before they wrap: every few minutes."""

    source: Source = "rapl"

    def __init__(self, zones: list[Path]) -> None:
        """Raises OSError or ValueError where a counter cannot be read."""
        self._zones = [_Zone(path, _microjoules(path), _range(path)) for path in zones]
        self._joules = 0.0

    def joules(self) -> float:
        """Of all zones; one that can no longer be read stands still."""
        self._joules += sum(zone.advance() for zone in self._zones)
        return self._joules


@dataclass(slots=True)
class _Zone:
    path: Path
    last: int
    wraps_at: int

    def advance(self) -> float:
        """Joules since the last reading."""
        try:
            now = _microjoules(self.path)
        except (OSError, ValueError):
            return 0.0
        used = now - self.last if now >= self.last else now - self.last + self.wraps_at
        self.last = now
        return max(used, 0) / 1e6


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
    zones = _zones(root)
    if zones:
        try:
            return Rapl(zones)
        except (OSError, ValueError):
            pass  # there, and not for us
    return Estimate(cores, idle_watts, busy_watts)


def _zones(root: Path) -> list[Path]:
    """Packages and their memory. A package's other zones are part of it, and psys is all of them again."""
    found = sorted((root / _POWERCAP).glob("intel-rapl*:*"))
    return [path for path in found if _name(path).startswith(("package", "dram"))]


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _microjoules(zone: Path) -> int:
    return int((zone / "energy_uj").read_text(encoding="ascii"))


def _range(zone: Path) -> int:
    return int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
