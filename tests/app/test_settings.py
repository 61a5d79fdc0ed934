from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import SettingsError
from app.settings import Settings, read_settings, refuse_unknown_names


def test_defaults_stand() -> None:
    settings = read_settings({}, {})
    assert (settings.max_texts, settings.max_body_bytes, settings.default_timeout_ms) == (
        128,
        1_000_000,
        10_000,
    )
    assert settings.host == "127.0.0.1"
    assert settings.admin_token is None


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_environment_is_read_and_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTPRESS_MAX_TEXTS", "7")
    monkeypatch.setenv("BERTPRESS_MODELS", "/somewhere")
    monkeypatch.setenv("BERTPRESS_ADMIN_TOKEN", "")
    assert read_settings({}).max_texts == 7
    assert read_settings({"max_texts": 8}).max_texts == 8
    assert read_settings({}).models == Path("/somewhere")
    assert read_settings({}).admin_token is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().max_texts = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("BERTPRESS_MAX_TEXT", "BERTPRESS_MAX_TEXTS"),
        ("BERTPRESS_DEFALT_MODEL", "BERTPRESS_DEFAULT_MODEL"),
        ("bertpress_prot", "BERTPRESS_PORT"),
    ],
)
def test_a_misspelling_names_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(SettingsError, match=f"{wrong} is not a setting of bertpress; did you mean {right}"):
        read_settings({}, {wrong: "1"})


def test_names_of_other_parts_are_known() -> None:
    refuse_unknown_names({"BERTPRESS_DATA": "/data", "PATH": "/bin", "BERTPRESS_CPU_FEATURES": "avx2"})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_texts": "many"}, "BERTPRESS_MAX_TEXTS"),
        ({"max_texts": 0}, "BERTPRESS_MAX_TEXTS"),
        ({"port": 70_000}, "BERTPRESS_PORT"),
        ({"log_level": "loud"}, "BERTPRESS_LOG_LEVEL"),
        ({"default_timeout_ms": 2000, "max_timeout_ms": 1000}, "max_timeout_ms"),
        ({"max_queue_texts": 5}, "max_queue_texts"),
        ({"log_format": "xml"}, "BERTPRESS_LOG_FORMAT"),
        ({"otlp_endpoint": "collector:4317"}, "BERTPRESS_OTLP_ENDPOINT"),
        ({"watts_per_busy_core": 0.1}, "watts_per_busy_core"),
        ({"protect_health": True}, "protect_health"),
        ({"protect_metrics": True, "admin_token": ""}, "protect_metrics"),
        ({"rate_limit_texts": 0}, "BERTPRESS_RATE_LIMIT_TEXTS"),
    ],
)
def test_bad_values_are_one_line(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings(overrides, {})
    assert "\n" not in str(caught.value)


def test_a_bad_secret_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({"admin_token": ["hush"]}, {})
    assert "hush" not in str(caught.value)


def test_preload_is_a_list() -> None:
    assert Settings(preload=" a, b/2 ,,").preloaded == ("a", "b/2")
    assert Settings().preloaded == ()
