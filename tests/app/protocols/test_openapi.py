"""OpenAPI against the service: schemathesis sends what it allows, and what it forbids."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.app.conftest import TOKEN
from tests.app.protocols.conftest import Live
from tests.app.tiny import publish

ROOT = Path(__file__).parents[3]


def run_schemathesis(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--seed", "1"]
    command += ["-H", f"Authorization: Bearer {TOKEN}", "--generation-database", "none", "--warnings", "off"]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)


def test_schemathesis_finds_nothing(live: Callable[..., Live], repository: Path) -> None:
    publish(repository, version=2)
    publish(repository, "other", 3)
    done = run_schemathesis(live().url, "--max-examples", "5", "--continue-on-failure")
    assert "No issues found" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    assert "25 selected" in done.stdout


def test_it_would_find_something(live: Callable[..., Live]) -> None:
    """The check has teeth: a status that the document does not tell of is a finding."""
    service = live()
    service.app.openapi_schema = {
        **service.app.openapi(),
        "paths": {"/v1/models": {"get": {"responses": {"204": {"description": "nothing"}}}}},
    }
    done = run_schemathesis(service.url, "--max-examples", "1")
    assert "1 unique failure" in done.stdout
    assert done.returncode == 1
