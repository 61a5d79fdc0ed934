from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from app.errors import SettingsError
from loadtests import overload
from loadtests.overload import Round, condense, draw, table
from loadtests.summary import Outcome, Summary, summarize
from tests.app.tiny import publish


def summary(answered: int, refused: int) -> Summary:
    outcomes = [Outcome(0.0, 0.0, 0.01, "200")] * answered + [Outcome(0.0, 0.0, 0.001, "429")] * refused
    return summarize(
        outcomes,
        mode="open loop",
        duration_seconds=1.0,
        offered_rate=float(answered + refused),
        goal_ms=100,
        client_cpu_seconds=0.1,
        cores=2,
    )


def rounds() -> list[Round]:
    return [
        Round(100.0, {2.0: summary(90, 110), 1.0: summary(95, 5), 0.5: summary(50, 0)}),
        Round(120.0, {2.0: summary(96, 144), 1.0: summary(108, 12), 0.5: summary(60, 0)}),
        Round(200.0, {2.0: summary(100, 300), 1.0: summary(160, 40), 0.5: summary(100, 0)}),
    ]


def test_a_share_is_of_the_capacity_of_its_own_round() -> None:
    low, full, high = condense(rounds())

    assert (low.multiple, full.multiple, high.multiple) == (0.5, 1.0, 2.0)
    assert low.share == pytest.approx(0.5)
    assert high.share == pytest.approx(0.8), "the median of 90, 80 and 50 %"
    assert full.share_of_full == pytest.approx(1.0)
    assert high.share_of_full == pytest.approx(96 / 108), "the median of 95, 89 and 63 %"
    assert high.goodput == pytest.approx(96)
    assert high.refused_share == pytest.approx(0.6)
    assert high.p99_ms == pytest.approx(10)
    assert high.client_cpu_share == pytest.approx(0.05)


def test_the_table_names_length_and_load() -> None:
    text = table({"short": condense(rounds())})

    assert "| short, 100 ms | 2x | 240/s | 96/s | 80% | 89% | 60% | 10 ms | 5.0% of the machine |" in text


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    draw({"long": condense(rounds())}, tmp_path / "goodput.png")

    assert (tmp_path / "goodput.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(SettingsError, match="the curve needs matplotlib"):
        draw({"long": condense(rounds())}, tmp_path / "goodput.png")


def test_a_real_service_is_overloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTPRESS_DATA", raising=False)
    monkeypatch.setattr(overload, "MULTIPLES", (0.5, 1.0, 2.0))
    publish(tmp_path / "models", "tiny")
    arguments = ["--models", str(tmp_path / "models"), "--name", "tiny", "--seconds", "0.3", "--rounds", "1"]

    assert overload.main([*arguments, "--json", str(tmp_path / "curve.json")]) == 0

    curves = json.loads((tmp_path / "curve.json").read_text())
    assert list(curves) == ["short", "long"]
    for curve in curves.values():
        assert [point["multiple"] for point in curve] == [0.5, 1.0, 2.0]
        assert all(point["goodput"] > 0 for point in curve)


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()

    assert overload.main(["--models", str(tmp_path / "models"), "--name", "absent"]) == 1

    assert "overload: " in capsys.readouterr().err
