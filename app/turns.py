"""Whose turn it is: deadlines, priorities, and fairness between clients. Pure.

A row gets one number when it is submitted, its turn, and of the rows that wait the one with the least turn
is run next:

    turn = due + LEAD_WEIGHT * start

- `due` is its deadline. A row of priority high is due as though it had a tenth of its time, so that it goes
  before a normal one of equal slack, and still lets one pass that has hardly any slack left.
- `start` is the start tag of start-time fair queueing, over predicted seconds of work: a client that has
  nothing waiting starts at the virtual time, each further row where the one before it ends. A client that is
  a second of work ahead of the others is thereby put back by LEAD_WEIGHT seconds of deadline: deadlines
  decide among those who had their share, and a batch of 128 texts cannot stand before the next single text.

A request without a client is a client of its own. Rows of priority low stand in a lane of their own, see
`may_go_low`.

Source: Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from app.job import Priority

# Against the ten seconds a request has by default, a third of a second of work too much is as long.
LEAD_WEIGHT = 30.0
HIGH_PRIORITY_SHARE = 0.1
LOW_PATIENCE_SECONDS = 1.0


@dataclass(slots=True)
class _Flow:
    """One client's account: where its next row starts, and how many rows wait."""

    finish: float
    waiting: int = 0


class Turns:
    """Start tags over the clients that have rows waiting; forgotten when none has."""

    def __init__(self) -> None:
        self._virtual_time = 0.0
        self._flows: dict[Hashable, _Flow] = {}

    def next_start(self, client: Hashable) -> float:
        """The tag that the client's next row would get."""
        flow = self._flows.get(client)
        return self._virtual_time if flow is None else max(self._virtual_time, flow.finish)

    def enter(self, client: Hashable, cost_seconds: float) -> float:
        """A row of the client begins to wait; returns its start tag."""
        flow = self._flows.setdefault(client, _Flow(self._virtual_time))
        start = max(self._virtual_time, flow.finish)
        flow.finish = start + cost_seconds
        flow.waiting += 1
        return start

    def leave(self, client: Hashable) -> None:
        """A row of the client does not wait any more, to run or for good."""
        flow = self._flows[client]
        flow.waiting -= 1
        if not flow.waiting:
            del self._flows[client]
        if not self._flows:
            self._virtual_time = 0.0

    def reach(self, start: float) -> None:
        """A row with this tag begins to run: nobody who comes later starts before it."""
        if self._flows:
            self._virtual_time = max(self._virtual_time, start)


def turn(start: float, deadline: float, priority: Priority, now: float) -> float:
    """The number by which rows are served, least first."""
    due = now + (deadline - now) * HIGH_PRIORITY_SHARE if priority == "high" else deadline
    return due + LEAD_WEIGHT * start


def may_go_low(
    *,
    now: float,
    low_deadline: float,
    low_seconds: float,
    low_waits_since: float,
    deadline: float,
    work_seconds: float,
) -> bool:
    """Whether a row of priority low goes although others wait.

    It does where that makes nobody late: it is due first, and after it all the others' work can be done
    before the earliest of their deadlines. And it does when no low row has run for LOW_PATIENCE_SECONDS, so
    that the lane moves however busy the others are. `low_seconds` and `work_seconds` are times on all cores.
    """
    if now - low_waits_since >= LOW_PATIENCE_SECONDS:
        return True
    return low_deadline < deadline and now + low_seconds + work_seconds <= deadline
