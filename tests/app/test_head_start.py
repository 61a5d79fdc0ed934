from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.head_start import HeadStart
from app.main import create_app
from app.settings import Settings
from app.variant import VersionKey
from tests.app.tiny import publish


def test_the_version_that_serves_first_is_opened(make_settings: Callable[..., Settings]) -> None:
    opened = HeadStart(make_settings()).take(VersionKey("tiny", 1))
    assert opened is not None
    assert opened.choice.build.name == "onnx-fp32"


def test_it_is_handed_out_once(make_settings: Callable[..., Settings]) -> None:
    head_start = HeadStart(make_settings())
    assert head_start.take(VersionKey("tiny", 1)) is not None
    assert head_start.take(VersionKey("tiny", 1)) is None


def test_another_version_is_not_taken_for_it(make_settings: Callable[..., Settings]) -> None:
    head_start = HeadStart(make_settings())
    assert head_start.take(VersionKey("tiny", 2)) is None
    assert head_start.take(VersionKey("tiny", 1)) is None


def test_what_does_not_open_is_left_to_the_start(
    make_settings: Callable[..., Settings], repository: Path
) -> None:
    (repository / "tiny/1/model.onnx").write_bytes(b"")
    assert HeadStart(make_settings()).take(VersionKey("tiny", 1)) is None
    assert HeadStart(make_settings(models="/none")).take(VersionKey("tiny", 1)) is None


@pytest.mark.anyio
async def test_a_start_takes_it(make_settings: Callable[..., Settings], repository: Path) -> None:
    publish(repository, version=2, probe_shift=1.0)  # opens, and fails its probes
    settings, started = make_settings(), []
    app = create_app(settings, head_start=HeadStart(settings), on_started=lambda: started.append(True))
    async with app.router.lifespan_context(app):
        await app.state.start
        assert app.state.parts.registry.default.key == VersionKey("tiny", 1)
    assert started == [True]
