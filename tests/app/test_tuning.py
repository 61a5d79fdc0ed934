from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from app.tuning import Measured, Place, Trial, Tuning

PLACE = Place("ab" * 32, "onnx-int8", "Some CPU", frozenset({"avx2", "vnni"}), 2, "onnxruntime 1.30")
MEASURED = Measured({1: {(1, 8): 0.001, (1, 256): 0.02}}, {1: Trial(100.0, 0.01), 2: Trial(90.0, 0.006)})


def test_what_is_kept_is_there_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "tuning.json"
    assert Tuning(path).get(PLACE) == Measured()
    assert Tuning(path).put(PLACE, MEASURED)
    assert Tuning(path).get(PLACE) == MEASURED


@pytest.mark.parametrize(
    "other",
    [
        replace(PLACE, sha256="cd" * 32),
        replace(PLACE, build="onnx-fp32"),
        replace(PLACE, cpu="Another CPU"),
        replace(PLACE, features=frozenset({"avx2"})),
        replace(PLACE, cores=4),
        replace(PLACE, runtime="onnxruntime 1.31"),
    ],
)
def test_another_place_has_measurements_of_its_own(tmp_path: Path, other: Place) -> None:
    tuning = Tuning(tmp_path / "tuning.json")
    tuning.put(PLACE, MEASURED)
    assert tuning.get(other) == Measured()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"schema_version": 2}',
        b'{"schema_version": 2, "entries": {"x": {"costs": {"1": [[1, 8, -1.0]]}, "trials": {}}}}',
        b'{"schema_version": 2, "entries": {"x": {"costs": {"1": [[1, 8, "NaN"]]}, "trials": {}}}}',
        b'{"schema_version": 2, "entries": {"x": {"costs": {"0": []}, "trials": {}}}}',
        b'{"schema_version": 1, "entries": {}}',
        b"\xff\xfe",
    ],
)
def test_a_file_that_makes_no_sense_is_a_log_line(
    tmp_path: Path, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tuning.json"
    path.write_bytes(body)
    tuning = Tuning(path)
    assert tuning.get(PLACE) == Measured()
    assert "measuring again" in caplog.text
    assert tuning.put(PLACE, MEASURED)
    assert Tuning(path).get(PLACE) == MEASURED


def test_a_file_that_cannot_be_read_or_written_is_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuning = Tuning(tmp_path)  # a folder
    assert "cannot be read" in caplog.text
    (tmp_path / "file").write_bytes(b"")
    tuning = Tuning(tmp_path / "file" / "tuning.json")
    assert not tuning.put(PLACE, MEASURED)
    assert "BERTPRESS_TUNING" in caplog.text
    assert tuning.get(PLACE) == MEASURED, "this process knows it all the same"


def test_the_latest_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    tuning = Tuning(path)
    for cores in range(1, 101):
        tuning.put(replace(PLACE, cores=cores), MEASURED)
        tuning.put(replace(PLACE, cores=1), MEASURED)
    assert len(json.loads(path.read_bytes())["entries"]) == 64
    assert Tuning(path).get(replace(PLACE, cores=100)) == MEASURED
    assert Tuning(path).get(replace(PLACE, cores=1)) == MEASURED
    assert Tuning(path).get(replace(PLACE, cores=2)) == Measured()


def test_from_several_threads(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path / "tuning.json")
    places = [replace(PLACE, cores=cores) for cores in range(1, 9)]
    threads = [threading.Thread(target=tuning.put, args=(place, MEASURED)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(Tuning(tmp_path / "tuning.json").get(place) == MEASURED for place in places)


def test_what_is_measured_adds_up() -> None:
    measured = Measured().with_cost(1, {(1, 8): 0.1}).with_cost(2, {(1, 8): 0.06})
    measured = measured.with_trials({1: Trial(10.0, 0.1)}).with_trials({2: Trial(12.0, 0.2)})
    assert measured.costs == {1: {(1, 8): 0.1}, 2: {(1, 8): 0.06}}
    assert measured.best_rate == 12.0
    assert Measured().best_rate is None
