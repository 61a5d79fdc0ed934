from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests import start
from tests.app.tiny import publish


def test_a_service_is_started_again_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path / "models")
    flags = ["--models", str(tmp_path / "models"), "--name", "tiny", "--starts", "1"]

    assert start.main([*flags, "--json", str(tmp_path / "starts.json")]) == 0

    assert "tiny, 1 starts: ready after" in capsys.readouterr().out
    (one,) = json.loads((tmp_path / "starts.json").read_text())
    assert one["ready_seconds"] > 0
    assert one["resident_bytes"] > 10_000_000


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()

    assert start.main(["--models", str(tmp_path / "models"), "--name", "absent"]) == 1

    assert "start: the server" in capsys.readouterr().err
