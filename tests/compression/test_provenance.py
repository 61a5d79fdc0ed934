from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from compression import provenance
from compression.provenance import code_revision


def test_the_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--no-gpg-sign", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    found = code_revision()
    assert found is not None
    assert re.fullmatch("[0-9a-f]{12}", found)
    assert git("rev-parse", "HEAD").startswith(found)


def test_no_checkout_and_no_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert code_revision() is None
    monkeypatch.setenv("PATH", "")
    assert code_revision() is None


def test_a_library_that_is_not_there_is_left_out() -> None:
    assert provenance._version("no-such-distribution") is None
    assert provenance._version("torch") is not None
