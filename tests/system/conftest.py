"""A real service, started as an operator starts it, and the system programs that talk to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app import artifact
from tests.app.tiny import publish

ROOT = Path(__file__).parents[2]
SHIPPED_MODELS = ROOT / "models"
START_SECONDS = 60.0
ADMIN_TOKEN = "token-of-the-system-tests"


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Find a system program, or fail: a system test that is skipped shows nothing."""

    def find(name: str) -> str:
        path = shutil.which(name)
        assert path is not None, f"{name} is not installed; on Debian: apt-get install prometheus wrk"
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
    with running([sys.executable, "-m", "app.cli", *flags], folder / "service.log"):
        wait_for(f"http://127.0.0.1:{port}/health/ready", folder / "service.log")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """A process that is asked to leave at the end, and made to if it does not."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def environment() -> dict[str, str]:
    """This process's environment without its settings of bertpress, and with an admin token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BERTPRESS_")}
    return {**kept, "BERTPRESS_ADMIN_TOKEN": ADMIN_TOKEN}


def unused_port() -> int:
    """A port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str, log: Path) -> None:
    """Return when the URL answers 200; fail with the log when it does not in time."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    pytest.fail(f"{url} did not answer 200 within {START_SECONDS:g} s:\n{log.read_text()}")
