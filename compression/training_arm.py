"""One arm of the training benchmark, in a process of its own: so much time, memory and CPU for so much text.

`python -m compression.training_arm job.json` writes what it found beside the job, as `result.json`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from app import artifact
from app.artifact import TokenizerSettings
from app.hardware import usable_cores
from compression import classifier, corpus, data
from compression.batches import Batch, Rows
from compression.data import Dataset, DataSettings, Split
from compression.evaluation import Judge, Scores, by_labels
from compression.peak_memory import high_water_mark
from compression.plain_training import PaddedRows, train_plainly
from compression.settings import Settings
from compression.teacher import true_labels
from compression.training import TrainingSettings, train

RESULT_FILE = "result.json"


class Job(Settings):
    """What one arm does. `padded` pads our loop's rows to `max_tokens` too; with a `target_loss` it stops at
    the first evaluation that reaches it."""

    name: str
    loop: Literal["plain", "ours"]
    training: TrainingSettings
    max_tokens: int
    padded: bool = False
    target_loss: float | None = None
    backbone: str
    reviews: Path


@dataclass(frozen=True)
class Moment:
    """A state of the stopwatch; tokens are those of the texts, padding not counted."""

    seconds: float
    cpu_seconds: float
    tokens: int
    steps: int


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy on validation after so many steps and so many seconds of training."""

    seconds: float
    steps: int
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Result:
    """What one arm took. An epoch is what all its tokens take at the speed of the steps after the first."""

    name: str
    seconds_per_epoch: float
    tokens_per_second: float
    peak_bytes: int
    cuda_peak_bytes: int | None
    cpu_utilisation: float
    steps: int
    steps_per_epoch: int
    epochs: float
    seconds: float
    reached_target: bool
    evaluations: tuple[Evaluation, ...]


class Reached(Exception):  # noqa: N818 - not an error: the arm has what it ran for
    """The target loss was reached."""


class Stopwatch:
    """Training's own time and tokens: evaluations are taken out."""

    def __init__(self, target_loss: float | None) -> None:
        self._target_loss = target_loss
        self._tokens, self._steps = 0, 0
        self._away_seconds, self._away_cpu = 0.0, 0.0
        self._started, self._started_cpu = time.perf_counter(), time.process_time()
        self.after_first: Moment | None = None
        self.last = Moment(0.0, 0.0, 0, 0)
        self.evaluations: list[Evaluation] = []

    def objective(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Cross-entropy with the true labels; counts what it is given. Shape: (B,)."""
        self._tokens += int(batch.attention_mask.sum())
        return true_labels(model, batch)

    def report(self, done: int, _total: int, _note: str) -> None:
        """Told after every step."""
        self._steps = done
        self.last = self._now()
        if self.after_first is None:
            self.after_first = self.last

    def judge(self, model: nn.Module, rows: Rows, chosen: Sequence[int]) -> Scores:
        """Judge by the true labels; the time it takes is nobody's.

        Raises:
            Reached: the loss is the target or below.
        """
        before, cpu_before = time.perf_counter(), time.process_time()
        at = self._now()
        scores = by_labels(model, rows, chosen)
        self._away_seconds += time.perf_counter() - before
        self._away_cpu += time.process_time() - cpu_before
        self.evaluations.append(Evaluation(at.seconds, self._steps, scores.loss, scores.accuracy))
        if self._target_loss is not None and scores.loss <= self._target_loss:
            raise Reached
        return scores

    def _now(self) -> Moment:
        return Moment(
            time.perf_counter() - self._started - self._away_seconds,
            time.process_time() - self._started_cpu - self._away_cpu,
            self._tokens,
            self._steps,
        )


def run(job: Job, work: Path) -> Result:
    """Train as the job says and tell what it took."""
    dataset = data.load(str(job.reviews), DataSettings())
    training, validation = _reviews(dataset, job, work)
    model = _model(dataset, job)
    watch = Stopwatch(job.target_loss)
    reached = False
    try:
        _train(job, model, training, validation, watch, work)
    except Reached:
        reached = True
    return _result(job, training, watch, reached)


def _train(
    job: Job, model: nn.Module, training: Rows, validation: Rows, watch: Stopwatch, work: Path
) -> None:
    judge: Judge = watch.judge
    if job.loop == "plain":
        assert isinstance(training, PaddedRows)  # noqa: S101 - `_reviews` pads for this loop
        train_plainly(model, training, validation, job.training, watch.report, judge, watch.objective)
    else:
        train(
            model,
            watch.objective,
            training,
            validation,
            job.training,
            work / "training",
            watch.report,
            judge,
        )


def _model(dataset: Dataset, job: Job) -> nn.Module:
    """The backbone with a fresh head, the same in every arm; the plain loop takes the library's attention."""
    torch.manual_seed(job.training.seed)
    model = classifier.load(job.backbone, heads=dataset.heads).model
    if job.loop == "plain":
        model.set_attn_implementation("sdpa")
    return model


def _reviews(dataset: Dataset, job: Job, work: Path) -> tuple[Rows, Rows]:
    loaded = classifier.load_tokenizer(job.backbone)
    loaded.save_pretrained(work / "tokenizer")
    settings = TokenizerSettings(
        max_tokens=job.max_tokens,
        truncation="head",
        head_tokens=job.max_tokens - 1,
        pad_token_id=int(loaded.pad_token_id or 0),
    )

    def read(split: Split) -> corpus.Corpus:
        tokenizer = work / "tokenizer" / artifact.TOKENIZER_FILE
        return corpus.build(split, tokenizer, settings, job.reviews / "tokens")

    padded = job.padded or job.loop == "plain"
    training = read(dataset.train)
    return PaddedRows(training) if padded else Rows(training), Rows(read(dataset.validation))


def _result(job: Job, training: Rows, watch: Stopwatch, reached: bool) -> Result:
    first, last = watch.after_first or watch.last, watch.last
    if last.steps == first.steps:
        first = Moment(0.0, 0.0, 0, 0)  # a single step: nothing to leave out
    seconds = max(last.seconds - first.seconds, 1e-9)
    speed = (last.tokens - first.tokens) / seconds
    whole = sum(int(part.lengths.sum()) for part in training.corpora)
    return Result(
        name=job.name,
        seconds_per_epoch=whole / max(speed, 1e-9),
        tokens_per_second=speed,
        peak_bytes=high_water_mark(),
        cuda_peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        cpu_utilisation=(last.cpu_seconds - first.cpu_seconds) / seconds / usable_cores(),
        steps=last.steps,
        steps_per_epoch=-(-len(training) // job.training.rows_per_step),
        epochs=float(job.training.epochs),
        seconds=watch.evaluations[-1].seconds if reached else last.seconds,
        reached_target=reached,
        evaluations=tuple(watch.evaluations),
    )


def main(job_file: Path) -> None:
    """Run the job in this process."""
    job = Job.model_validate_json(job_file.read_text(encoding="utf-8"))
    result = run(job, job_file.parent)
    (job_file.parent / RESULT_FILE).write_text(json.dumps(asdict(result), indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
