from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.errors import ArtifactError, ManifestError, UnknownModelError
from app.repository import Repository
from app.variant import VersionKey
from tests.app.tiny import publish

KEY = VersionKey("tiny", 1)


def test_versions_in_order(repository: Path) -> None:
    publish(repository, version=10)
    publish(repository, version=9)
    (repository / "empty").mkdir()
    assert Repository(repository).versions() == {"tiny": (1, 9, 10)}


def test_a_missing_repository_is_empty(tmp_path: Path) -> None:
    assert Repository(tmp_path / "none").versions() == {}


def test_unknown_versions(repository: Path) -> None:
    for key in (VersionKey("tiny", 2), VersionKey("other", 1), VersionKey("..", 1)):
        with pytest.raises(UnknownModelError):
            Repository(repository).folder(key)


def test_a_manifest_is_read_once_until_it_changes(repository: Path) -> None:
    found = Repository(repository)
    first = found.manifest(KEY)
    assert found.manifest(KEY) is first
    os.utime(repository / "tiny/1/manifest.json", ns=(1, 1))
    assert found.manifest(KEY) is not first


def test_a_broken_manifest_stays_broken_until_it_changes(repository: Path) -> None:
    (repository / "tiny/1/manifest.json").write_text("{")
    found = Repository(repository)
    for _ in range(2):
        with pytest.raises(ManifestError):
            found.manifest(KEY)
    (repository / "tiny/1/manifest.json").unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        found.manifest(KEY)


def test_a_version_that_leads_out_is_refused(repository: Path, tmp_path: Path) -> None:
    publish(tmp_path / "elsewhere", "tiny", 2)
    (repository / "tiny/2").symlink_to(tmp_path / "elsewhere/tiny/2")
    with pytest.raises(ArtifactError, match="leads out"):
        Repository(repository).folder(VersionKey("tiny", 2))
