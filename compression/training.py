"""The one training loop, for teacher and student alike, on `accelerate`.

What is minimised is an `Objective`: a loss per row. Each step takes the same rows on every machine; how
many of them are computed at once follows from memory alone. After a kill at any moment the run goes on
from its last checkpoint and ends with the weights an uninterrupted run has.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from pydantic import Field
from torch import nn
from transformers import get_scheduler

from app.errors import TrainingError
from app.hardware import resident_memory_bytes
from compression.averaging import AveragedWeights
from compression.batches import Batch, Rows, by_token_budget, plan_epoch
from compression.evaluation import Judge, Scores, by_labels, mean_of
from compression.memory import PeakResident, available_bytes, fitting_budget
from compression.optimizer import parameter_groups
from compression.precision import Precision, resolve_precision
from compression.run_folder import RunFolder
from compression.settings import Settings
from compression.tracking import LOCAL, Tracking, is_due

# Told after every step: steps done, steps in all, and a note.
Report = Callable[[int, int, str], None]


def silent(_done: int, _total: int, _note: str) -> None:
    """A report nobody reads."""


# Padded tokens computed at once unless set: on a CPU more is slower (measured), a GPU wants to be filled.
_MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}


class TrainingSettings(Settings):
    """How a model is trained. Rows per step and everything else here decide the result; memory does not.

    `layer_decay` below 1 lets each layer learn that much slower than the one above it. `average_decay` above
    0 (0.99 to 0.9999) judges and keeps an exponential mean of the weights instead of the last ones.

    `dropout` "model" leaves what the model's configuration says. Without `bucketing` a step's rows are drawn
    whatever their length. `activation_checkpointing` computes each layer twice and keeps less of it in memory
    (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost); `compile` needs a C++ compiler, and
    minutes before the first step. `bertpress benchmark training` shows what each of them is worth.
    """

    epochs: int | float = Field(default=2, gt=0)
    rows_per_step: int = Field(default=32, ge=1)
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=6e-5, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    average_decay: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_fraction: float = Field(default=0.06, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_gradient_norm: float = Field(default=1.0, gt=0)
    precision: Precision = "auto"
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] = 0.0
    bucketing: bool = True
    activation_checkpointing: bool = False
    compile: bool = False
    evaluations_per_epoch: int = Field(default=2, ge=1)
    patience: int = Field(default=4, ge=1)
    validation_rows: int = Field(default=2000, ge=1)
    checkpoint_seconds: float = Field(default=120, ge=0)
    seed: int = 0


class Objective(Protocol):
    """What is minimised. One that is a module has parameters of its own, which learn with the model's."""

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        ...


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint."""

    epoch: int = 0
    step: int = 0
    micro_batch_tokens: int = 0
    best: float = -math.inf
    stale: int = 0
    tokens: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False

    def state_dict(self) -> dict[str, Any]:
        """For accelerate."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For accelerate."""
        for name, value in state.items():
            setattr(self, name, value)


def train(
    model: nn.Module,
    objective: Objective,
    rows: Rows,
    validation: Rows,
    settings: TrainingSettings,
    folder: Path,
    report: Report = silent,
    judge: Judge = by_labels,
    tracking: Tracking = LOCAL,
) -> Progress:
    """Train in place; the model ends with its best weights on validation.

    With several validation corpora it is their mean that counts: each the same, however many rows it has.

    `folder` keeps checkpoints; called again with the same arguments, training goes on where it was. `judge`
    says how good the model is on some rows; `tracking` whom its figures are told, beside that folder.

    Raises:
        TrainingError: the loss is not finite, one row does not fit into memory, no checkpoint can be read,
            or the folder is of another run.
    """
    return _Run(model, objective, rows, validation, settings, folder, report, judge).train(tracking)


class _Run:
    """One training run: the state that a step, an evaluation and a checkpoint share."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        rows: Rows,
        validation: Rows,
        settings: TrainingSettings,
        folder: Path,
        report: Report,
        judge: Judge,
    ) -> None:
        self.settings, self.objective, self.rows = settings, objective, rows
        self.validation, self.report, self.judge = validation, report, judge
        self.chosen = [
            [part.start + row for row in corpus.take(settings.validation_rows)]
            for part, corpus in zip(validation.parts(), validation.corpora, strict=True)
        ]
        AcceleratorState._reset_state(reset_partial_state=True)  # each stage chooses its own precision
        self.accelerator = Accelerator(mixed_precision=resolve_precision(settings.precision))
        set_seed(settings.seed)
        if settings.dropout != "model":
            _set_dropout(model, settings.dropout)
        _set_checkpointing(model, settings.activation_checkpointing)
        self.bare = model
        self.steps_per_epoch = math.ceil(len(rows) / settings.rows_per_step)
        self.total_steps = math.ceil(self.steps_per_epoch * settings.epochs)
        self._prepare(model)
        budget = settings.micro_batch_tokens or _MICRO_BATCH_TOKENS[self.accelerator.device.type]
        self.progress = Progress(micro_batch_tokens=budget)
        self.accelerator.register_for_checkpointing(self.progress)
        self.averaged = AveragedWeights(model, settings.average_decay) if settings.average_decay else None
        if self.averaged is not None:
            self.accelerator.register_for_checkpointing(self.averaged)
        self.folder = RunFolder(folder, self.accelerator)

    def _prepare(self, model: nn.Module) -> None:
        """Optimizer and schedule over the model and what the objective brings of its own."""
        settings, total = self.settings, self.total_steps
        rate, decay = settings.learning_rate, settings.weight_decay
        groups = parameter_groups(model, rate, decay, settings.layer_decay)
        if isinstance(self.objective, nn.Module) and any(True for _ in self.objective.parameters()):
            self.objective.to(self.accelerator.device)
            groups += parameter_groups(self.objective, rate, decay)
            self.accelerator.register_for_checkpointing(self.objective)
        optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        schedule = get_scheduler(settings.schedule, optimizer, int(settings.warmup_fraction * total), total)
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(model, optimizer, schedule)
        self.prepared = self.model
        if settings.compile:
            _check_compiler()
            self.model = torch.compile(self.model, dynamic=True)
        self.learning = [weight for group in groups for weight in group["params"]]

    def train(self, tracking: Tracking) -> Progress:
        self._start()
        self.saved_at = time.monotonic()
        with tracking.of(self.folder.path, self._described(), self._steps_done()) as self.tracked:
            while not self.progress.finished:
                self._epoch()
        self.folder.finish(self.progress.state_dict())
        best = self.folder.best()
        if best is not None:
            self.bare.load_state_dict(best)
        self.accelerator.free_memory()
        self.bare.forward = self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False).forward
        _set_checkpointing(self.bare, False)
        self.bare.eval()
        return self.progress

    def _start(self) -> None:
        """Begin, or go on from the last checkpoint."""
        self.folder.claim({"settings": self.settings.model_dump(mode="json"), "rows": self.rows.fingerprint})
        resumed = self.folder.restore()
        killed = self.folder.died_of_memory()
        if killed is not None:
            self.progress.micro_batch_tokens = max(1, killed.micro_batch_tokens // 2)
        elif not resumed and self.accelerator.device.type == "cpu":
            self.progress.micro_batch_tokens = self._probed_budget()
        self.folder.beat(self.progress.micro_batch_tokens)

    def _probed_budget(self) -> int:
        """The micro-batch that fits this machine, tried on the longest rows."""
        longest = sorted(range(len(self.rows)), key=lambda row: -int(self.rows.lengths[row]))
        unit = int(self.rows.lengths[longest[0]])
        # Freed memory stays with the process, so every peak is counted from before the first trial.
        before, available = resident_memory_bytes(), available_bytes()

        def peak_of(tokens: int) -> int:
            with PeakResident() as peak:
                self._backward(longest[: tokens // unit], scale=1.0)
            self.optimizer.zero_grad()
            return peak.peak_bytes - before

        # A trial leaves nothing behind: no random numbers drawn, no rows counted by the objective.
        state, buffers = torch.get_rng_state(), list(self._objective_buffers())
        kept = [buffer.clone() for buffer in buffers]
        self.model.train()
        budget = fitting_budget(peak_of, self.progress.micro_batch_tokens, unit, available)
        torch.set_rng_state(state)
        for buffer, before_trial in zip(buffers, kept, strict=True):
            buffer.copy_(before_trial)
        self.progress.tokens = 0
        return budget

    def _objective_buffers(self) -> Iterator[torch.Tensor]:
        return self.objective.buffers() if isinstance(self.objective, nn.Module) else iter(())

    def _epoch(self) -> None:
        progress, started = self.progress, time.monotonic()
        settings = self.settings
        plan = plan_epoch(
            self.rows.lengths, settings.rows_per_step, settings.seed, progress.epoch, settings.bucketing
        )
        left = self.total_steps - progress.epoch * self.steps_per_epoch
        plan = plan[:left]  # the last epoch may be a part of one
        due = _evaluation_steps(len(plan), self.settings.evaluations_per_epoch)
        self.model.train()
        for rows in plan[progress.step :]:
            loss = self._step(rows)
            progress.step += 1
            progress.seconds, started = progress.seconds + time.monotonic() - started, time.monotonic()
            self._tell(loss)
            self._track(loss)
            if progress.step in due:
                self._evaluate(loss)
                if progress.finished:
                    break
            self._save_if_due()
        if progress.step >= len(plan):
            progress.epoch, progress.step = progress.epoch + 1, 0
        progress.finished = progress.finished or progress.epoch >= self.settings.epochs
        self._save()

    def _step(self, rows: list[int]) -> float:
        """One optimizer step; a CUDA out-of-memory halves the micro-batch and the step is done again."""
        while True:
            try:
                loss = self._accumulate(rows)
                break
            except torch.OutOfMemoryError as error:
                self.optimizer.zero_grad()
                if self.progress.micro_batch_tokens <= int(self.rows.lengths[rows].min()):
                    raise TrainingError("one row does not fit into memory; lower max_tokens") from error
                self.progress.micro_batch_tokens //= 2
                torch.cuda.empty_cache()
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}; "
                f"lower the learning rate (now {self.settings.learning_rate}) or use precision fp32"
            )
        self.accelerator.clip_grad_norm_(self.learning, self.settings.max_gradient_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.averaged is not None:
            self.averaged.update()
        return loss

    def _accumulate(self, rows: list[int]) -> float:
        groups = by_token_budget(rows, self.rows.lengths, self.progress.micro_batch_tokens)
        return sum(self._backward(group, scale=1.0 / len(rows)) for group in groups)

    def _backward(self, rows: list[int], scale: float) -> float:
        batch = self.rows.batch(rows).to(self.accelerator.device)
        self.progress.tokens += int(batch.attention_mask.sum())
        with self.accelerator.autocast():
            loss = self.objective(self.model, batch).float().sum() * scale
        self.accelerator.backward(loss)
        return float(loss.detach())

    def _evaluate(self, loss: float) -> None:
        with self._weights_to_judge():
            scores = mean_of([self.judge(self.model, self.validation, chosen) for chosen in self.chosen])
            self._remember(loss, scores)
        self.model.train()
        self._tell(loss)

    @contextmanager
    def _weights_to_judge(self) -> Iterator[None]:
        self.model.eval()
        averaged = nullcontext() if self.averaged is None else self.averaged.in_place()
        with averaged, torch.inference_mode(), self.accelerator.autocast():
            yield

    def _remember(self, loss: float, scores: Scores) -> None:
        progress = self.progress
        entry = {
            "epoch": self._steps_done() / self.steps_per_epoch,
            "training_loss": loss,
            "validation_loss": scores.loss,
        }
        if scores.accuracy is not None:
            entry["validation_accuracy"] = scores.accuracy
        progress.history.append(entry)
        self.tracked.log(entry, self._steps_done())
        if _merit(scores) > progress.best:
            progress.best, progress.stale = _merit(scores), 0
            self.folder.keep_best(self.bare.state_dict())
        else:
            progress.stale += 1
            progress.finished = progress.stale >= self.settings.patience

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds:
            self._save()

    def _save(self) -> None:
        self.folder.save_checkpoint(self.progress.epoch, self.progress.step)
        self.folder.beat(self.progress.micro_batch_tokens)
        self.saved_at = time.monotonic()

    def _tell(self, loss: float) -> None:
        progress = self.progress
        judged = ""
        if progress.history:
            last = progress.history[-1]
            judged = f", validation {last.get('validation_accuracy', last['validation_loss']):.4f}"
        self.report(
            self._steps_done(),
            self.total_steps,
            f"loss {loss:.4f}{judged}, {self._tokens_per_second():,.0f} tokens/s",
        )

    def _track(self, loss: float) -> None:
        step = self._steps_done()
        if is_due(step, self.total_steps):
            figures = {
                "epoch": step / self.steps_per_epoch,
                "training_loss": loss,
                "learning_rate": float(self.scheduler.get_last_lr()[0]),
                "tokens_per_second": self._tokens_per_second(),
            }
            self.tracked.log(figures, step)

    def _described(self) -> dict[str, Any]:
        """What a tracker shows as the configuration."""
        return {
            **self.settings.model_dump(mode="json"),
            "model": type(self.bare).__name__,
            "parameters": sum(weight.numel() for weight in self.bare.parameters()),
            "rows": len(self.rows),
            "steps": self.total_steps,
            "device": str(self.accelerator.device),
            "arithmetic": str(self.accelerator.mixed_precision),
        }

    def _steps_done(self) -> int:
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    def _tokens_per_second(self) -> float:
        return self.progress.tokens / max(self.progress.seconds, 1e-9)


def _merit(scores: Scores) -> float:
    """What early stopping maximises: accuracy, and the smaller loss among equals."""
    return (scores.accuracy or 0.0) - 1e-6 * scores.loss


def _evaluation_steps(steps: int, evaluations: int) -> set[int]:
    return {math.ceil(steps * (index + 1) / evaluations) for index in range(evaluations)}


def _set_checkpointing(model: nn.Module, wanted: bool) -> None:
    """Raises TrainingError where the model cannot compute its layers anew."""
    if any(getattr(part, "gradient_checkpointing", False) for part in model.modules()) == wanted:
        return
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise TrainingError(
            f"{type(model).__name__} cannot compute its layers anew; leave activation_checkpointing out"
        )
    # transformers 5 renamed them, and warns of the old names.
    new, old = f"activation_checkpointing_{'en' if wanted else 'dis'}able", "gradient_checkpointing_"
    switch = getattr(model, new, None) or getattr(model, new.replace("activation_checkpointing_", old))
    switch(*([{"use_reentrant": False}] if wanted else []))


def _check_compiler() -> None:
    """Raises TrainingError where the compiler that torch calls is missing, which else fails at step one."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise TrainingError(
            f"compile needs a C++ compiler, and there is no {compiler}; install one, name it in CXX, or "
            "leave compile out"
        )


def _set_dropout(model: nn.Module, probability: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
