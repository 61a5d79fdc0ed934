"""A real service, started as an operator starts it, and the system programs that talk to it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app import artifact
from loadtests.process import answers_200, environment_without_settings, running, unused_port, wait_until
from tests.app.tiny import publish

ROOT = Path(__file__).parents[2]
SHIPPED_MODELS = ROOT / "models"
ADMIN_TOKEN = "token-of-the-system-tests"


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Find a system program, or fail: a system test that is skipped shows nothing."""

    def find(name: str) -> str:
        path = shutil.which(name)
        hint = "on Debian: apt-get install prometheus wrk qemu-user"
        assert path is not None, f"{name} is not installed; {hint}"
        return path

    return find


@pytest.fixture(scope="module")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ready `bertpress-serve` with the shipped models, or with a tiny one where none are shipped."""
    folder = tmp_path_factory.mktemp("service")
    models = SHIPPED_MODELS
    if not any(artifact.versions(models, name) for name in artifact.model_names(models)):
        models = folder / "models"
        publish(models)
    port = unused_port()
    flags = ["--port", str(port), "--models", str(models), "--state", str(folder / "promoted.json")]
    command = [sys.executable, "-m", "app.cli", *flags]
    with running(command, environment=environment(), folder=ROOT) as process:
        wait_until(process, answers_200(f"http://127.0.0.1:{port}/health/ready"))
        yield f"http://127.0.0.1:{port}"


def environment() -> dict[str, str]:
    """This process's environment without its settings of bertpress, and with an admin token."""
    return environment_without_settings() | {"BERTPRESS_ADMIN_TOKEN": ADMIN_TOKEN}
