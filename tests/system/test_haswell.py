"""On a CPU without VNNI: the whole service, emulated, with the models that are shipped.

Unsigned activations times signed weights saturate silently there, so a build that needs VNNI would load and
answer wrong. Emulation is exact, and slow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app import artifact
from loadtests.process import running, unused_port, wait_until
from loadtests.server import ready_models
from tests.system.conftest import ROOT, SHIPPED_MODELS, environment

pytestmark = pytest.mark.system

# Every Haswell has AVX2; no emulated one has AVX-512 or VNNI.
CPU = "Haswell"
START_SECONDS = 600.0
TIMEOUT_SECONDS = 300
FOLDERS = artifact.newest_folders(SHIPPED_MODELS)
NAMES = list(FOLDERS)
CASCADES = [
    name
    for name, folder in FOLDERS.items()
    if isinstance(artifact.read_any(folder), artifact.CascadeManifest)
]


@pytest.fixture(scope="module")
def haswell_url(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Iterator[str]:
    """A ready service on an emulated Haswell, every shipped model loaded."""
    folder, port = tmp_path_factory.mktemp("haswell"), unused_port()
    flags = ["--port", str(port), "--models", str(SHIPPED_MODELS), "--state", str(folder / "promoted.json")]
    flags += ["--default-model", NAMES[0], "--preload", ",".join(NAMES)]
    command = [program("qemu-x86_64"), "-cpu", CPU, sys.executable, "-m", "app.cli", *flags]
    limits = {"BERTPRESS_MAX_TIMEOUT_MS": str(TIMEOUT_SECONDS * 1000)}
    with running(command, environment=environment() | limits, folder=ROOT) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until(process, lambda: ready_models(url).issuperset(NAMES), give_up_seconds=START_SECONDS)
        yield url


def test_models_are_shipped() -> None:
    assert NAMES


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(CASCADES)))
def test_a_build_that_is_right_here_is_picked_and_reproduces_its_probes(haswell_url: str, name: str) -> None:
    rows = httpx.get(f"{haswell_url}/v1/models", timeout=TIMEOUT_SECONDS).json()["models"]
    row = next(row for row in rows if row["name"] == name and row["state"] == "ready")
    manifest = artifact.read(Path(SHIPPED_MODELS, name, str(row["version"])))

    # a version is ready only once every probe has given its published logits
    assert manifest.probes
    build = next(build for build in manifest.builds if build.name == row["build"])
    assert set(build.needs) <= {"avx2"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("text", "label"), [("a great film", "positive"), ("a dull film", "negative")])
def test_it_answers(haswell_url: str, name: str, text: str, label: str) -> None:
    body = {"inputs": text, "model": name, "timeout_ms": TIMEOUT_SECONDS * 1000}

    reply = httpx.post(f"{haswell_url}/v1/predict", json=body, timeout=TIMEOUT_SECONDS)

    assert reply.status_code == 200, reply.text
    assert reply.json()["predictions"][0]["label"] == label
