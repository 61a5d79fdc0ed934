from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests import engine_ratio
from loadtests.bare_engine import Schedule
from loadtests.engine_ratio import Turn, condense, schedules_of, table
from loadtests.summary import Outcome, Summary, summarize
from tests.app.tiny import publish


def http(rate: float, failed: int = 0) -> Summary:
    outcomes = [Outcome(0, 0, 0.1, "200")] * int(rate) + [Outcome(0, 0, 0.1, "503")] * failed
    return summarize(
        outcomes,
        mode="closed loop",
        duration_seconds=1,
        offered_rate=None,
        goal_ms=1000,
        client_cpu_seconds=0.1,
        cores=2,
    )


TURNS = [
    Turn(http(90), {"one": 100, "two": 80}, {"one": 110, "two": 120}),
    Turn(http(80, failed=3), {"one": 100, "two": 300}, {"one": 110, "two": 100}),
    Turn(http(120), {"one": 125, "two": 80}, {"one": 150, "two": 200}),
]


def test_the_share_is_the_median_of_shares_under_the_schedule_of_the_highest_median() -> None:
    ratio = condense(TURNS)

    assert (ratio.schedule, ratio.text_rate, ratio.share) == ("one", 100, 0.9)
    assert (ratio.ids_schedule, ratio.ids_rate) == ("two", 120)
    assert ratio.ids_share == pytest.approx(0.75)
    assert (ratio.http_rate, ratio.not_answered) == (90, 3)
    assert ratio.client_cpu_share == pytest.approx(0.05)


def test_one_text_at_a_time_is_all_there_is_for_a_build_that_depends_on_its_batch() -> None:
    assert schedules_of(2, batch_invariant=False) == [Schedule(1, 2), Schedule(2, 1)]
    assert schedules_of(1, batch_invariant=False) == [Schedule(1, 1)]


def test_batches_hold_no_more_than_is_in_flight() -> None:
    schedules = schedules_of(4, batch_invariant=True)

    assert Schedule(1, 4, 16) in schedules
    assert Schedule(4, 1, 4) in schedules
    assert all(one.sessions * one.rows <= engine_ratio.IN_FLIGHT for one in schedules)


def test_the_table_names_the_share_and_what_was_measured() -> None:
    text = table({"short": condense(TURNS)}, {"build": "onnx-int8"})

    assert text.startswith("build onnx-int8")
    assert (
        "| short | 90.0/s | 100.0/s | **90.0%** | 120.0/s | 75.0% | one | 5.0% of the machine | 3 |" in text
    )


def test_both_sides_are_measured_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real service and a real engine, briefly: the rates are this machine's affair."""
    monkeypatch.delenv("BERTPRESS_DATA", raising=False)
    monkeypatch.setattr(engine_ratio, "REST_SECONDS", 0.05)
    publish(tmp_path / "models", batch_invariant=False)
    flags = ["--models", str(tmp_path / "models"), "--name", "tiny", "--texts", "5", "--rounds", "1"]

    assert engine_ratio.main([*flags, "--json", str(tmp_path / "ratio.json")]) == 0

    assert "model tiny/1, build onnx-fp32" in capsys.readouterr().out
    ratios = json.loads((tmp_path / "ratio.json").read_text())["ratios"]
    assert ratios.keys() == {"short", "long"}
    for ratio in ratios.values():
        assert ratio["http_rate"] > 0
        assert ratio["text_rate"] > 0
        assert ratio["not_answered"] == 0


def test_a_model_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine_ratio.main(["--models", str(tmp_path), "--name", "none"]) == 1
    assert "holds no version of none" in capsys.readouterr().err


def test_every_flag_says_what_it_does() -> None:
    assert all(action.help for action in engine_ratio._parser()._actions)
