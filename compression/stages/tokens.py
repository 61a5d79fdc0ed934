"""The stage that lets later layers see fewer tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from compression import classifier
from compression.architecture import encoder_layers
from compression.classifier import Classifier
from compression.distillation.objective import DistillationSettings
from compression.pruning import tokens
from compression.pruning.token_thresholds import ThresholdObjective, shares_kept
from compression.settings import Settings
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.stages.training import check_teachers, distil, lesson_of
from compression.training import TrainingSettings

Share = Annotated[float, Field(gt=0, le=1)]
REPORT_FILE = "tokens.json"
_COUNTED_ROWS = 256


class ThresholdTraining(Settings):
    """How thresholds are learned, beside the model's weights, before tokens below them are gone.

    `weight` says what the share of tokens that stay costs beside the loss: the more, the fewer stay.
    `temperature` is over how much of the score a token fades meanwhile, `start` the threshold after the last
    layer but one in the beginning; both in shares of the attention that a token receives on average.
    """

    weight: float = Field(default=0.3, ge=0)
    temperature: float = Field(default=0.05, gt=0)
    start: float = Field(default=0.1, ge=0)
    learning_rate: float = Field(default=0.01, gt=0)
    training: TrainingSettings = TrainingSettings(epochs=1)


class TokensStage(Stage):
    """Lets only the tokens that received most attention go on from layer to layer; the other inputs teach
    the first to answer from them.

    `keep` is the share of a text's tokens that the last layer sees, falling by the same factor from layer to
    layer; or the shares themselves, one after each layer but the last. With the `method` "thresholds" there
    is no share: each layer learns how much attention a token must receive to go on.

    It comes last: a model that prunes tokens cannot lose layers any more. The stage's folder has a
    tokens.json that says which share of the tokens of validation texts goes on after each layer.
    """

    takes: ClassVar[tuple[str, ...]] = ("model", "model|linear")
    input_count: ClassVar[tuple[int, int]] = (2, 17)

    kind: Literal["tokens"]
    method: Literal["shares", "thresholds"] = "shares"
    keep: Share | Annotated[tuple[Share, ...], Field(min_length=1)] | None = None
    thresholds: ThresholdTraining | None = None
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings(epochs=1)

    @model_validator(mode="after")
    def _one_way(self) -> TokensStage:
        learned = self.method == "thresholds"
        if learned and self.keep is not None:
            raise ValueError(
                f"stage {self.name!r} learns what it keeps; leave keep out, or set the method to shares"
            )
        if not learned and self.thresholds is not None:
            raise ValueError(f"stage {self.name!r} has thresholds to learn; that takes method = 'thresholds'")
        if not learned and self.keep is None:
            raise ValueError(f"stage {self.name!r} needs keep, the share of tokens the last layer sees")
        return self

    @model_validator(mode="after")
    def _falls(self) -> TokensStage:
        shares = (self.keep,) if isinstance(self.keep, float) else self.keep or ()
        if shares and min(shares) == 1.0:
            raise ValueError(f"stage {self.name!r} keeps every token; set keep below 1")
        if any(after > before for before, after in pairwise(shares)):
            raise ValueError(f"stage {self.name!r}: tokens do not come back; the shares of keep may not rise")
        return self

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs, and how many weights there are, to what the stage takes."""
        super().check_inputs(given)
        check_teachers(self.name, self.inputs[1:], given, self.distillation)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Give the model its shares or thresholds, and train it to live with them."""
        model = classifier.load(str(inputs[0].folder))
        if self.keep is None:
            learned = self._learn(model, inputs[1:], context, folder / "thresholds")
            tokens.attach_thresholds(model.model, learned)
        elif isinstance(self.keep, float):
            layers = len(encoder_layers(model.model))
            tokens.attach(model.model, tokens.even_schedule(self.keep, layers))
        else:
            tokens.attach(model.model, self.keep)
        distil(model, inputs[1:], self.distillation, self.training, context, folder, self.name)
        nn.Module.to(model.model, "cpu")
        rows = read_by(model, context).validation_rows()
        kept = shares_kept(model.model, rows, rows.take(_COUNTED_ROWS))
        told = {"thresholds": tokens.thresholds_of(model.model) or None, "share_kept": kept}
        (folder / REPORT_FILE).write_text(json.dumps(told, indent=2), encoding="utf-8")
        classifier.save(model, folder)

    def _learn(
        self, model: Classifier, teachers: Sequence[Input], context: Context, folder: Path
    ) -> tuple[float, ...]:
        """Train thresholds and weights together; the weights go on from there."""
        settings, title = self.thresholds or ThresholdTraining(), f"{self.name}: thresholds"
        training = settings.training
        lesson = lesson_of(model, teachers, self.distillation, training.precision, context, title)
        objective = ThresholdObjective(
            lesson.objective,
            model.model,
            settings.weight,
            settings.temperature,
            settings.start,
            rows=round(len(lesson.rows) * training.epochs),
            pace=settings.learning_rate / training.learning_rate,
        )
        with objective.attached():
            lesson = replace(lesson, objective=objective, judge=objective.judge)
            lesson.learn(model.model, training, folder, context, title)
        nn.Module.to(model.model, "cpu")
        return objective.learned()
