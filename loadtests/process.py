"""Starts a server of any kind, waits until it answers, and takes down all its processes on every exit."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.errors import SettingsError

START_SECONDS = 60.0
GRACE_SECONDS = 10.0
_GUARD = Path(__file__).with_name("guard.py")
_LOG_CHARACTERS = 2000
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Process:
    """A running command under its guard."""

    pid: int
    started_seconds: float
    log: Path
    _guard: subprocess.Popen[bytes]

    def check_alive(self) -> None:
        """Raise SettingsError, with the end of the log, if the command has ended."""
        if self._guard.poll() is not None:
            raise SettingsError(
                f"the server left with exit code {self._guard.returncode}:\n{self.last_words()}"
            )

    def last_words(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_CHARACTERS:]


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    log: Path | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Iterator[Process]:
    """A started command; at the end it is asked to leave, and what is left of its tree is killed.

    `environment` replaces this process's own; `log` takes all it writes, else a temporary file does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        log = log or Path(scratch) / "server.log"
        with log.open("wb") as stream:
            guard = _start_guard(command, environment, folder, stream, grace_seconds)
        try:
            assert guard.stdout is not None
            words = guard.stdout.readline().split()
            if len(words) != 2:
                guard.wait()
                raise SettingsError(f"{command[0]} cannot be started:\n{log.read_text(errors='replace')}")
            yield Process(int(words[0]), float(words[1]), log, guard)
        finally:
            _end(guard)


def _start_guard(
    command: Sequence[str],
    environment: Mapping[str, str] | None,
    folder: Path | None,
    stream: IO[bytes],
    grace_seconds: float,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_GUARD), str(grace_seconds), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stream,
        cwd=folder,
        env=None if environment is None else dict(environment),
        start_new_session=True,
    )


def _end(guard: subprocess.Popen[bytes]) -> None:
    assert guard.stdin is not None and guard.stdout is not None
    guard.stdin.close()
    guard.stdout.close()
    guard.wait()


def wait_until(
    process: Process, answers: Callable[[], bool], *, give_up_seconds: float = START_SECONDS
) -> None:
    """Poll until `answers()` is true; what it raises for a server that is not there yet counts as no.

    Raises:
        SettingsError: the command ended, or the time is over; with the end of its log.
    """
    give_up = time.monotonic() + give_up_seconds
    while time.monotonic() < give_up:
        process.check_alive()
        try:
            if answers():
                return
        except urllib.error.HTTPError as refusal:
            refusal.close()
        except OSError:
            pass  # nothing listens yet
        time.sleep(_POLL_SECONDS)
    raise SettingsError(f"the server did not answer within {give_up_seconds:g} s:\n{process.last_words()}")


def answers_200(url: str) -> Callable[[], bool]:
    """For `wait_until`: a GET of the URL is answered 200."""

    def answers() -> bool:
        with urllib.request.urlopen(url) as response:  # noqa: S310 - loopback, http
            return bool(response.status == 200)

    return answers


def unused_port() -> int:
    """A port of the loopback interface on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environment_without_settings() -> dict[str, str]:
    """This process's environment less its BERTPRESS_* variables: they are meant for other runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BERTPRESS_")}
