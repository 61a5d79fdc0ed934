"""The use case where texts meet again: in one request, in flight, in the cache."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.app.conftest import FailingEngine, Serve, until

pytestmark = pytest.mark.anyio


def logged(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    predictions: list[dict[str, Any]] = reply.json()["predictions"]
    return predictions


async def test_the_same_text_twice_in_a_request_runs_once(serve: Serve, hold: Any) -> None:
    async with serve(sessions=1) as running:
        engine = hold(running.default)
        engine.release()
        reply = logged(await running.predict(["good", "bad", "good"]))
        assert sum(rows for rows, _ in engine.shapes) == 2
        assert reply[0] == reply[2] != reply[1]


async def test_a_text_in_flight_is_run_once_for_all_who_ask(serve: Serve, hold: Any) -> None:
    async with serve(sessions=1) as running:
        alone = logged(await running.predict("a great film"))
        engine = hold(running.default)
        first = asyncio.ensure_future(running.predict("a great film"))
        await asyncio.to_thread(engine.entered.wait)
        others = [asyncio.ensure_future(running.predict("a great film")) for _ in range(5)]
        await until(lambda: running.parts.admission.in_flight == 6)
        engine.release()
        replies = await asyncio.gather(first, *others)
        assert [logged(reply) for reply in replies] == [alone] * 6
        assert len(engine.shapes) == 1
        assert 'bertpress_coalesced_texts_total{model="tiny",version="1"} 5.0' in await running.metrics()


async def test_when_the_one_who_runs_it_leaves_another_runs_it(serve: Serve, hold: Any) -> None:
    async with serve(sessions=1) as running:
        engine = hold(running.default)
        blocker = asyncio.ensure_future(running.predict("bad"))
        await asyncio.to_thread(engine.entered.wait)
        first = asyncio.ensure_future(running.predict("a great film"))
        await until(lambda: running.parts.scheduler.waiting_rows() == 1)
        second = asyncio.ensure_future(running.predict("a great film"))
        await until(lambda: running.parts.admission.in_flight == 3)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        engine.release()
        assert logged(await second)[0]["tokens"] == 5
        assert (await blocker).status_code == 200


async def test_a_request_that_waits_for_anothers_text_expires_in_time(serve: Serve, hold: Any) -> None:
    async with serve(sessions=1) as running:
        engine = hold(running.default)
        first = asyncio.ensure_future(running.predict("a great film", timeout_ms=200))
        await asyncio.to_thread(engine.entered.wait)
        second = await running.predict("a great film", timeout_ms=400)
        assert [(await first).status_code, second.status_code] == [504, 504]
        engine.release()
        assert running.parts.admission.in_flight == 0


async def test_a_failure_reaches_all_who_asked(serve: Serve) -> None:
    async with serve(sessions=1) as running:
        running.default.session.engine = FailingEngine()
        replies = await asyncio.gather(*(running.predict("good") for _ in range(4)))
        assert [reply.status_code for reply in replies] == [500] * 4


async def test_without_coalescing_each_runs(serve: Serve, hold: Any) -> None:
    async with serve(sessions=1, max_batch_rows=1, coalesce=False) as running:
        engine = hold(running.default)
        engine.release()
        replies = await asyncio.gather(*(running.predict("good") for _ in range(4)))
        assert [reply.status_code for reply in replies] == [200] * 4
        assert len(engine.shapes) == 4


async def test_an_answer_kept_is_given_again(serve: Serve, hold: Any) -> None:
    async with serve(cache_bytes=100_000) as running:
        first = logged(await running.predict("a great film"))
        engine = hold(running.default)  # nothing runs any more
        assert logged(await running.predict("a great film")) == first
        assert engine.shapes == []
        text = await running.metrics()
        assert 'bertpress_cache_hits_total{model="tiny",version="1"} 1.0' in text
        assert 'bertpress_cache_misses_total{model="tiny",version="1"} 1.0' in text
        assert "bertpress_cache_entries 1.0" in text
        engine.release()


async def test_a_version_loaded_again_does_not_answer_from_its_former_life(
    serve: Serve, repository: Any
) -> None:
    from tests.app.tiny import publish

    publish(repository, version=2)
    async with serve(cache_bytes=100_000) as running:
        default = (await running.http.get("/v1/models")).json()["models"]
        other = next(model["version"] for model in default if not model["default"])
        for _ in range(2):
            assert (await running.admin("load", other)).status_code == 200
            assert (await running.predict("good", version=other)).status_code == 200
            assert (await running.admin("unload", other)).status_code == 200
        assert f'cache_misses_total{{model="tiny",version="{other}"}} 2.0' in await running.metrics()


async def test_a_request_partly_kept_runs_the_rest(serve: Serve, hold: Any) -> None:
    async with serve(cache_bytes=100_000) as running:
        await running.predict("good")
        engine = hold(running.default)
        engine.release()
        reply = logged(await running.predict(["bad", "good"]))
        assert [prediction["tokens"] for prediction in reply] == [3, 3]
        assert engine.shapes == [(1, 3)]


async def test_a_text_that_may_not_be_cut_is_refused_before_it_is_run(serve: Serve, hold: Any) -> None:
    async with serve(cache_bytes=1_000_000) as running:
        engine = hold(running.default)
        engine.release()
        long = "good " * 600
        for number in range(2):
            body = {"inputs": [["bad"], [long]], "truncate": False}
            reply = await running.http.post("/predict", json=body)
            assert reply.status_code == 413, "not answered, nor answered from the cache"
            assert "inputs[1] is longer than" in reply.json()["error"]
            if number == 0:
                assert engine.shapes == []
                logged(await running.predict([long]))
