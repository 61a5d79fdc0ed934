"""The stage that lets later layers see fewer tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from compression import classifier
from compression.architecture import encoder_layers
from compression.distillation.objective import DistillationSettings
from compression.pruning import tokens
from compression.stages.base import Context, Input, Stage
from compression.stages.training import check_teachers, distil
from compression.training import TrainingSettings

Share = Annotated[float, Field(gt=0, le=1)]


class TokensStage(Stage):
    """Lets only the tokens that received most attention go on from layer to layer; the other inputs teach
    the first to answer from them.

    `keep` is the share of a text's tokens that the last layer sees, falling by the same factor from layer to
    layer; or the shares themselves, one after each layer but the last. It comes last: a model that prunes
    tokens cannot lose layers any more.
    """

    takes: ClassVar[tuple[str, ...]] = ("model", "model|linear")
    input_count: ClassVar[tuple[int, int]] = (2, 17)

    kind: Literal["tokens"]
    keep: Share | Annotated[tuple[Share, ...], Field(min_length=1)]
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings(epochs=1)

    @model_validator(mode="after")
    def _falls(self) -> TokensStage:
        shares = (self.keep,) if isinstance(self.keep, float) else self.keep
        if min(shares) == 1.0:
            raise ValueError(f"stage {self.name!r} keeps every token; set keep below 1")
        if any(after > before for before, after in pairwise(shares)):
            raise ValueError(f"stage {self.name!r}: tokens do not come back; the shares of keep may not rise")
        return self

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs, and how many weights there are, to what the stage takes."""
        super().check_inputs(given)
        check_teachers(self.name, self.inputs[1:], given, self.distillation)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Give the model its schedule, and train it to live with it."""
        model = classifier.load(str(inputs[0].folder))
        layers = len(encoder_layers(model.model))
        keep = self.keep
        tokens.attach(model.model, tokens.even_schedule(keep, layers) if isinstance(keep, float) else keep)
        distil(model, inputs[1:], self.distillation, self.training, context, folder, self.name)
        classifier.save(model, folder)
