from __future__ import annotations

import argparse
import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from app.errors import DataError
from compression import benchmark, commands, pipeline
from compression.cli import main
from compression.pipeline import Outcome, Request
from compression.recipe import load, named, with_torchscript
from tests.compression.finished import RECIPE, Finished, cheap_baseline, moved

COMPRESS = ["compress", "--teacher", "mine", "--data", "reviews.csv", "--output", "models"]


@pytest.fixture
def asked(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Requests the command makes; they are answered with a finished run."""
    requests: list[Request] = []

    def run(request: Request, _: object) -> Outcome:
        requests.append(request)
        return finished.outcome

    monkeypatch.setattr(pipeline, "run", run)
    return requests


def test_options_become_a_request(
    asked: list[Request], capsys: pytest.CaptureFixture[str], finished: Finished
) -> None:
    assert main(COMPRESS) == 0
    (request,) = asked
    assert (request.teacher, request.backbone, request.data) == ("mine", None, ("reviews.csv",))
    assert (request.repository, request.work) == (Path("models"), Path(".bertpress"))
    assert request.recipe == load("default")
    assert (request.data_settings.label_names, request.unlabelled) == (None, None)
    output = capsys.readouterr()
    assert "data reviews:" in output.out
    assert "small/1" in output.out
    assert "whole/1" in output.out
    assert output.err == ""


def test_every_option(asked: list[Request], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    options = [
        *("compress", "--backbone", "base", "--data", "d", "--data", "e", "--output", "o"),
        *("--recipe", str(tmp_path / "mine.toml"), "--name", "reviews", "--torchscript"),
        *("--unlabelled", "more.csv", "--text-column", "review", "--label-column", "stars"),
        *("--labels", "bad,good", "--limit-rows", "50", "--work", "w"),
    ]
    assert main(options) == 0
    (request,) = asked
    assert (request.backbone, request.teacher, request.unlabelled) == ("base", None, "more.csv")
    assert request.data == ("d", "e")
    settings = request.data_settings
    assert (settings.text_column, settings.label_column) == ("review", "stars")
    assert (settings.label_names, settings.limit_rows) == (("bad", "good"), 50)
    recipe = named(load(str(tmp_path / "mine.toml")), "reviews")
    assert request.recipe == with_torchscript(recipe)
    assert request.work == Path("w")


def test_a_refused_version_is_exit_code_1(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For real: a gate that nothing passes, on a run that is otherwise done."""
    strict = RECIPE.replace('model = "whole"', 'model = "whole"\ngate.fp32_tolerance = 1e-12')
    (tmp_path / "strict.toml").write_text(strict)
    copy = moved(finished, tmp_path)
    options = [
        *("compress", "--backbone", str(copy.backbone), "--data", *copy.data),
        *("--output", str(copy.repository), "--work", str(copy.work)),
        *("--recipe", str(tmp_path / "strict.toml"), "--torchscript"),
    ]
    with cheap_baseline():
        assert main(options) == 1
    output = capsys.readouterr()
    assert "small/1" in output.out
    assert "whole/1" not in output.out
    assert output.err.startswith(
        "bertpress: refused: whole: build onnx-fp32: logits differ from PyTorch's by"
    )
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("missing", [["torch"], ["accelerate", "rich"]])
@pytest.mark.parametrize("command", [COMPRESS, ["benchmark"]])
def test_without_the_extra_it_says_how_to_install_it(
    command: list[str],
    missing: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in missing else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert main(command) == 1
    said = f"bertpress: {', '.join(missing)} not installed; run: pip install 'bertpress[compress]'\n"
    assert capsys.readouterr().err == said


def failing(error: BaseException) -> Any:
    def run(*_: object) -> None:
        raise error

    return run


def test_a_known_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "run", failing(DataError("a.csv, row 2: no column 'text'; found: review")))
    assert main(COMPRESS) == 1
    assert capsys.readouterr().err == "bertpress: a.csv, row 2: no column 'text'; found: review\n"


def test_an_unknown_error_is_a_bug_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "run", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(COMPRESS)


def test_ctrl_c_says_that_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "run", failing(KeyboardInterrupt()))
    assert main(COMPRESS) == 130
    assert capsys.readouterr().err == "bertpress: stopped; the same command goes on where it was\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([*COMPRESS, "--recipe", "fastest"], "no recipe 'fastest'"),
        ([*COMPRESS, "--recipe", "absent.toml"], "absent.toml does not exist"),
        ([*COMPRESS, "--name", "No Name"], "--name 'No Name'"),
    ],
)
def test_a_wrong_recipe_is_one_line(
    options: list[str], said: str, asked: list[Request], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 1
    error = capsys.readouterr().err
    assert error.startswith("bertpress: ")
    assert said in error
    assert error.count("\n") == 1
    assert asked == []


@pytest.mark.parametrize(
    "options",
    [["--help"], ["compress", "--help"], ["benchmark", "--help"], ["pairs", "--help"], ["search", "--help"]],
)
def test_help(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(options)
    assert left.value.code == 0
    assert "usage: bertpress" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["compress"],
        ["compress", "--data", "d", "--output", "o"],
        [*COMPRESS, "--backbone", "other"],
        [*COMPRESS, "--limit-rows", "many"],
    ],
)
def test_options_that_make_no_sense(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(options)
    assert left.value.code == 2
    assert "usage: bertpress" in capsys.readouterr().err


def test_the_benchmark_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[object, ...]] = []

    def benchmarked(*options: object) -> int:
        given.append(options)
        return 0

    monkeypatch.setattr(benchmark, "main", benchmarked)
    assert main(["benchmark"]) == 0
    assert main(["benchmark", "--models", "m", "--data", "d", "--rounds", "5", "--texts", "7"]) == 0
    assert given[0][:2] == (Path("models"), None)
    assert given[1] == (Path("m"), "d", 5, 7, None)


class Part:
    """A sub-command.

    What it says of itself.
    """

    def add(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=3)

    def run(self, options: argparse.Namespace) -> int:
        return int(options.rounds)


def test_a_benchmark_may_have_parts_and_stays_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands.benchmark, "_PARTS", {"part": Part()})
    monkeypatch.setattr(benchmark, "main", lambda *options: 100 + int(options[2]))
    assert main(["benchmark", "--rounds", "5"]) == 105
    assert main(["benchmark", "part"]) == 3
    assert main(["benchmark", "part", "--rounds", "7"]) == 7
    with pytest.raises(SystemExit):
        main(["benchmark", "part", "--help"])
    assert "What it says of itself." in capsys.readouterr().out
