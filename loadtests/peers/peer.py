"""What a peer is: how it is installed and started, and how it is asked and understood."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests.peers.servers.classifier import VARIABLE
from loadtests.process import environment_without_settings

ROOT = Path(__file__).parents[2]
# Tokenizers' own threads are of no use to single texts, and warn in servers that fork.
_QUIET = {"TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Setting:
    """What an operator may choose about a server.

    `engine` is `onnx` for the same build as everybody's, else what the peer's documents use. `workers` 0
    computes in the server's own process; `threads` 0 leaves their number to the engine.
    """

    engine: str = "onnx"
    workers: int = 1
    threads: int = 0
    batch: int = 1
    wait_ms: int = 0
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        threads = "" if self.threads == 0 else f" x {self.threads} thread{'s' * (self.threads > 1)}"
        batch = "no batching" if self.batch == 1 else f"batches of {self.batch}"
        waiting = f" within {self.wait_ms} ms" if self.wait_ms else ""
        workers = f"{self.workers} worker{'s' * (self.workers > 1)}" if self.workers else "in process"
        return ", ".join([self.engine, f"{workers}{threads}", f"{batch}{waiting}", *self.options])


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a server."""

    python: Path
    model: Path
    build_name: str
    build_file: str
    port: int
    scratch: Path
    setting: Setting

    def program(self, name: str) -> str:
        """A command of the peer's environment."""
        return str(self.python.with_name(name))

    def environment(self, **variables: str) -> dict[str, str]:
        """This process's environment, the order for our server code, and what else the peer wants."""
        fields = asdict(self.setting) | {
            "port": self.port,
            "model": str(self.model),
            "build": self.build_file,
        }
        path = {"PYTHONPATH": str(ROOT), "HF_HOME": str(self.scratch), "HOME": str(self.scratch)}
        order = {VARIABLE: json.dumps(fields)}
        return {**clean_environment(), **_QUIET, **path, **order, **variables}


@dataclass(frozen=True)
class Started:
    """How a server is started."""

    command: list[str]
    environment: dict[str, str]
    folder: Path = ROOT


@dataclass(frozen=True)
class Peer:
    """A server, and how to speak with it.

    `body` makes a request of a text and the milliseconds its sender will wait; `label` finds the label in
    the parsed answer. `same_build` and `documented` are the settings tried for the two tables.
    """

    name: str
    distribution: str
    requirements: tuple[str, ...]
    path: str
    body: Callable[[str, int], object]
    label: Callable[[Any], str]
    start: Callable[[Launch], Started]
    same_build: tuple[Setting, ...]
    documented: tuple[Setting, ...]
    remark: str = ""


def clean_environment() -> dict[str, str]:
    """This process's environment; Python may keep its bytecode, as it does for those who serve."""
    kept = environment_without_settings()
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept


def sibling_python(environments: Path, name: str) -> Path:
    """The interpreter of a peer's environment, as `loadtests.peers.install` lays them out."""
    return Path(os.path.abspath(environments)) / name / "bin" / "python"  # noqa: PTH100 - keeps the venv's link
