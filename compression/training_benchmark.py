"""What our training saves: a plain loop and ours, on the same reviews, to the same validation loss.

Every arm runs in a fresh process, so that its memory is its own. The plain loop trains for the whole time;
the best validation loss it reaches is the target of ours. Then each ingredient is left out of ours, or put
in, and its first steps are timed. Evaluations are taken out of all times; the first step too, where speed is
meant.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.errors import CompressionError
from app.hardware import cpu_features, cpu_model, usable_cores
from compression import data
from compression.data import Dataset, DataSettings, Split
from compression.precision import resolve_precision
from compression.provenance import library_versions
from compression.training import TrainingSettings
from compression.training_arm import RESULT_FILE, Evaluation, Job, Result

PLAIN, OURS = "plain loop", "ours"

_LEARNING_RATE = 1e-4
_EVALUATIONS = 5


@dataclass(frozen=True)
class Request:
    """What is to be compared. `steps` are those of an arm that only shows its speed."""

    backbone: str
    data: str
    reviews: int
    validation_reviews: int
    epochs: float
    rows_per_step: int
    max_tokens: int
    steps: int
    ingredients: bool


@dataclass(frozen=True)
class Ingredient:
    """An arm that differs from ours in one thing; `job` replaces fields of it, `training` of its training."""

    name: str
    training: Mapping[str, Any]
    job: Mapping[str, Any]
    to_target: bool = False


@dataclass(frozen=True)
class Comparison:
    """All arms of one run, on one machine."""

    machine: Mapping[str, Any]
    request: Request
    target_loss: float
    plain: Result
    ours: Result
    ingredients: tuple[Result, ...]
    failed: Mapping[str, str]

    @property
    def time_saved(self) -> float:
        """Share of the plain loop's seconds to the target that ours does not take."""
        return 1 - self.ours.seconds / seconds_to(self.plain.evaluations, self.target_loss)

    @property
    def memory_saved(self) -> float:
        """Share of the plain loop's peak memory that ours does not take."""
        ours, plain = (each.cuda_peak_bytes or each.peak_bytes for each in (self.ours, self.plain))
        return 1 - ours / plain

    def write(self, path: Path) -> None:
        """Leave every figure as JSON."""
        figures = asdict(self) | {"time_saved": self.time_saved, "memory_saved": self.memory_saved}
        path.write_text(json.dumps(figures, indent=2, default=str) + "\n", encoding="utf-8")


def seconds_to(evaluations: Sequence[Evaluation], loss: float) -> float:
    """Training seconds before the first evaluation at the loss or below; infinite if there is none."""
    return next((each.seconds for each in evaluations if each.loss <= loss), float("inf"))


def ingredients(request: Request, precision: str) -> tuple[Ingredient, ...]:
    """Ours with one thing changed. Without reduced precision on this machine there is none to leave out."""
    longest = request.max_tokens * request.rows_per_step
    found = [
        Ingredient("every text padded to the longest", {}, {"padded": True}),
        Ingredient("without bucketing", {"bucketing": False}, {}),
        Ingredient("without accumulation: a step computed at once", {"micro_batch_tokens": longest}, {}),
        Ingredient("with the configuration's dropout", {"dropout": "model"}, {}),
        Ingredient("with activation checkpointing", {"activation_checkpointing": True}, {}),
        Ingredient("compiled", {"compile": True}, {}),
        Ingredient("constant schedule", {"schedule": "constant"}, {}, to_target=True),
    ]
    if precision != "no":
        found.insert(0, Ingredient(f"without {precision}: fp32", {"precision": "fp32"}, {}))
    shorter = min(256, request.max_tokens)
    if shorter < request.max_tokens:
        found.append(Ingredient(f"reading {shorter} tokens", {}, {"max_tokens": shorter}, to_target=True))
    return tuple(found)


def measure(request: Request, tell: Callable[[str], None] = lambda _: None) -> Comparison:
    """Run all arms, one after the other.

    Raises:
        CompressionError: the plain loop or ours failed. An ingredient that fails is noted and left out.
        DataError: the data cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        reviews = write_reviews(data.load(request.data, DataSettings()), request, work / "reviews")
        settings = TrainingSettings(
            epochs=request.epochs,
            rows_per_step=request.rows_per_step,
            learning_rate=_LEARNING_RATE,
            evaluations_per_epoch=_EVALUATIONS,
            validation_rows=request.validation_reviews,
            patience=1000,
            checkpoint_seconds=1e9,
        )
        ours = Job(
            name=OURS,
            loop="ours",
            training=settings,
            max_tokens=request.max_tokens,
            backbone=request.backbone,
            reviews=reviews,
        )
        plain_job = ours.model_copy(
            update={
                "name": PLAIN,
                "loop": "plain",
                "training": settings.model_copy(update={"precision": "fp32", "dropout": "model"}),
            }
        )
        tell(PLAIN)
        plain = run_apart(plain_job, work)
        target = min(each.loss for each in plain.evaluations)
        ours = ours.model_copy(update={"target_loss": target})
        tell(OURS)
        whole = run_apart(ours, work)
        others, failed = _run_ingredients(request, ours, work, tell) if request.ingredients else ((), {})
    return Comparison(_machine(), request, target, plain, whole, others, failed)


def _run_ingredients(
    request: Request, ours: Job, work: Path, tell: Callable[[str], None]
) -> tuple[tuple[Result, ...], dict[str, str]]:
    found: list[Result] = []
    failed: dict[str, str] = {}
    for ingredient in ingredients(request, resolve_precision("auto")):
        tell(ingredient.name)
        try:
            found.append(run_apart(changed(ours, ingredient, request), work))
        except CompressionError as error:
            failed[ingredient.name] = str(error)
    return tuple(found), failed


def changed(ours: Job, ingredient: Ingredient, request: Request) -> Job:
    """Our arm with the ingredient changed; only its first steps where its way to the target is ours."""
    training = ours.training.model_copy(update=dict(ingredient.training))
    job = {"name": ingredient.name, "training": training, **ingredient.job}
    if not ingredient.to_target:
        steps = -(-request.reviews // request.rows_per_step)
        part = min(1.0, request.steps / steps)
        short = training.model_copy(
            update={"epochs": part, "evaluations_per_epoch": 1, "validation_rows": 16}
        )
        job |= {"training": short, "target_loss": None}
    return ours.model_copy(update=job)


def run_apart(job: Job, work: Path) -> Result:
    """The arm in a fresh process.

    Raises:
        CompressionError: it failed; says how.
    """
    folder = Path(tempfile.mkdtemp(dir=work))
    job_file = folder / "job.json"
    job_file.write_text(job.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "compression.training_arm", str(job_file)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        said = finished.stderr.strip().splitlines() or [f"ended with {finished.returncode}"]
        raise CompressionError(f"{job.name}: {said[-1][:300]}")
    found = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    evaluations = tuple(Evaluation(**each) for each in found.pop("evaluations"))
    return Result(**found, evaluations=evaluations)


def write_reviews(dataset: Dataset, request: Request, folder: Path) -> Path:
    """A seeded sample that every arm reads: `train.jsonl` and `validation.jsonl`."""
    folder.mkdir(parents=True)
    parts = {
        "train": (dataset.train, request.reviews),
        "validation": (dataset.validation, request.validation_reviews),
    }
    for name, (split, count) in parts.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in _sample(split, count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def _sample(split: Split, count: int) -> list[tuple[str, int]]:
    chosen = np.random.default_rng(0).permutation(len(split))[:count]
    labels = split.labels or ()
    return [(split.texts[row], labels[row]) for row in chosen]


def _machine() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cpu_features": sorted(cpu_features()),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "libraries": library_versions(),
        "measured_on": datetime.now(UTC).date().isoformat(),
    }
