from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.errors import SettingsError
from loadtests.peers import search, visit
from loadtests.peers import table as module
from loadtests.peers.peer import Peer, Setting
from loadtests.peers.run import Run
from loadtests.peers.table import Table, best_setting, equal_rates, fill, medians, telling_line
from loadtests.peers.visit import Bench, Trial, Visit
from tests.loadtests.peers.fake import CORPUS, figures, peer, visited

SLOW, FAST, WRONG, NEVER = (Setting(workers=workers) for workers in range(1, 5))


def trial(setting: Setting, short: Run, long: Run, error: str | None = None) -> Trial:
    return Trial("fake", setting, {} if error else {"short": short, "long": long}, error)


TRIALS = [
    trial(SLOW, figures(300), figures(30)),
    trial(FAST, figures(200), figures(60)),
    trial(WRONG, figures(900), figures(90, failures={"wrong": 2})),
    trial(NEVER, figures(0), figures(0), error="it left"),
]


def test_the_setting_with_the_highest_geometric_mean_is_taken_unless_its_labels_are_wrong() -> None:
    best = best_setting(TRIALS)

    assert best is not None
    assert best.setting == FAST


def test_wrong_labels_do_not_matter_where_all_settings_give_them() -> None:
    best = best_setting(TRIALS[2:])

    assert best is not None
    assert best.setting == WRONG


def test_there_is_no_best_where_nothing_ran() -> None:
    assert best_setting(TRIALS[3:]) is None


def test_the_equal_rate_is_half_of_what_the_slowest_gives() -> None:
    assert equal_rates(TRIALS[:2]) == {"short": 100.0, "long": 15.0}


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 3.0, 9.0], 3.0), ([1.0, None, 3.0], 3.0), ([None, 1.0], None), ([], None)]
)
def test_none_is_later_than_everything_in_a_median(
    values: list[float | None], expected: float | None
) -> None:
    assert medians(values) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Traceback\n  File x\nlib.errors.LoadError: no file\nINFO bye", "lib.errors.LoadError: no file"),
        ("one\n  two  \n\n", "two"),
        ("\n", "no reason given"),
    ],
)
def test_the_line_that_tells_most_is_found(words: str, expected: str) -> None:
    assert telling_line(words) == expected


def test_a_table_is_filled_from_real_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny runs; what they find depends on the machine, that they are all there does not."""
    monkeypatch.setattr(visit, "WARM_UP_SECONDS", 0.05)
    monkeypatch.setattr(search, "MOST_RUNS", 2)
    corpora = {"short": CORPUS, "long": CORPUS}
    bench = Bench(tmp_path, tmp_path, tmp_path, "build", "file", corpora, {"short": 0.05, "long": 0.05}, 0.05)
    right, broken = Setting("right"), Setting("broken")
    table, saved = Table("same-build"), []

    asyncio.run(
        fill(
            table,
            bench,
            [(peer("first"), [right, broken]), (peer("second"), [broken]), (peer("third"), [right])],
            2,
            lambda: saved.append(len(table.visits)),
        )
    )

    assert table.chosen == {"first": right, "third": right}
    assert "ValueError: no model" in table.failures["second"]
    assert [one.error is None for one in table.trials] == [True, False, False, True]
    assert [one.peer for one in table.visits] == ["first", "third", "third", "first"]
    assert saved == [1, 2, 3, 4]
    for one in table.visits:
        assert one.cold_start_seconds > 0
        assert one.loaded_bytes > 1_000_000
        for figures_of_length in one.lengths.values():
            assert figures_of_length.closed.answered_rate > 0
            assert figures_of_length.closed.failures == {}
            assert figures_of_length.overload.requests > figures_of_length.equal.requests > 0


def test_a_server_that_dies_later_leaves_the_others_their_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def only_the_trial(_: Bench, peer: Peer, setting: Setting) -> Trial:
        return Trial(peer.name, setting, {"short": figures(100)})

    async def second_dies(_: Bench, peer: Peer, *rest: object) -> Visit:
        if peer.name == "second":
            raise SettingsError("the server left")
        return visited(peer.name, 100)

    monkeypatch.setattr(module, "try_setting", only_the_trial)
    monkeypatch.setattr(module, "visit", second_dies)
    bench = Bench(tmp_path, tmp_path, tmp_path, "b", "f", {}, {})
    table = Table("same-build")

    servers = [(peer(name), [Setting()]) for name in ("first", "second")]
    asyncio.run(fill(table, bench, servers, 2, lambda: None))

    assert [one.peer for one in table.visits] == ["first", "first"]
    assert table.failures == {"second": "the server left"}


def test_where_no_server_answers_right_there_is_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit, "START_SECONDS", 0.5)
    bench = Bench(tmp_path, tmp_path, tmp_path, "b", "f", {"short": CORPUS}, {"short": 0.05})
    table = Table("same-build")

    with pytest.raises(SettingsError, match="none of the servers runs; liar gave no right answer"):
        asyncio.run(fill(table, bench, [(peer("liar"), [Setting("wrong")])], 1, lambda: None))
