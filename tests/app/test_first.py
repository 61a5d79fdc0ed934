from __future__ import annotations

import pytest

from app.errors import ArtifactError
from app.first import first_versions
from app.promotions import Promotions
from app.settings import Settings
from app.variant import VersionKey

KNOWN = {"quality": (1, 2, 10), "fast": (3,)}


def first(promotions: Promotions = Promotions(), **settings: str) -> list[tuple[str, int]]:  # noqa: B008
    keys = first_versions(KNOWN, promotions, Settings(**settings))  # type: ignore[arg-type]
    assert all(isinstance(key, VersionKey) for key in keys)
    return [(key.name, key.version) for key in keys]


def test_the_first_model_by_name_and_its_highest_version() -> None:
    assert first() == [("fast", 3)]


def test_the_settings_name_a_model() -> None:
    assert first(default_model="quality") == [("quality", 10), ("quality", 2), ("quality", 1)]


def test_what_was_promoted_comes_first() -> None:
    promotions = Promotions("quality", {"quality": 2, "fast": 9})
    assert first(promotions, default_model="fast") == [("quality", 2), ("quality", 10), ("quality", 1)]


def test_a_promoted_version_that_is_gone() -> None:
    assert first(Promotions("fast", {"fast": 9})) == [("fast", 3)]


def test_a_promoted_model_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    assert first(Promotions("gone", {"gone": 1})) == [("fast", 3)]
    assert "names gone" in caplog.text


def test_nothing_to_serve() -> None:
    with pytest.raises(ArtifactError, match="holds no model"):
        first_versions({}, Promotions(), Settings())
    with pytest.raises(ArtifactError, match="names 'absent'"):
        first(default_model="absent")
