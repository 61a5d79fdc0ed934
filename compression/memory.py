"""How much memory a training step takes, and how large a micro-batch fits.

On a GPU too large a micro-batch raises an error that can be caught. On a CPU the kernel kills the process
instead, so the largest bucket is tried on a few rows first and scaled up, and a run that finds it was
killed near the limit goes on with half the micro-batch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from app.hardware import memory_limit_bytes, resident_memory_bytes

# Share of the limit a run may plan for; the rest is for what a probe cannot see.
_PLANNED_SHARE = 0.8
# A process killed while it held more than this share of the limit was killed for its memory.
_SUSPECT_SHARE = 0.85
_SAMPLE_SECONDS = 0.002


class PeakResident:
    """Highest resident memory of this process while the context is open, sampled every 2 ms."""

    def __enter__(self) -> PeakResident:
        self.peak_bytes = resident_memory_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-resident", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, resident_memory_bytes())

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, resident_memory_bytes())


def fitting_budget(run: Callable[[int], int], budget: int, unit: int, available_bytes: int) -> int:
    """Largest micro-batch, in tokens, at most `budget`, that is predicted to fit.

    `run(tokens)` computes a micro-batch of so many tokens, a multiple of `unit` (one row of the longest),
    and returns the bytes held at its peak above what was held before the first. Two sizes give a straight
    line: what a step takes at all, and what each token adds. One row is always tried, so where the budget
    holds no two there is nothing to find out.
    """
    small = max(1, budget // 16 // unit) * unit
    large = max(2, budget // 8 // unit) * unit
    if large > budget:
        return budget
    low, high = run(small), run(large)
    bytes_per_token = max(0.0, (high - low) / (large - small))
    fixed = max(0.0, low - bytes_per_token * small)
    while budget // 2 >= unit and fixed + bytes_per_token * budget > available_bytes:
        budget //= 2
    return budget


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """Processes this kernel has killed for memory since it started; 0 where it does not say."""
    try:
        lines = vmstat.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def available_bytes() -> int:
    """Memory this process may still plan for, within its cgroup's limit."""
    return max(0, int(memory_limit_bytes() * _PLANNED_SHARE) - resident_memory_bytes())


@dataclass(frozen=True)
class Heartbeat:
    """Left beside a running training; still there afterwards only if the process was killed."""

    micro_batch_tokens: int
    resident_bytes: int
    oom_kills: int

    @classmethod
    def now(cls, micro_batch_tokens: int, peak_bytes: int) -> Heartbeat:
        """The state of this process."""
        return cls(micro_batch_tokens, max(peak_bytes, resident_memory_bytes()), oom_kills())

    def write(self, path: Path) -> None:
        """Leave it, in one piece."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Heartbeat | None:
        """The heartbeat a killed run left, if any."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def died_of_memory(self, oom_kills_now: int, limit_bytes: int) -> bool:
        """Whether the run that left this was most likely killed for its memory."""
        return oom_kills_now > self.oom_kills or self.resident_bytes > _SUSPECT_SHARE * limit_bytes


def died_of_memory(path: Path) -> Heartbeat | None:
    """The heartbeat at `path` if its run died of memory, else None."""
    left = Heartbeat.read(path)
    if left is None or not left.died_of_memory(oom_kills(), memory_limit_bytes()):
        return None
    return left
