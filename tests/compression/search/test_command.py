from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import SearchError
from compression.cli import main
from compression.commands.search import seconds
from compression.search import run, target_cpu
from compression.search.outcome import Outcome
from compression.search.work import TOKENS, Shape
from tests.compression.finished import cheap_baseline

SEARCH = ["search", "--teacher", "t", "--data", "d", "--output", "o"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[run.Request]:
    """Searches that were asked for; none is made."""
    requests: list[run.Request] = []

    def record(request: run.Request, *_: Any) -> Outcome:
        requests.append(request)
        return Outcome(request.goals, (), (), "nothing was tried", False, request.repository)

    monkeypatch.setattr(run, "search", record)
    return requests


def test_options_become_a_request(asked: list[run.Request], capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--target", "size=15MB", "--floor", "retention=0.98", "--minimize", "latency"]
    more = ["--budget", "30m", "--trials", "7", "--cheap-rows", "100", "--judged-rows", "400", "--seed", "3"]
    code = main([*SEARCH, *limits, *more, "--for-cpu", "haswell:4", "--limit-rows", "50", "--name", "m"])
    assert code == 3
    (request,) = asked
    assert request.goals.text == (
        "target size at most 15.00 MB; floor retention at least 98.00%; minimise latency"
    )
    assert (request.limits.trials, request.limits.budget_seconds) == (7, 1800)
    assert (request.cheap.rows, request.cheap.judged_rows, request.full.judged_rows) == (100, 100, 400)
    assert (request.seed, request.model, request.data_settings.limit_rows) == (3, "m", 50)
    assert request.target is not None
    assert request.target.cores == 4
    assert "Nothing was published: no full trial succeeded." in capsys.readouterr().out


def test_without_limits_there_are_thirty_trials(asked: list[run.Request]) -> None:
    main(SEARCH)
    main([*SEARCH, "--budget", "10s"])
    assert [(each.limits.trials, each.limits.budget_seconds) for each in asked] == [(30, None), (None, 10)]
    assert asked[0].cheap == run.CHEAP


WRONG = {
    ("--target", "size=large"): "'size=large' is not METRIC=NUMBER",
    ("--minimise", "retention"): "retention is better the other way round; say --maximise retention",
    ("--budget", "soon"): "'soon' is not a time; write 90s, 30m or 2h",
    ("--space", "missing.toml"): "missing.toml cannot be read",
    ("--for-cpu", "pentium"): "expected one of haswell",
    ("--cheap-epochs", "0"): "epochs of a trial: Input should be greater than 0, got 0",
}


@pytest.mark.parametrize("options", WRONG)
def test_a_mistake_is_one_line_before_anything_is_done(
    options: tuple[str, str], asked: list[run.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SEARCH, *options]) == 1
    told = capsys.readouterr().err
    assert WRONG[options] in told
    assert told.count("\n") == 1
    assert asked == []


def test_without_the_extra_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "compression.commands.search.importlib.util.find_spec",
        lambda name: None if name == "optuna" else name,
    )
    assert main(SEARCH) == 1
    assert "pip install 'bertpress[compress,search]'" in capsys.readouterr().err


def test_times() -> None:
    assert [seconds(written) for written in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]
    with pytest.raises(SearchError):
        seconds("0")


def test_a_table_made_here_is_read_there(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    small = ["--hidden-size", "32", "--heads", "4", "--ffn", "64", "--layers", "2"]
    with cheap_baseline():
        assert main(["cost-table", "--output", str(path), *small]) == 0
    told = json.loads(path.read_text())
    assert {cost["build"] for cost in told["costs"]} >= {"onnx-int8-reduced", "onnx-int8-weight-only"}
    cpu = target_cpu.target(str(path))
    found = cpu.predict(Shape(32, (16, 32), (32, 64)), "onnx-int8-reduced", TOKENS)
    assert found.share > 0
    assert found.source.startswith("predicted from measurements on")


def test_a_width_that_heads_do_not_divide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost-table", "--output", str(tmp_path / "t.json"), "--hidden-size", "30"]) == 1
    assert "--hidden-size 30 is not a multiple of --heads 12" in capsys.readouterr().err
