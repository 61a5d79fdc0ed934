"""The command over versions that a run published, and the service that serves what it made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app import artifact
from app.artifact import CascadeManifest
from app.main import create_app
from app.settings import Settings
from compression.benchmark import latest_versions
from compression.cascade.answering import open_cascade
from compression.cascade.thresholds import outcome
from compression.cascade.tiers import ask, open_tier
from compression.cli import main
from compression.data import DataSettings, load
from tests.compression.finished import Finished
from tests.compression.tiny import made_up_reviews


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def repository(finished: Finished, tmp_path: Path) -> Path:
    """A copy of what the run published, to be published into."""
    shutil.copytree(finished.request.repository, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def command(finished: Finished, repository: Path) -> list[str]:
    data = finished.request.data[0]
    return ["cascade", "--models", str(repository), "--data", data, "--tier", "small", "--tier", "whole/1"]


def made(repository: Path, name: str = "cascade", version: int = 1) -> CascadeManifest:
    manifest = artifact.read_any(repository / name / str(version))
    assert isinstance(manifest, CascadeManifest)
    return manifest


def test_the_manifest_says_what_was_fitted(
    command: list[str], repository: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--retention", "0.95", "--name", "both", "--description", "Two."]) == 0
    manifest = made(repository, "both")
    assert [(tier.name, tier.version) for tier in manifest.tiers] == [("small", 1), ("whole", 1)]
    for tier in manifest.tiers:
        assert tier.sha256 == artifact.read(repository / tier.name / str(tier.version)).identity
        assert tier.cost_ms > 0
    # Tiers are named, never copied.
    assert [path.name for path in (repository / "both/1").iterdir()] == ["manifest.json"]
    fitted = manifest.fitted
    assert manifest.floor.accuracy == pytest.approx(0.95 * fitted.alone[-1])
    assert fitted.accuracy >= manifest.floor.accuracy
    assert (fitted.split, manifest.quality[0].split, manifest.quality[0].n) == ("validation", "test", 160)
    assert (manifest.description, manifest.heads[0].labels) == ("Two.", ("negative", "positive"))

    # The figures are those of the thresholds, on texts that took no part in finding them.
    dataset = load(finished.request.data[0], DataSettings())
    assert dataset.test is not None
    labels = np.asarray(dataset.test.labels)
    tiers = [open_tier(repository, name) for name in ("small", "whole")]
    asked = [
        ask(tier, dataset.test.texts, labels, stated.cost_ms)
        for tier, stated in zip(tiers, manifest.tiers, strict=True)
    ]
    threshold = manifest.tiers[0].threshold
    assert threshold is not None
    expected = outcome(asked, [threshold])
    assert manifest.quality[0].shares == pytest.approx(expected.shares)
    assert manifest.quality[0].accuracy == pytest.approx(expected.accuracy)
    assert manifest.quality[0].cost_ms == pytest.approx(expected.cost_ms)
    printed = capsys.readouterr().out
    assert f"{threshold:.4f}" in printed
    assert "both/1" in printed


@pytest.mark.anyio
async def test_what_was_made_is_served(command: list[str], repository: Path, tmp_path: Path) -> None:
    assert main([*command, "--retention", "0.9"]) == 0
    threshold = made(repository).tiers[0].threshold
    assert threshold is not None
    app = create_app(
        Settings(models=repository, default_model="cascade", state=tmp_path / "state.json", tune=False)
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http,
    ):
        await app.state.start

        async def ask_for(text: str, **fields: str) -> dict[str, Any]:
            reply = await http.post("/v1/predict", json={"inputs": text, **fields})
            assert reply.status_code == 200, reply.text
            (found,) = reply.json()["predictions"]
            return dict(found)

        ways = set()
        for text, _ in made_up_reviews()[900:932]:
            first, last = await ask_for(text, model="small"), await ask_for(text, model="whole")
            stands = first["score"] >= threshold
            expected = {**first, "tier": "small/1"} if stands else {**last, "tier": "whole/1"}
            assert await ask_for(text) == expected
            ways.add(stands)
    assert True in ways


def test_what_was_made_is_judged_as_any_other_version(
    command: list[str], repository: Path, finished: Finished, tmp_path: Path
) -> None:
    assert main([*command, "--retention", "0.95"]) == 0
    manifest, data = made(repository), finished.request.data[0]
    cascade = open_cascade(repository / "cascade/1")
    threshold = manifest.tiers[0].threshold
    assert threshold is not None
    first, last = cascade.tiers
    for text, _ in made_up_reviews()[900:932]:
        sure = first.probabilities(text)
        expected = sure if sure.max() >= threshold else last.probabilities(text)
        assert cascade.probabilities(text).tolist() == expected.tolist()

    judged = tmp_path / "judged.json"
    options = ["--data", data, "--work", str(tmp_path / "work"), "--json", str(judged)]
    assert main(["evaluate", "--model", str(repository / "cascade/1"), *options]) == 0
    (found,) = json.loads(judged.read_text())
    assert found["name"] == "cascade/1"
    assert found["accuracy"]["value"] == pytest.approx(manifest.quality[0].accuracy)
    assert found["n"] == manifest.quality[0].n

    assert main(["pairs", "--models", str(repository), "--json", str(judged)]) == 0
    scores = json.loads(judged.read_text())
    assert list(scores) == ["cascade/1", "small/1", "whole/1"]
    assert scores["cascade/1"][-1]["pairs"] == 240


def test_a_cascade_whose_tier_is_another_answers_nothing(
    command: list[str], repository: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--retention", "0.95"]) == 0
    evaluate = ["evaluate", "--model", str(repository / "cascade/1"), "--data", finished.request.data[0]]
    assert main([*evaluate, "--build", "onnx"]) == 1
    assert "cascade/1 is a cascade and has no builds" in capsys.readouterr().err
    path = repository / "small/1/manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "calibration_temperature": 2.5}))
    assert main(evaluate) == 1
    assert "small/1 is not the version that cascade/1 was fitted to" in capsys.readouterr().err


def test_a_second_run_is_the_next_version_and_other_commands_pass_it_by(
    command: list[str], repository: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert main([*command, "--retention", "0.9", "--json", str(tmp_path / "cascade.json")]) == 0
    assert artifact.versions(repository, "cascade") == [1, 2]
    assert json.loads((tmp_path / "cascade.json").read_text())["version"] == 2
    assert [folder.parent.name for folder, _ in latest_versions(repository)] == ["small", "whole"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--accuracy", "1.0", "--tier", "small"], "a version is given twice"),
        (["--accuracy", "0.9", "--tier", "absent"], "holds no absent; it has small, whole"),
        (["--accuracy", "0.9", "--tier", "small/9"], "holds no small/9"),
        (["--accuracy", "0.9", "--name", "No Name"], "--name 'No Name'"),
    ],
)
def test_what_cannot_be_is_refused(
    command: list[str],
    repository: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command, *options]) == 1
    assert message in capsys.readouterr().err
    assert not (repository / "cascade").exists()


def test_one_tier_is_none(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command[:-2], "--accuracy", "0.9"]) == 1
    assert "at least two tiers" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "1.5", "many"])
def test_a_floor_is_a_share(command: list[str], share: str) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--accuracy", share])
