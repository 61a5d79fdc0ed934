"""The load generators against a real service."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.conftest import ROOT, environment

pytestmark = pytest.mark.system

LOADTESTS = ROOT / "loadtests"


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)


def test_wrk_gets_nothing_but_2xx(service_url: str, program: Callable[[str], str]) -> None:
    script = str(LOADTESTS / "post.lua")

    result = call(program("wrk"), "-t1", "-c16", "-d3s", "-s", script, f"{service_url}/v1/predict")

    (figures,) = re.findall(r"requests=(\d+) not_2xx=(\d+) socket_errors=(\d+)", result.stdout)
    requests, not_2xx, socket_errors = map(int, figures)
    assert requests > 0
    assert (not_2xx, socket_errors) == (0, 0)


def test_the_open_loop_gets_nothing_but_answers(service_url: str) -> None:
    flags = ["--url", service_url, "--rate", "20", "--duration-seconds", "3"]

    result = call(sys.executable, "-m", "loadtests.open_loop", *flags)

    summary = json.loads(result.stdout)
    assert summary["errors"] == {}
    assert summary["answered"] == summary["requests"] > 0


def test_locust_s_users_are_all_answered(service_url: str, tmp_path: Path) -> None:
    locustfile = str(LOADTESTS / "locustfile.py")
    flags = ["--headless", "--users", "4", "--spawn-rate", "4", "--run-time", "4s", "--json"]

    result = call(sys.executable, "-m", "locust", "-f", locustfile, "--host", service_url, *flags)

    assert result.returncode == 0, result.stderr
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert set(entries) <= {"short", "long", "batch"}
    assert entries["short"]["num_requests"] > 0
    assert sum(entry["num_failures"] for entry in entries.values()) == 0


def test_locust_sends_nothing_to_another_host() -> None:
    locustfile = str(LOADTESTS / "locustfile.py")
    flags = ["--headless", "--users", "1", "--run-time", "1s", "--json"]

    result = call(sys.executable, "-m", "locust", "-f", locustfile, "--host", "http://192.0.2.1", *flags)

    assert json.loads(result.stdout) == []
    assert "not on this machine" in result.stderr
