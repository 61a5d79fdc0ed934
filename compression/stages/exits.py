"""Stages of early exit: classifiers on lower layers, and a graph that stops there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import onnx
import torch
from pydantic import Field, model_validator
from torch import nn
from transformers import PreTrainedModel

from app.errors import RecipeError
from compression import builds, checkpoint, classifier, early_exit
from compression.batches import Rows
from compression.evaluation import Scores, batches
from compression.exit_graph import to_branches
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.training import TrainingSettings, train

REPORT_FILE = "exits.json"


class ExitsStage(Stage):
    """Puts classifiers after lower layers (`after`, counted from 1), at which easy texts leave.

    They learn the model's own last answer; the model stays as it is. By the `rule` "confidence" a text leaves
    at an exit that is sure, by "patience" after so many exits in a row that did not change the label, which
    takes two exits at least. `agreement` is the share of validation texts that must keep their label; the
    threshold or the patience is the lowest that does. The stage's folder has an exits.json that says which
    share of texts leaves where.
    """

    kind: Literal["exits"]
    after: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    rule: Literal["confidence", "patience"] = "confidence"
    agreement: float = Field(default=0.995, gt=0, le=1)
    unlabelled_rows: int = Field(default=0, ge=-1)
    training: TrainingSettings = TrainingSettings(epochs=1, learning_rate=5e-4)

    @model_validator(mode="after")
    def _patience_takes_two(self) -> ExitsStage:
        if self.rule == "patience" and len(self.after) < 2:
            raise ValueError(f"stage {self.name!r}: patience counts exits that agree; name two in 'after'")
        return self

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Train the exits and fit when texts leave."""
        model = classifier.load(str(inputs[0].folder))
        early_exit.attach(model.model, self.after)
        own = read_by(model, context)
        rows, validation = own.training_rows(self.unlabelled_rows), own.validation_rows()
        report = context.report(self.name)
        checkpoint.describe(model, folder / "training")
        with _exits_alone_learn(model.model):
            train(
                model.model,
                early_exit.deeper_counts_more if self.rule == "patience" else early_exit.self_distillation,
                rows,
                validation,
                self.training,
                folder / "training",
                report,
                _judged,
                context.tracking,
            )
        nn.Module.to(model.model, "cpu")
        answers, final = _answers(model.model, validation, range(len(validation)))
        rule = self._fitted(answers, final)
        early_exit.set_rule(model.model, rule)
        leaving = early_exit.shares(answers, rule)
        told = {"after": list(self.after), **asdict(rule), "share_leaving": leaving}
        (folder / REPORT_FILE).write_text(json.dumps(told, indent=2), encoding="utf-8")
        classifier.save(model, folder)

    def _fitted(self, answers: Sequence[torch.Tensor], final: torch.Tensor) -> early_exit.Rule:
        if self.rule == "patience":
            return early_exit.fit_patience(answers, final, self.agreement)
        return early_exit.Rule(early_exit.fit_confidence(answers, final, self.agreement))


class BranchStage(Stage):
    """Moves what follows an exit into a branch of the ONNX graph that is run only where it is needed.

    It follows quantization: what is in a branch is not quantized any more.
    """

    takes: ClassVar[tuple[str, ...]] = ("build",)
    gives: ClassVar[str] = "build"

    kind: Literal["branch"]

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Rewrite the graph; its answers stay.

        Raises:
            RecipeError: the build is not for ONNX Runtime.
        """
        source = builds.read(inputs[0].folder)
        if source.engine != "onnx":
            raise RecipeError(f"stage {self.name!r} takes an ONNX build, not one for {source.engine}")
        onnx.save(to_branches(onnx.load(inputs[0].folder / source.file)), folder / "model.onnx")
        replace(source, name=f"{source.name}-branched", file="model.onnx", companions=()).write(folder)


@contextmanager
def _exits_alone_learn(model: PreTrainedModel) -> Iterator[None]:
    exits = {id(parameter) for parameter in cast(nn.Module, model.exits).parameters()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in exits)
    try:
        yield
    finally:
        for parameter, flag in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)


def _judged(model: nn.Module, rows: Rows, chosen: Sequence[int]) -> Scores:
    device, total = next(model.parameters()).device, 0.0
    for batch in batches(rows, chosen):
        total += float(early_exit.self_distillation(model, batch.to(device)).sum())
    return Scores(accuracy=None, loss=total / len(chosen), n=len(chosen))


@torch.no_grad()
def _answers(
    model: PreTrainedModel, rows: Rows, chosen: Sequence[int]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Logits of every exit and of the whole model. Shapes: (N, C) each."""
    model.eval()
    found: list[list[torch.Tensor]] = []
    exits = cast(early_exit.Exits, model.exits)
    for batch in batches(rows, chosen):
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        found.append([*exits.answers, exits.final])
    *answers, final = (torch.cat(parts) for parts in zip(*found, strict=True))
    return answers, final
