"""Our own service, started as an operator starts it, for load to be sent to."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.settings import PREFIX, Settings
from loadtests.process import Process, environment_without_settings, running, unused_port, wait_until

# What would let the service answer without computing, under the names of its settings.
_SHORTCUTS_OFF = {"coalesce": "false", "cache_bytes": "0"}


@dataclass(frozen=True)
class Service:
    """A ready service."""

    url: str
    process: Process


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is served: --models, --name and --build."""
    add = parser.add_argument
    add("--models", type=Path, default=Path("models"), help="the model repository (%(default)s)")
    add("--name", default="sentiment-quality", help="the model; its highest version (%(default)s)")
    add("--build", help="the build to run (default: the one that the service picks)")


def command(models: Path, port: int, state: Path, names: Sequence[str]) -> list[str]:
    """The command line of a service of this machine alone; the first name answers by default."""
    flags = ["--models", str(models), "--port", str(port), "--state", str(state)]
    flags += ["--default-model", names[0], "--preload", ",".join(names), "--log-level", "error"]
    return [sys.executable, "-m", "app.cli", *flags]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, the given settings as BERTPRESS_* variables, and no shortcuts.

    Shortcuts are answers given without computing (cache, coalescing); a setting this version of the
    service does not have is left out.
    """
    off = {name: value for name, value in _SHORTCUTS_OFF.items() if name in Settings.model_fields}
    chosen = {PREFIX + name.upper(): value for name, value in {**off, **settings}.items()}
    return environment_without_settings() | chosen


@contextlib.contextmanager
def service(
    models: Path,
    names: Sequence[str],
    settings: Mapping[str, str] | None = None,
    build: str | None = None,
) -> Iterator[Service]:
    """A ready `bertpress-serve` on a free port of this machine, with all the named models loaded.

    `settings` are named as in `app.settings`, without the prefix; without a `build` the service picks one.
    """
    chosen = {**(settings or {}), **({"build": build} if build else {})}
    port = unused_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as scratch:
        started = command(models, port, Path(scratch) / "promoted.json", names)
        with running(started, environment=environment(chosen)) as process:
            wait_until(process, lambda: ready_models(url).issuperset(names))
            yield Service(url, process)


def ready_models(url: str) -> set[str]:
    """Names of the models that have a loaded version."""
    with urllib.request.urlopen(f"{url}/v1/models") as response:  # noqa: S310 - loopback, http
        answer = json.load(response)
    return {entry["name"] for entry in answer["models"] if entry["state"] == "ready"}
