"""How often and how long the kernel has stopped this process for having used up its share of the CPU.

A service that is throttled answers late without being busy: no other metric shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.hardware import ROOT, cgroup_folders


@dataclass(frozen=True, slots=True)
class Throttling:
    """Counted since the cgroup was made."""

    periods: int
    throttled_periods: int
    throttled_seconds: float


class ThrottlingReader:
    """Reads cpu.stat of the cgroups, v1 or v2, that limit this process."""

    def __init__(self, root: Path = ROOT) -> None:
        folders = dict.fromkeys(cgroup_folders(root, "cpu"))
        self._files = [folder / "cpu.stat" for folder in folders if (folder / "cpu.stat").is_file()]

    def read(self) -> Throttling:
        """Of the cgroup, its own or an ancestor's, that was stopped longest; zeros where none can be read."""
        stats = [_read(path) for path in self._files]
        return max(stats, key=lambda stat: (stat.throttled_seconds, stat.periods), default=_NONE)


_NONE = Throttling(0, 0, 0.0)


def _read(path: Path) -> Throttling:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        values = {name: int(value) for name, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return _NONE
    # v2 counts microseconds, v1 nanoseconds
    seconds = values.get("throttled_usec", 0) / 1e6 + values.get("throttled_time", 0) / 1e9
    return Throttling(values.get("nr_periods", 0), values.get("nr_throttled", 0), seconds)
