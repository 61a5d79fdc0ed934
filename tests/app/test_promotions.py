from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.promotions import Promotions, read_promotions, write_promotions


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    promotions = Promotions().promote("a", 1).promote("b", 2)
    assert write_promotions(path, promotions)
    assert read_promotions(path) == Promotions("b", {"a": 1, "b": 2})
    assert [entry.name for entry in path.parent.iterdir()] == ["state.json"]


def test_forgetting() -> None:
    assert Promotions("b", {"a": 1, "b": 2}).forget("a") == Promotions("b", {"b": 2})


def test_no_file_is_nothing_promoted(tmp_path: Path) -> None:
    assert read_promotions(tmp_path / "none") == Promotions()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"versions": {"a": "x"}}', b"\xff"])
def test_a_file_that_makes_no_sense_is_passed_over(
    tmp_path: Path, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(body)
    assert read_promotions(path) == Promotions()
    assert "does not say what was promoted" in caplog.text


def test_a_folder_in_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_promotions(tmp_path) == Promotions()
    assert "cannot be read" in caplog.text


def test_where_it_cannot_be_written_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert not write_promotions(tmp_path / "file" / "state.json", Promotions())
    assert "will not survive a restart" in caplog.text
