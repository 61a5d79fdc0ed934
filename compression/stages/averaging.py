"""The stage that averages the weights of several models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from app.errors import CompressionError
from compression import classifier
from compression.averaging import mean_weights
from compression.classifier import Classifier
from compression.stages.base import Context, Input, Stage


class AverageStage(Stage):
    """One model whose weights are the mean of others', which came from the same pretrained weights.

    What one of them has learned since and what it has forgotten lie on the way between them: the mean keeps
    most of both and costs no more to run than either. `weights` say how much each input counts; they need not
    sum to one.
    Source: Wortsman et al. 2022, Model soups; Wortsman et al. 2022, Robust fine-tuning of zero-shot models.
    """

    takes: ClassVar[tuple[str, ...]] = ("model",)
    input_count: ClassVar[tuple[int, int]] = (2, 16)

    kind: Literal["average"]
    weights: tuple[Annotated[float, Field(gt=0)], ...] = ()

    @model_validator(mode="after")
    def _every_input_has_a_weight(self) -> AverageStage:
        if self.weights and len(self.weights) != len(self.inputs):
            raise ValueError(
                f"stage {self.name!r} has {len(self.inputs)} inputs and {len(self.weights)} weights"
            )
        return self

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Average them into the first one's shape."""
        models = [classifier.load(str(each.folder)) for each in inputs]
        for other in models[1:]:
            if other.heads != models[0].heads:
                raise CompressionError(f"stage {self.name!r}: its inputs do not have the same labels")
            if _vocabulary(other) != _vocabulary(models[0]):
                raise CompressionError(
                    f"stage {self.name!r}: its inputs have different tokenizers; average them before the "
                    "vocabulary of one is pruned"
                )
        mean = mean_weights([each.model for each in models], self.weights)
        models[0].model.load_state_dict(mean)
        classifier.save(models[0], folder)


def _vocabulary(model: Classifier) -> dict[str, int]:
    return model.tokenizer.get_vocab()
