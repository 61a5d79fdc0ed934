"""The README's commands do what it says, against the shipped models."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import artifact
from app.cli import parser as serve_parser
from compression.cli import parser as suite_parser
from loadtests.open_loop import parser as load_parser
from loadtests.process import unused_port

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = ROOT / "models"
TOKEN = "a-token-for-this-test"
START_SECONDS = 60.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Every command line in the README, continuation lines joined, comments and line ends cut."""
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [re.sub(r"\s+#.*$", "", line).strip() for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The shipped models, served as `make serve` serves them, on a free port."""
    port, folder = unused_port(), tmp_path_factory.mktemp("service")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BERTPRESS_")}
    chosen = {"BERTPRESS_DEFAULT_MODEL": "sentiment-quality", "BERTPRESS_ADMIN_TOKEN": TOKEN}
    flags = ["--port", str(port), "--models", str(MODELS), "--state", str(folder / "promoted.json")]
    process = subprocess.Popen([sys.executable, "-m", "app.cli", *flags], env=kept | chosen, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + START_SECONDS
        while not ready(url):
            assert process.poll() is None, f"the service left with {process.returncode}"
            assert time.monotonic() < give_up, "the service did not become ready"
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready"):  # noqa: S310 - loopback
            return True
    except urllib.error.URLError:
        return False


def run_curl(command: str, url: str) -> dict[str, object]:
    """Do what one of the README's curl commands does, against another port and without curl."""
    curl = argparse.ArgumentParser()
    curl.add_argument("url")
    curl.add_argument("-s", action="store_true")
    curl.add_argument("-X", default=None)
    curl.add_argument("-H", action="append", default=[])
    curl.add_argument("-d", default=None)
    adapted = command.replace("http://127.0.0.1:8000", url).replace("$BERTPRESS_ADMIN_TOKEN", TOKEN)
    options = curl.parse_args(shlex.split(adapted)[1:])
    headers = dict(header.split(": ", 1) for header in options.H)
    body = None if options.d is None else options.d.encode()
    request = urllib.request.Request(options.url, data=body, headers=headers, method=options.X)  # noqa: S310
    with urllib.request.urlopen(request) as response:  # noqa: S310 - loopback
        answer = json.load(response)
    assert isinstance(answer, dict)
    return answer


def test_the_first_curl_answers_what_the_readme_shows(service: str) -> None:
    command = next(line for line in commands() if line.startswith("curl") and "/v1/predict" in line)
    answer, shown = run_curl(command, service), json.loads(blocks("json")[0])
    assert answer.keys() == shown.keys()
    assert (answer["model"], answer["version"]) == (shown["model"], shown["version"])
    got, told = answer["predictions"][0], shown["predictions"][0]  # type: ignore[index]
    assert got["label"] == told["label"]
    assert got["score"] == pytest.approx(told["score"], abs=0.05)
    assert (got["tokens"], got["truncated"]) == (told["tokens"], told["truncated"])


def test_the_swap_answers_with_the_other_variant(service: str) -> None:
    swaps = [line for line in commands() if line.startswith("curl") and "/admin/" in line]
    assert len(swaps) == 2
    for command in swaps:
        assert "error" not in run_curl(command, service)
    predict = next(line for line in commands() if line.startswith("curl") and "/v1/predict" in line)
    assert run_curl(predict, service)["model"] == "sentiment-fast"


def test_every_make_target_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z][\w-]*)", README))
    assert named <= targets
    assert {"serve", "test", "check", "compress", "bench", "docker"} <= targets


def test_every_command_line_parses() -> None:
    parsers = {"bertpress": suite_parser, "bertpress-serve": serve_parser}
    parsed = 0
    for line in commands():
        name, *arguments = shlex.split(line)
        if name in parsers:
            parsers[name]().parse_args(arguments)
            parsed += 1
        if line.startswith("python -m loadtests.open_loop"):
            load_parser().parse_args(arguments[2:])
            parsed += 1
    assert parsed >= 4


def shipped() -> dict[Path, artifact.Manifest | artifact.CascadeManifest]:
    """The highest version of every model in the repository, by folder."""
    return {folder: artifact.read_any(folder) for folder in artifact.newest_folders(MODELS).values()}


def test_the_shipped_models_are_whole_and_small() -> None:
    sizes = {}
    for folder, manifest in shipped().items():
        artifact.verify(folder, manifest)
        if isinstance(manifest, artifact.CascadeManifest):
            continue  # its tiers are counted by themselves
        assert sum(build.bytes for build in manifest.builds) < 25_000_000
        sizes[manifest.name] = sum(path.stat().st_size for path in folder.iterdir())
    assert set(sizes) == {"sentiment-quality", "sentiment-balanced", "sentiment-fast", "sentiment-ngrams"}
    assert sum(sizes.values()) < 40_000_000


def test_the_shipped_cascades_name_the_shipped_tiers() -> None:
    cascades = [found for found in shipped().values() if isinstance(found, artifact.CascadeManifest)]
    assert cascades
    for tier in (tier for cascade in cascades for tier in cascade.tiers):
        assert artifact.read(MODELS / tier.name / str(tier.version)).identity == tier.sha256, tier.name


def test_the_figures_in_the_readme_are_the_manifests() -> None:
    for manifest in shipped().values():
        quality = manifest.quality[0]
        row = next(line for line in README.splitlines() if line.startswith(f"| `{manifest.name}`"))
        assert f"{quality.accuracy:.2%}".replace("%", " %") in row
        assert quality.n == 25_000 or f"{quality.n:,} reviews" in row
