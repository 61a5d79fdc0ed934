"""KServe's own clients, from an environment of their own: with it they would bring a server and its pins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.process import answers_200, running, unused_port, wait_until
from tests.app.tiny import publish
from tests.system.conftest import ROOT, environment

pytestmark = pytest.mark.system
CLIENT = Path(__file__).with_name("kserve_client.py")
NAMED = ("label", "score", "probabilities", "logits")


@pytest.fixture
def kserve_python() -> str:
    """The interpreter that `make .venv-kserve/.installed` makes, or the one that KSERVE_PYTHON names."""
    path = Path(os.environ.get("KSERVE_PYTHON", ROOT / ".venv-kserve" / "bin" / "python"))
    assert path.exists(), "KServe's client is not installed; make .venv-kserve/.installed"
    return str(path)


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A ready service with a tiny model: its URL, and where it listens for gRPC."""
    publish(tmp_path / "models")
    port, grpc_port = unused_port(), unused_port()
    flags = ["--port", str(port), "--grpc-port", str(grpc_port), "--models", str(tmp_path / "models")]
    command = [sys.executable, "-m", "app.cli", *flags, "--state", str(tmp_path / "promoted.json")]
    with running(command, environment=environment(), folder=ROOT) as process:
        wait_until(process, answers_200(f"http://127.0.0.1:{port}/health/ready"))
        yield f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}"


def test_kserve_over_rest_and_grpc(kserve_python: str, addresses: tuple[str, str]) -> None:
    done = subprocess.run(
        [kserve_python, str(CLIENT), *addresses, "tiny"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert [found[name] for name in ("live", "ready", "model", "absent")] == [True, True, True, False]
    assert [found[name] for name in ("grpc live", "grpc ready", "grpc model")] == [True, True, True]
    assert found["error"].startswith("there is no model 'absent'")
    answers = [value for name, value in found.items() if isinstance(value, dict)]
    assert len(answers) == 6
    assert answers == [answers[0]] * 6
    assert answers[0].keys() == {"id", "model", *NAMED}
    assert (answers[0]["id"], answers[0]["model"], len(answers[0]["label"])) == ("7", "tiny", 3)
