"""How many threads a pass has: from the settings, from trials on this machine, or one. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from app.settings import Settings
from app.tuning import Trial

# Throughput that differs by less is the same, and then the quicker answer to a lone request decides.
_SAME_SHARE = 0.95


def core_budget(settings: Settings, cores: int) -> int:
    """Cores that passes may keep busy: the usable ones, unless the settings say how many passes of what."""
    threads = fixed_threads(settings, cores)
    if settings.sessions is not None:
        return settings.sessions * (threads or 1)
    return cores if threads is None else max(cores // threads, 1) * threads


def fixed_threads(settings: Settings, cores: int) -> int | None:
    """Threads of a pass by the settings; None where trials may choose."""
    if settings.threads is not None:
        return settings.threads
    return None if settings.sessions is None else max(cores // settings.sessions, 1)


def candidates(budget: int) -> list[int]:
    """Numbers of threads by which the cores can be shared out without a rest."""
    return [threads for threads in range(1, budget + 1) if budget % threads == 0]


def best_threads(trials: Mapping[int, Trial]) -> int | None:
    """The quickest for a lone request among those of the best throughput; None without trials."""
    if not trials:
        return None
    best = max(trial.texts_per_second for trial in trials.values())
    good = [t for t, trial in trials.items() if trial.texts_per_second >= _SAME_SHARE * best]
    return min(good, key=lambda threads: (trials[threads].lone_seconds, threads))
