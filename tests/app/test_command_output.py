"""What the command writes about itself, and whom it takes a client for, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.app.test_cli import ROOT, Server


@pytest.mark.parametrize(
    ("flags", "client"),
    [
        ((), "127.0.0.1"),
        (("--trusted-proxies", "10.0.0.1"), "127.0.0.1"),
        (("--trusted-proxies", "10.0.0.1,127.0.0.0/8"), "10.9.8.7"),
    ],
)
def test_a_forwarded_address_is_believed_from_trusted_proxies_alone(
    repository: Path, flags: tuple[str, ...], client: str
) -> None:
    with Server(repository, "--access-log", *flags) as server:
        httpx.get(f"{server.url}/health/live?secret=1", headers={"X-Forwarded-For": "10.9.8.7"})
        line = server.line_with("bertpress.access")
        assert f"client={client}" in server.log[-1]
        assert "secret" not in server.log[-1]
        assert line


def test_every_line_is_json_but_the_last_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "--port", "0", "--models", str(tmp_path)]
    environment = {**os.environ, "BERTPRESS_LOG_FORMAT": "json"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    *lines, last = done.stderr.splitlines()
    assert done.returncode == 1
    assert last.startswith("bertpress-serve: ")
    messages = [json.loads(line)["message"] for line in lines]
    assert any(message.startswith("listening on 127.0.0.1:") for message in messages)


def test_keys_that_cannot_be_read_are_one_line_and_exit_1(tmp_path: Path) -> None:
    environment = {**os.environ, "BERTPRESS_API_KEYS": "shop:short"}
    command = [sys.executable, "-m", "app.cli", "--port", "0", "--models", str(tmp_path)]
    done = subprocess.run(
        [*command, "--log-level", "error"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the key of shop in BERTPRESS_API_KEYS has 5 characters" in done.stderr
