"""The command as an operator runs it, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import httpx
import pytest

from app.cli import main, parser
from app.settings import Settings
from tests.app.tiny import publish

ROOT = Path(__file__).parents[2]


class Server:
    """`bertpress-serve` on a free port."""

    def __init__(self, repository: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "app.cli", "--port", "0", "--models", str(repository), *flags]
        command += ["--state", str(repository.parent / "state.json")]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BERTPRESS_")}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self.url = "http://" + self.line_with(r"listening on (\S+)")
        self.line_with("ready; resident")

    def line_with(self, pattern: str) -> str:
        """Read the log until a line matches; its first group, or all of it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(pattern, line):
                return found.group(found.lastindex or 0)
        self.kill()
        raise AssertionError("".join(self.log))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Tell it to stop, and read the rest of its log."""
        assert self.process.stderr is not None
        self.process.send_signal(how)
        rest = self.process.stderr.read()
        return self.process.wait(), rest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind, whatever the test found."""
        self.kill()

    def kill(self) -> None:
        assert self.process.stderr is not None
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture
def slow_repository(tmp_path: Path) -> Path:
    """One text takes long enough to be in flight when the signal comes."""
    publish(tmp_path / "models", layers=2000, max_tokens=512, batch_invariant=False)
    return tmp_path / "models"


@pytest.fixture
def server(repository: Path) -> Iterator[Server]:
    with Server(repository) as server:
        yield server


def test_it_serves_and_leaves_when_told(server: Server) -> None:
    reply = httpx.post(f"{server.url}/v1/predict", json={"inputs": "a great film"})
    assert reply.json()["model"] == "tiny"
    assert httpx.get(f"{server.url}/health/ready").status_code == 200
    code, rest = server.stop()
    assert code == 0
    assert "Traceback" not in rest


def test_ten_megabytes_are_refused_and_the_service_goes_on(server: Server) -> None:
    for body in ({"inputs": "x" * 10_000_000}, {"inputs": ["good"] * 10_000}):
        assert httpx.post(f"{server.url}/v1/predict", json=body).status_code == 413
    with httpx.Client() as client:
        chunks = (b" " * 100_000 for _ in range(100))
        assert client.post(f"{server.url}/v1/predict", content=chunks).status_code == 413
    assert httpx.post(f"{server.url}/v1/predict", json={"inputs": "good"}).status_code == 200
    assert server.stop()[0] == 0


def test_what_was_admitted_is_answered_before_it_leaves(slow_repository: Path) -> None:
    text = "a great film " * 200
    with (
        Server(slow_repository, "--no-coalesce", "--sessions", "1") as server,
        ThreadPoolExecutor(8) as pool,
        httpx.Client(timeout=600) as patient,
    ):
        replies = [
            pool.submit(patient.post, f"{server.url}/v1/predict", json={"inputs": [text] * 4})
            for _ in range(8)
        ]
        while "bertpress_requests_in_flight 8.0" not in patient.get(f"{server.url}/metrics").text:
            assert not all(reply.done() for reply in replies), "answered before all were in flight"
        code, rest = server.stop()
        assert [reply.result().status_code for reply in replies] == [200] * 8
    assert code == 0
    assert "Traceback" not in rest


def test_the_grace_period_ends_it_whatever_is_in_flight(slow_repository: Path) -> None:
    with (
        Server(slow_repository, "--no-coalesce", "--sessions", "1", "--grace-seconds", "0") as server,
        ThreadPoolExecutor(1) as pool,
        httpx.Client(timeout=600) as patient,
    ):
        asked = {"inputs": ["bad " * 600] * 128, "timeout_ms": 60_000}
        reply = pool.submit(patient.post, f"{server.url}/v1/predict", json=asked)
        while "bertpress_requests_in_flight 1.0" not in patient.get(f"{server.url}/metrics").text:
            assert not reply.done(), "answered before it was seen in flight"
        code, rest = server.stop()
        assert reply.result().json()["error"]["code"] == "closing"
    assert code == 0
    assert "Traceback" not in rest


def test_interrupting_ends_it_well_too(server: Server) -> None:
    assert server.stop(signal.SIGINT)[0] == 0


def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", *flags]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_an_empty_repository_is_one_line_and_exit_1(tmp_path: Path) -> None:
    result = run("--port", "0", "--models", str(tmp_path), "--log-level", "error")
    assert result.returncode == 1
    assert (
        result.stderr
        == f"bertpress-serve: {tmp_path} holds no model; name the repository in BERTPRESS_MODELS\n"
    )


def test_a_misspelt_variable_is_one_line_and_exit_1() -> None:
    result = run(BERTPRESS_MODLES="x")
    assert result.returncode == 1
    assert result.stderr == (
        "bertpress-serve: BERTPRESS_MODLES is not a setting of bertpress; did you mean BERTPRESS_MODELS?\n"
    )


def test_a_taken_port_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--models", str(repository)]) == 1
    error = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}" in error
    assert error.count("\n") == 1


def test_a_value_out_of_range_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--max-texts", "none"]) == 1
    assert "BERTPRESS_MAX_TEXTS" in capsys.readouterr().err


def test_every_setting_but_the_secrets_is_a_flag() -> None:
    known = {action.dest for action in parser()._actions}
    assert set(Settings.model_fields) - known == {"admin_token", "api_keys"}


def test_flags_are_read() -> None:
    flags = vars(parser().parse_args(["--max-texts", "3", "--no-access-log", "--allow-torchscript"]))
    assert (flags["max_texts"], flags["access_log"], flags["allow_torchscript"]) == ("3", False, True)
    assert flags["port"] is None
