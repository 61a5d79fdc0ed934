"""Who is told of a training's figures: a local file always; Weights & Biases, TensorBoard, MLflow if asked.

The three are accelerate's trackers. They only look on: one that fails in the middle is left out from there
on, and the training does not notice. Nothing here enters the key of a stage.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from accelerate import tracking as accelerated

from app.errors import TrackingError

# One line of JSON for each figure that was told, in the folder of the training.
METRICS_FILE = "metrics.jsonl"
_RUNS_FILE = "trackers.json"
_POINTS = 500  # of a training; a tracker that is told of every step would slow a short one down
_PROJECT = "bertpress"
_MLFLOW_STORE = "tracking/mlflow.db"
# Modules that a tracker needs, and what pip installs them by.
_NEEDED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "wandb": {"wandb": "wandb"},
        "tensorboard": {"tensorboard": "tensorboard"},
        "mlflow": {"mlflow": "mlflow-skinny", "sqlalchemy": "sqlalchemy", "alembic": "alembic"},
    }
)
NAMES = tuple(_NEEDED)
_log = logging.getLogger(__name__)

Value = str | int | float | bool
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Tracking:
    """Which trackers are told of every training of a run; what they write locally is in `work/tracking`."""

    names: tuple[str, ...] = ()
    work: Path = Path(".bertpress")

    def check(self) -> None:
        """Find out before anything is trained whether they can be used.

        Raises:
            TrackingError: one that there is not, that is not installed, or that nobody is logged in to.
        """
        for name in self.names:
            if name not in _NEEDED:
                raise TrackingError(f"there is no tracker {name[:40]!r}; there are {', '.join(NAMES)}")
            missing = [pip for module, pip in _NEEDED[name].items() if not _is_there(module)]
            if missing:
                raise TrackingError(
                    f"tracker {name} needs {', '.join(missing)}, which is not installed; "
                    "run: pip install 'bertpress[tracking]'"
                )
        if "wandb" in self.names:
            _check_login()

    @contextmanager
    def of(self, folder: Path, config: Mapping[str, Any], step: int) -> Iterator[Tracked]:
        """The trackers of one training, which is at `step`; `folder` is the training's, and names it."""
        tracked = Tracked(folder, step, self._started(folder, _flat(config), step))
        try:
            yield tracked
        except BaseException:
            tracked.finish(failed=True)
            raise
        tracked.finish(failed=False)

    def _started(self, folder: Path, config: Mapping[str, Value], step: int) -> dict[str, Any]:
        known, trackers = _runs(folder), {}
        for name in self.names:
            with _onlooker(name):
                start = _STARTS[name]
                trackers[name] = start(self.run_name(folder), self.work / "tracking", known.get(name), step)
                if name not in known:  # it is told once; MLflow refuses to be told again
                    trackers[name].store_init_configuration(dict(config))
                    known[name] = _identity(name, trackers[name])
        if self.names:
            (folder / _RUNS_FILE).write_text(json.dumps(known), encoding="utf-8")
        return trackers

    def run_name(self, folder: Path) -> str:
        """The stage, and what is below it: `pruned-0123456789ab/step-1`."""
        stages = (self.work / "stages").resolve()
        folder = folder.resolve()
        named = folder.relative_to(stages) if folder.is_relative_to(stages) else Path(folder.name)
        return str(named.parent if named.name == "training" and named.parent.name else named)


# No tracker: the file alone.
LOCAL = Tracking()


class Tracked:
    """One training under observation."""

    def __init__(self, folder: Path, step: int, trackers: dict[str, Any]) -> None:
        self._file, self._trackers = folder / METRICS_FILE, trackers
        # What an interrupted run told of steps after its last checkpoint is told again.
        kept = [line for line in read(self._file) if line["step"] <= step]
        self._file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def log(self, figures: Figures, step: int) -> None:
        """Tell the file and every tracker that still listens."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name in list(self._trackers):
            with _onlooker(name, self._leave_out):
                self._trackers[name].log(dict(figures), step=step)

    def finish(self, *, failed: bool) -> None:
        """Let everyone go."""
        for name, tracker in self._trackers.items():
            with _onlooker(name):
                if failed and name in _FAILURES:
                    _FAILURES[name](tracker)
                else:
                    tracker.finish()
        self._trackers = {}

    def _leave_out(self, name: str) -> None:
        tracker = self._trackers.pop(name)
        with _onlooker(name):
            tracker.finish()


def is_due(step: int, total: int) -> bool:
    """Whether a step is one of the few hundred that are told."""
    return step % max(1, total // _POINTS) == 0 or step == total


def read(file: Path) -> list[dict[str, float]]:
    """What a training told, in order; a last line that was cut short is left out."""
    if not file.is_file():
        return []
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


@contextmanager
def _onlooker(name: str, then: Callable[[str], None] | None = None) -> Iterator[None]:
    """Whatever a tracker raises is told and goes no further."""
    try:
        yield
    except Exception as error:  # each of the three has errors of its own, and none of them matters here
        told = str(error).partition("\n")[0]
        _log.warning(
            "tracker %s failed and is not told of the rest of this training: %s: %s",
            name,
            type(error).__name__,
            told,
        )
        if then is not None:
            then(name)


def _start_wandb(run: str, folder: Path, known: str | None, _: int) -> Any:
    wandb = importlib.import_module("wandb")
    folder.mkdir(parents=True, exist_ok=True)
    tracker = accelerated.WandBTracker(
        os.environ.get("WANDB_PROJECT", _PROJECT),
        name=run,
        dir=str(folder.resolve()),
        id=known or uuid4().hex[:12],
        resume="allow",
        settings=wandb.Settings(console="off", quiet=True),
    )
    tracker.start()
    return tracker


def _start_tensorboard(run: str, folder: Path, known: str | None, step: int) -> Any:
    purge = None if known is None else step + 1
    tracker = accelerated.TensorBoardTracker(run, str(folder / "tensorboard"), purge_step=purge)
    tracker.start()
    return tracker


def _start_mlflow(run: str, folder: Path, known: str | None, _: int) -> Any:
    mlflow = importlib.import_module("mlflow")
    artifacts = None
    # Asked of the tracker itself, it would also give the address that another training set below.
    if not os.environ.get("MLFLOW_TRACKING_URI") or _is_ours(mlflow.get_tracking_uri()):
        folder.mkdir(parents=True, exist_ok=True)
        artifacts = (folder / "mlflow-artifacts").resolve().as_uri()
        mlflow.set_tracking_uri(f"sqlite:///{(folder.parent / _MLFLOW_STORE).resolve()}")
    tracker = accelerated.MLflowTracker(_PROJECT, artifacts, run_id=known, run_name=run, nested_run=True)
    tracker.start()
    return tracker


def _is_ours(address: str) -> bool:
    return address.startswith("sqlite:") and address.endswith(_MLFLOW_STORE)


def _identity(name: str, tracker: Any) -> str:
    """By which a run is found again after a kill."""
    if name == "wandb":
        return str(tracker.tracker.id)
    return str(tracker.tracker.info.run_id) if name == "mlflow" else "tensorboard"


_STARTS: Mapping[str, Callable[[str, Path, str | None, int], Any]] = MappingProxyType(
    {"wandb": _start_wandb, "tensorboard": _start_tensorboard, "mlflow": _start_mlflow}
)
# How a run is closed that did not come to its end; TensorBoard has no word for it.
_FAILURES: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "wandb": lambda tracker: tracker.tracker.finish(exit_code=1),
        "mlflow": lambda _: importlib.import_module("mlflow").end_run("FAILED"),
    }
)


def _runs(folder: Path) -> dict[str, str]:
    path = folder / _RUNS_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    """Nested settings as `a.b`; what is not set is left out."""
    flat: dict[str, Value] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _check_login() -> None:
    wandb = importlib.import_module("wandb")
    if wandb.setup().settings.mode not in ("online", "shared"):
        return
    try:
        wandb.login()
    except Exception as error:
        raise TrackingError(
            f"tracker wandb: {str(error).partition(chr(10))[0]} Log in, or set WANDB_MODE=offline to write "
            "files that `wandb sync` sends later"
        ) from error
