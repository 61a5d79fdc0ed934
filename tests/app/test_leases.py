from __future__ import annotations

import asyncio

import pytest

from app.leases import Leases

pytestmark = pytest.mark.anyio


async def test_what_nobody_needs_is_free_at_once() -> None:
    await Leases().all_returned()


async def test_the_last_one_to_return_frees_it() -> None:
    leases = Leases()
    with leases.lease():
        with leases.lease():
            assert leases.held == 2
            waiting = [asyncio.ensure_future(leases.all_returned()) for _ in range(2)]
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)
    assert leases.held == 0


async def test_a_lease_comes_back_after_a_failure() -> None:
    leases = Leases()
    with pytest.raises(ZeroDivisionError), leases.lease():
        raise ZeroDivisionError
    await leases.all_returned()
