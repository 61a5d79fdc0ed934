"""Each tracker on a real training of a tiny model; its figures are read back from what it wrote."""

from __future__ import annotations

import importlib
import json
import logging
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import tracking as accelerated

from app.errors import TrackingError
from compression import api, tracking
from compression.batches import Rows
from compression.cli import main
from compression.teacher import true_labels
from compression.tracking import METRICS_FILE, NAMES, Tracking, read
from compression.training import Report, silent, train
from tests.compression.finished import Finished
from tests.compression.tiny import rows_of, tiny_model, training

# Four steps, an evaluation after each, a checkpoint after each.
SETTINGS = training(epochs=2, evaluations_per_epoch=2, checkpoint_seconds=0, patience=9)
STEPS = (1, 2, 3, 4)
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:DeprecationWarning"  # MLflow's own use of SQLAlchemy
)
Series = dict[str, dict[int, float]]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaves this machine."""
    for name, value in (
        ("WANDB_MODE", "offline"),
        ("WANDB_SILENT", "true"),
        ("WANDB_ERROR_REPORTING", "false"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
    ):
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def data(tmp_path: Path) -> tuple[Rows, Rows]:
    return rows_of(32, tmp_path / "data"), rows_of(16, tmp_path / "data", start=32)


def run(
    data: tuple[Rows, Rows], work: Path, names: tuple[str, ...], report: Report = silent
) -> dict[str, torch.Tensor]:
    """Train a tiny model as the stage `distilled-0123`; gives its weights."""
    model = tiny_model(layers=1)
    folder = work / "stages" / "distilled-0123" / "training"
    train(model, true_labels, *data, SETTINGS, folder, report, tracking=Tracking(names, work))
    return dict(model.state_dict())


def local(work: Path) -> Series:
    """What the metrics file of the training says: by figure, then by step."""
    (file,) = work.rglob(METRICS_FILE)
    series: Series = {}
    for line in read(file):
        for name, value in line.items():
            series.setdefault(name, {})[int(line["step"])] = value
    del series["step"]
    return series


def from_tensorboard(work: Path) -> tuple[str, Series, str]:
    """The run's name, its figures, and its configuration as it stands in a file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = work / "tracking" / "tensorboard"
    (event_file,) = folder.glob("*/events.out.*")
    accumulator = EventAccumulator(str(event_file))
    accumulator.Reload()
    series = {
        name: {event.step: event.value for event in accumulator.Scalars(name)}
        for name in accumulator.Tags()["scalars"]
    }
    (settings,) = folder.rglob("hparams.yml")
    return str(event_file.parent.relative_to(folder)), series, settings.read_text()


def the_run_of_mlflow(work: Path) -> tuple[Any, Any]:
    """The store, and the only run in it."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{work / 'tracking' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("bertpress")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found


def from_mlflow(work: Path) -> tuple[str, Series, str]:
    client, found = the_run_of_mlflow(work)
    assert found.info.status == "FINISHED"
    series = {
        name: {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, name)}
        for name in found.data.metrics
    }
    settings = "".join(f"{name}: {value}\n" for name, value in found.data.params.items())
    return found.info.run_name, series, settings


def from_wandb(work: Path) -> tuple[str, Series, str]:
    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    (file,) = (work / "tracking" / "wandb").glob("offline-run-*/run-*.wandb")
    name, settings = "", dict[str, str]()
    series: Series = {}
    for body in _records(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(body)
        name = record.run.display_name or name
        for item in [*record.run.config.update, *record.config.update]:
            settings[item.key] = item.value_json
        values = {
            item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
        }
        for key, value in values.items():
            if not key.startswith("_"):
                series.setdefault(key, {})[int(values["_step"])] = value
    return name, series, "".join(f"{key}: {value}\n" for key, value in settings.items())


def _records(log: bytes) -> list[bytes]:
    """The records of a W&B file, which is in LevelDB's log format after seven bytes of its own: blocks of
    32 KiB, every piece with a checksum, a length, and whether it is whole (1), first, middle or last (4)."""
    records, held, at = [], b"", 7
    while at + 7 <= len(log):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", log, at + 4)
        held += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            records.append(held)
            held = b""
    return records


READERS: dict[str, Callable[[Path], tuple[str, Series, str]]] = {
    "wandb": from_wandb,
    "tensorboard": from_tensorboard,
    "mlflow": from_mlflow,
}


def test_every_tracker_there_is_is_read_back_here() -> None:
    assert READERS.keys() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_is_told_what_the_file_is_told(name: str, data: tuple[Rows, Rows], tmp_path: Path) -> None:
    run(data, tmp_path / "work", (name,))
    run_name, series, settings = READERS[name](tmp_path / "work")
    assert run_name == "distilled-0123"
    expected = local(tmp_path / "work")
    assert set(expected) >= {"training_loss", "validation_loss", "validation_accuracy", "learning_rate"}
    assert {figure: tuple(values) for figure, values in series.items()} == dict.fromkeys(expected, STEPS)
    for figure, values in expected.items():
        assert series[figure] == pytest.approx(values, rel=1e-6), figure
    for line in (f"rows_per_step: {SETTINGS.rows_per_step}", "rows: 32", "steps: 4"):
        assert line in settings.splitlines()


def test_all_of_them_at_once_change_nothing_of_the_model(data: tuple[Rows, Rows], tmp_path: Path) -> None:
    tracked, alone = run(data, tmp_path / "tracked", NAMES), run(data, tmp_path / "alone", ())
    assert all(torch.equal(tracked[name], alone[name]) for name in alone)
    assert not (tmp_path / "alone" / "tracking").exists()
    for reader in READERS.values():
        assert reader(tmp_path / "tracked")[1].keys() == local(tmp_path / "alone").keys()


def test_a_resumed_training_goes_on_in_the_same_runs(data: tuple[Rows, Rows], tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    def kill(done: int, _total: int, _note: str) -> None:
        if done == 3:
            raise KilledError

    with pytest.raises(KilledError):
        run(data, tmp_path, NAMES, kill)
    assert tuple(local(tmp_path)["training_loss"]) == (1, 2)
    run(data, tmp_path, NAMES)
    (file,) = tmp_path.rglob(METRICS_FILE)
    assert [line["step"] for line in read(file) if "learning_rate" in line] == list(STEPS)
    name, series, _ = from_mlflow(tmp_path)  # there is one run, and it is FINISHED
    assert (name, tuple(series["validation_loss"])) == ("distilled-0123", STEPS)
    assert len(list((tmp_path / "tracking" / "tensorboard").iterdir())) == 1
    files = list((tmp_path / "tracking" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert (len(files), len({file.name for file in files})) == (2, 1)  # `wandb sync` makes one run of them


def test_an_unfinished_training_is_marked_as_failed(data: tuple[Rows, Rows], tmp_path: Path) -> None:
    def stop(done: int, _total: int, _note: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, ("mlflow",), stop)
    _, found = the_run_of_mlflow(tmp_path)
    assert found.info.status == "FAILED"


@pytest.mark.parametrize("failing", ["start", "store_init_configuration", "log", "finish"])
def test_a_tracker_that_fails_costs_the_training_nothing(
    failing: str,
    data: tuple[Rows, Rows],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server is away\nfor long")

    monkeypatch.setattr(accelerated.TensorBoardTracker, failing, broken)
    with caplog.at_level(logging.WARNING, tracking.__name__):
        tracked = run(data, tmp_path / "tracked", ("tensorboard", "mlflow"))
    told = [record.getMessage() for record in caplog.records if record.name == tracking.__name__]
    assert len(told) == 1
    assert "tensorboard" in told[0]
    assert "ConnectionError: the server is away" in told[0]
    assert "for long" not in told[0]
    alone = run(data, tmp_path / "alone", ())
    assert all(torch.equal(tracked[name], alone[name]) for name in alone)
    assert tuple(from_mlflow(tmp_path / "tracked")[1]["training_loss"]) == STEPS


def test_a_run_is_named_by_its_stage(tmp_path: Path) -> None:
    names = Tracking((), tmp_path).run_name
    assert names(tmp_path / "stages" / "pruned-01" / "step-2" / "training") == "pruned-01/step-2"
    assert names(tmp_path / "stages" / "closed-01" / "try-1") == "closed-01/try-1"
    assert names(tmp_path / "elsewhere") == "elsewhere"


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read(tmp_path / METRICS_FILE) == [{"step": 1, "loss": 2.0}]
    assert read(tmp_path / "nothing.jsonl") == []


def test_a_long_training_is_told_in_a_few_hundred_points() -> None:
    told = [step for step in range(1, 12_346) if tracking.is_due(step, 12_345)]
    assert 400 < len(told) < 600
    assert told[-1] == 12_345


def train_command(finished: Finished, place: Path, *more: str) -> list[str]:
    (backbone,) = [finished.request.backbone]
    assert backbone is not None
    source = ["--backbone", backbone, "--data", finished.request.data[0], "--max-tokens", "16"]
    where = ["--output", str(place / "out"), "--work", str(place / "work")]
    return ["train", *source, *where, "--epochs", "0.2", "--precision", "fp32", *more]


def test_the_command_tells_who_it_is_asked_to_tell(finished: Finished, tmp_path: Path) -> None:
    assert main(train_command(finished, tmp_path, "--track", "wandb,tensorboard", "--track", "mlflow")) == 0
    expected = local(tmp_path / "work")
    for reader in READERS.values():
        name, series, settings = reader(tmp_path / "work")
        assert name.startswith("finetune-")
        assert series["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-6)
        assert "learning_rate: " in settings


def test_trackers_are_no_part_of_what_is_made(finished: Finished, tmp_path: Path) -> None:
    assert main(train_command(finished, tmp_path)) == 0
    api.train(
        str(finished.request.backbone),
        tmp_path / "again",
        {"training": {"epochs": 0.2, "precision": "fp32"}},
        data=finished.request.data[0],
        text={"max_tokens": 16},
        work=tmp_path / "work",
        trackers=["tensorboard"],
    )
    assert len(list((tmp_path / "work" / "stages").glob("finetune-*"))) == 1
    assert not (tmp_path / "work" / "tracking").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_read(
    name: str,
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tracking, "_is_there", lambda _: False)
    assert main(train_command(finished, tmp_path, "--track", name)) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"bertpress: tracker {name} needs {name}")
    assert "pip install 'bertpress[tracking]'" in told
    assert not (tmp_path / "work").exists()


def test_an_unknown_tracker_is_refused_by_a_whole_run(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--backbone", str(finished.request.backbone), "--data", finished.request.data[0]]
    where = ["--output", str(tmp_path / "models"), "--work", str(tmp_path / "work")]
    assert main(["compress", *source, *where, "--track", "tensorbord"]) == 1
    assert "there is no tracker 'tensorbord'; there are wandb, tensorboard, mlflow" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_weights_and_biases_without_a_login_is_refused_at_once(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_SILENT": "true"}
    code = "from compression.tracking import Tracking; Tracking(('wandb',)).check()"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 1
    assert f"{TrackingError.__name__}: tracker wandb: " in ended.stderr
    assert "WANDB_MODE=offline" in ended.stderr
