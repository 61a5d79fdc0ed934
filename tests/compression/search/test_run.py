from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app import artifact
from compression.search import goals, outcome, picture
from compression.search.judging import Yardstick
from compression.search.outcome import Outcome
from compression.search.worker import Limits
from tests.compression.finished import Finished
from tests.compression.search.tiny_search import lay_out, request, search

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def searched(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A whole search, made once."""
    root = lay_out(finished, tmp_path_factory.mktemp("search"))
    return root, search(request(root))


def test_a_search_leaves_its_frontier_as_versions(searched: tuple[Path, Outcome]) -> None:
    root, found = searched
    assert found.exit_code == 0
    assert len(found.cheap) == 6
    assert len(found.full) >= 2
    assert found.frontier
    for entry in found.frontier:
        assert entry.version is not None
        folder = root / "models" / entry.version
        manifest = artifact.read(folder)
        artifact.verify(folder, manifest)
        assert manifest.architecture.layers == entry.rates.layers
        assert entry.values is not None
        assert entry.values["size"] == manifest.bytes
        assert entry.values["published_split"] == "test"
    assert found.best == found.frontier[0]


def test_the_best_first_artifact_is_there_after_the_first_trial(searched: tuple[Path, Outcome]) -> None:
    """The mildest rates are tried first and published at once: a teacher that is only quantized."""
    _, found = searched
    first = min(found.full, key=lambda entry: entry.number)
    assert first.version == "found/1"
    assert (first.rates.layers, first.rates.heads, first.rates.ffn) == (3, 0.0, 0.0)


def test_what_was_tried_is_different_every_time(searched: tuple[Path, Outcome]) -> None:
    _, found = searched
    assert len({entry.rates for entry in found.cheap}) == len(found.cheap)


def test_gone_on_with_it_repeats_nothing(
    searched: tuple[Path, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, found = searched
    monkeypatch.setattr(Yardstick, "measure", lambda *_: pytest.fail("a trial was measured again"))
    again = search(request(root))
    assert {entry.number for entry in again.full} == {entry.number for entry in found.full}
    assert artifact.versions(root / "models", "found") == sorted(
        int(str(entry.version).partition("/")[2]) for entry in found.full if entry.version
    )


def test_json_and_verdict(searched: tuple[Path, Outcome], tmp_path: Path) -> None:
    _, found = searched
    outcome.write_json(found, tmp_path / "deep" / "search.json")
    told = json.loads((tmp_path / "deep" / "search.json").read_text())
    assert told["met"] is True
    assert told["frontier"] == [entry.number for entry in found.frontier]
    assert {"size", "latency", "retention"} == set(told["axes"])
    assert outcome.verdict(found).startswith(f"Found: {found.frontier[0].version}")


def test_what_cannot_be_had(searched: tuple[Path, Outcome]) -> None:
    """What was measured for other goals is known: nothing is trained for this answer but what is nearest."""
    root, _ = searched
    found = search(request(root, goals=goals.goals(["size=1kB"], [], ["latency"], [])))
    assert found.exit_code == outcome.NOT_MET
    assert found.best is not None
    assert found.best.values is not None
    smallest = min(entry.values["size"] for entry in found.full if entry.values)
    assert found.best.values["size"] == smallest
    told = outcome.verdict(found)
    assert told.startswith(f"Not met: size at most 1.00 kB (the nearest has {smallest / 1e3:.2f} kB).")
    assert f"The nearest is {found.best.version}" in told


def test_the_picture(searched: tuple[Path, Outcome], tmp_path: Path) -> None:
    _, found = searched
    picture.draw(outcome.as_json(found), tmp_path / "pictures" / "frontier.svg")
    drawn = (tmp_path / "pictures" / "frontier.svg").read_text()
    assert drawn.count('id="axes_') == 2  # latency and size
    assert f"frontier ({len(found.frontier)})" in drawn or "<!-- frontier" in drawn


def _worker(root: Path, trials: int) -> subprocess.Popen[str]:
    """A search as a process of its own."""
    command = [sys.executable, "-m", "tests.compression.search.tiny_search", str(root), str(trials)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _wait_for(pattern: str, root: Path, process: subprocess.Popen[str]) -> None:
    """Until such a file is there; a process that ended before is told."""
    while not list(root.glob(pattern)):
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        time.sleep(0.02)


def _check(root: Path, found: Outcome, cheap: int) -> None:
    """Every trial once, every version once and whole."""
    assert len(found.cheap) == cheap
    assert outcome.failures(found) == []
    versions = [entry.version for entry in found.full if entry.version]
    assert len(versions) == len(set(versions)) > 0
    assert sorted(versions) == sorted(f"found/{n}" for n in artifact.versions(root / "models", "found"))
    for name in versions:
        artifact.verify(root / "models" / name, artifact.read(root / "models" / name))


def test_killed_in_the_middle_it_goes_on(finished: Finished, tmp_path: Path) -> None:
    root = lay_out(finished, tmp_path)
    process = _worker(root, 4)
    # The second cheap trial trains: the first, whose rates take nothing away, has nothing to distil.
    _wait_for("work/stages/distilled-*/training", root, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in root.glob("work/stages/*/stage.json")}
    assert done
    found = search(request(root, limits=Limits(trials=4, budget_seconds=None)))
    _check(root, found, cheap=4)
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_two_workers_on_one_folder(finished: Finished, tmp_path: Path) -> None:
    root = lay_out(finished, tmp_path)
    process = _worker(root, 6)
    _wait_for("work/search/book.log", root, process)
    found = search(request(root))
    told = process.communicate()[1]
    assert process.returncode == 0, told
    again = search(request(root))  # the other one may have ended last
    _check(root, again, cheap=6)
    assert len(found.cheap) <= 6
