from __future__ import annotations

import asyncio
from random import Random

import pytest

from app.errors import SettingsError
from loadtests.peers import run
from loadtests.peers.run import Load, Patience, digest, failed_share, label_of, wrong_share
from loadtests.process import unused_port
from loadtests.summary import Outcome
from tests.loadtests.peers.fake import CORPUS, peer


def outcome(latency_ms: float, code: str = "200", sent: float = 0.0) -> Outcome:
    return Outcome(sent, sent, sent + latency_ms / 1000, code)


def test_failures_are_infinitely_late() -> None:
    outcomes = [outcome(10), outcome(20), outcome(5, "429"), outcome(5, "wrong")]

    digested = digest(outcomes, deadline_ms=15, offered_rate=2.0, duration_seconds=2.0, client_cpu_share=0.1)

    assert (digested.answered_rate, digested.goodput) == (1.0, 0.5)
    assert digested.p50_ms == pytest.approx(20)
    assert digested.p99_ms is None
    assert digested.failures == {"429": 1, "wrong": 1}
    assert (failed_share(digested), wrong_share(digested)) == (0.5, 0.25)


def test_answers_that_come_after_the_load_do_not_count_as_throughput_of_it() -> None:
    digested = digest(
        [outcome(4000), outcome(1000)],
        deadline_ms=2000,
        offered_rate=1.0,
        duration_seconds=2.0,
        client_cpu_share=0.0,
    )

    assert digested.answered_rate == 0.5  # two answers in the four seconds it took
    assert digested.goodput == 0.5  # one in time, in the two seconds of load


def test_nothing_sent_is_nothing_failed() -> None:
    digested = digest([], deadline_ms=1, offered_rate=None, duration_seconds=1, client_cpu_share=0)

    assert (failed_share(digested), wrong_share(digested), digested.p99_ms) == (0, 0, None)


def test_patience_ends_with_the_first_miss_that_is_too_many() -> None:
    patience = Patience(allowed=1, deadline_seconds=0.1)
    seen = [patience(one) for one in (outcome(50), outcome(150), outcome(50), outcome(5, "503"))]

    assert seen == [False, False, False, True]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b'"label"', b"\xff"])
def test_an_answer_without_a_label_has_none(body: bytes) -> None:
    assert label_of(peer(), body) is None


def test_texts_come_in_an_order_of_their_seed_and_labels_follow_them() -> None:
    load = Load("http://127.0.0.1:1", peer(), CORPUS, 100)
    bodies, judge = load.requests(Random(1), 100)
    again, _ = load.requests(Random(1), 100)
    others = {tuple(load.requests(Random(seed), 100)[0]) for seed in range(20)}

    assert bodies == again
    assert len(others) > 1
    for number, body in enumerate(bodies):
        word = "good" if b"good" in body else "bad"
        assert judge(number, f'{{"label": "{word}"}}'.encode())
        assert not judge(number, b'{"label": "other"}')


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(f"http://127.0.0.1:{unused_port()}", peer(), CORPUS, 100)
    monkeypatch.setattr(run, "_SETTLE_SECONDS", 0.05)

    with pytest.raises(SettingsError, match="does not answer"):
        asyncio.run(run.settle(load))
    with pytest.raises(SettingsError, match="fake gave no right answer"):
        asyncio.run(run.first_right_answer(load, lambda: None, 0.05))


def test_a_server_that_has_ended_is_not_waited_for() -> None:
    load = Load(f"http://127.0.0.1:{unused_port()}", peer(), CORPUS, 100)

    def check_alive() -> None:
        raise SettingsError("it left")

    with pytest.raises(SettingsError, match="it left"):
        asyncio.run(run.first_right_answer(load, check_alive, 60))
