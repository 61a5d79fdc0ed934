"""Work that gives way to requests: probes of a version being loaded, and measurements while nobody asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

# A busy service must still be able to load a new version.
PATIENCE_SECONDS = 0.1
# A pause between two requests of one client is no idleness.
QUIET_SECONDS = 0.25


@dataclass(eq=False, frozen=True, slots=True)
class Chore:
    """A call that keeps so many cores busy, and where its end is told."""

    call: Callable[[], Any]
    cores: int
    future: Future[Any]
    submitted: float

    def run(self) -> None:
        """Make the call unless nobody wants it any more."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.call()
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Background:
    """Two lines: what a load waits for, and what waits for idleness. The scheduler's lock guards them."""

    def __init__(self) -> None:
        self._soon: deque[Chore] = deque()
        self._when_idle: deque[Chore] = deque()

    def add(self, chore: Chore, *, when_idle: bool) -> None:
        """Let a chore wait."""
        (self._when_idle if when_idle else self._soon).append(chore)

    def overdue(self, now: float) -> Chore | None:
        """What requests must let pass now."""
        if self._soon and now - self._soon[0].submitted > PATIENCE_SECONDS:
            return self._soon[0]
        return None

    def next(self, now: float, quiet_since: float | None) -> Chore | None:
        """What may run when no request waits; `quiet_since` is None while anything runs."""
        if self._soon:
            return self._soon[0]
        if self._when_idle and quiet_since is not None and now - quiet_since >= QUIET_SECONDS:
            return self._when_idle[0]
        return None

    def start(self, chore: Chore) -> None:
        """It runs now and waits no longer."""
        (self._soon if self._soon and self._soon[0] is chore else self._when_idle).popleft()

    def seconds_until_quiet(self, now: float, quiet_since: float | None) -> float | None:
        """How long from now a chore waits for the silence to have lasted; None if none does."""
        if not self._when_idle or quiet_since is None:
            return None
        return max(quiet_since + QUIET_SECONDS - now, 0.0)

    def drain(self) -> list[Chore]:
        """Take out everything that waits."""
        chores = [*self._soon, *self._when_idle]
        self._soon.clear()
        self._when_idle.clear()
        return chores
