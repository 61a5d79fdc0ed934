"""Texts that are being answered now, so that the same text is not run twice at once.

Lives on the event loop. A request joins a text in flight only when that one will not be later than its own
would be; when the one it joined is given up (its client left, its time was over), it runs the text itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from app.answer import Prediction
from app.job import Priority

_URGENCY: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}


class Flight:
    """One text on its way: the request that runs it lands it, others may wait for it."""

    __slots__ = ("_deadline", "_landed", "_urgency")

    def __init__(self, deadline: float, priority: Priority) -> None:
        self._deadline, self._urgency = deadline, _URGENCY[priority]
        self._landed: asyncio.Future[Prediction | None] = asyncio.get_running_loop().create_future()

    def suits(self, deadline: float, priority: Priority) -> bool:
        """Whether a request of this deadline and priority is served as well by waiting for this one."""
        return self._deadline <= deadline and self._urgency <= _URGENCY[priority]

    def land(self, prediction: Prediction | None) -> None:
        """Give those who wait the answer, or None for there will not be one."""
        if not self._landed.done():
            self._landed.set_result(prediction)

    async def landed(self) -> Prediction | None:
        """Wait for the answer; to stop waiting harms nobody else."""
        return await asyncio.shield(self._landed)


class InFlight:
    """Flights by loaded variant (its serial number) and text."""

    def __init__(self) -> None:
        self._flights: dict[tuple[int, str], Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, variant: int, text: str, deadline: float, priority: Priority) -> Flight | None:
        """The flight of this text, if there is one that suits."""
        flight = self._flights.get((variant, text))
        return flight if flight is not None and flight.suits(deadline, priority) else None

    def start(
        self, variant: int, texts: Iterable[str], deadline: float, priority: Priority
    ) -> dict[str, Flight]:
        """Announce texts that a request will run; `finish` must follow, whatever happens."""
        started = {text: Flight(deadline, priority) for text in texts}
        for text, flight in started.items():
            self._flights[variant, text] = flight
        return started

    def finish(self, variant: int, started: dict[str, Flight]) -> None:
        """Forget the flights; those that have not landed never will."""
        for text, flight in started.items():
            flight.land(None)
            if self._flights.get((variant, text)) is flight:
                del self._flights[variant, text]
