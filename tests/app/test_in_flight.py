from __future__ import annotations

import asyncio

import pytest

from app.answer import Prediction
from app.in_flight import InFlight

pytestmark = pytest.mark.anyio
ANSWER = Prediction("positive", (0.0, 1.0), (0.3, 0.7), 4, False)


async def test_who_joins_gets_the_answer() -> None:
    flights = InFlight()
    started = flights.start(1, ["a"], deadline=10.0, priority="normal")
    joined = flights.join(1, "a", deadline=10.0, priority="normal")
    assert joined is started["a"]
    waiting = asyncio.ensure_future(joined.landed())
    started["a"].land(ANSWER)
    flights.finish(1, started)
    assert await waiting is ANSWER
    assert len(flights) == 0


async def test_nobody_joins_what_may_come_later_than_his_own() -> None:
    flights = InFlight()
    flights.start(1, ["a"], deadline=10.0, priority="normal")
    assert flights.join(1, "a", deadline=9.9, priority="normal") is None
    assert flights.join(1, "a", deadline=10.0, priority="high") is None
    assert flights.join(1, "a", deadline=11.0, priority="low") is not None
    assert flights.join(2, "a", deadline=11.0, priority="low") is None
    assert flights.join(1, "b", deadline=11.0, priority="low") is None


async def test_a_flight_given_up_is_told() -> None:
    flights = InFlight()
    started = flights.start(1, ["a"], deadline=10.0, priority="normal")
    joined = flights.join(1, "a", deadline=10.0, priority="normal")
    assert joined is not None
    flights.finish(1, started)
    assert await joined.landed() is None


async def test_leaving_harms_nobody_else() -> None:
    flights = InFlight()
    started = flights.start(1, ["a"], deadline=10.0, priority="normal")
    joined = flights.join(1, "a", deadline=10.0, priority="normal")
    assert joined is not None
    leaves, stays = asyncio.ensure_future(joined.landed()), asyncio.ensure_future(joined.landed())
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    started["a"].land(ANSWER)
    assert await stays is ANSWER


async def test_a_more_urgent_flight_takes_the_place_and_survives_the_first() -> None:
    flights = InFlight()
    first = flights.start(1, ["a"], deadline=10.0, priority="normal")
    second = flights.start(1, ["a"], deadline=5.0, priority="normal")
    flights.finish(1, first)
    assert flights.join(1, "a", deadline=6.0, priority="normal") is second["a"]
    flights.finish(1, second)
    assert len(flights) == 0
