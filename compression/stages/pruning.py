"""The stage that takes whole parts of a model away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from compression import classifier
from compression.classifier import Classifier
from compression.distillation.objective import DistillationSettings
from compression.evaluation import batches
from compression.pruning import steps
from compression.pruning.gates import GatedObjective
from compression.pruning.steps import PartScores, Shares, Sizes
from compression.settings import Settings
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.stages.training import check_teachers, distil, lesson_of
from compression.teacher import true_labels
from compression.training import TrainingSettings


class GateTraining(Settings):
    """How gates learn, beside the model's weights, before what they closed is removed.

    `learning_rate` is that of the gates and their multipliers; the targets rise over the first `rising` of
    the rows.
    """

    learning_rate: float = Field(default=0.05, gt=0)
    rising: float = Field(default=0.5, gt=0, le=1)
    training: TrainingSettings = TrainingSettings(epochs=1)


class PruneStage(Stage):
    """Removes whole parts of the first input, in steps; the other inputs teach what is left to recover after
    each step.

    `heads`, `ffn`, `layers` and `hidden` are the shares of attention heads, FFN neurons, layers and elements
    of the states removed in the end; layers may end uneven. `hidden` is rounded to whole heads' sizes.
    `importance` says what stays: `taylor`, the parts whose loss would change most, on `importance_rows` rows;
    `magnitude`, those of the largest weights; `gates`, those whose gates a training of their own leaves open.
    Without `recover` nothing is trained after a step: a quick look at what a pruning would leave.
    """

    takes: ClassVar[tuple[str, ...]] = ("model", "model|linear")
    input_count: ClassVar[tuple[int, int]] = (2, 17)

    kind: Literal["prune"]
    heads: float = Field(default=0.0, ge=0, lt=1)
    ffn: float = Field(default=0.0, ge=0, lt=1)
    layers: float = Field(default=0.0, ge=0, lt=1)
    hidden: float = Field(default=0.0, ge=0, lt=1)
    importance: Literal["taylor", "magnitude", "gates"] = "taylor"
    steps: int = Field(default=2, ge=1)
    importance_rows: int = Field(default=512, ge=1)
    gates: GateTraining | None = None
    recover: bool = True
    distillation: DistillationSettings = DistillationSettings()
    training: TrainingSettings = TrainingSettings(epochs=1)

    @model_validator(mode="after")
    def _is_possible(self) -> PruneStage:
        if not any((self.heads, self.ffn, self.layers, self.hidden)):
            raise ValueError(f"stage {self.name!r} removes nothing; set heads, ffn, layers or hidden above 0")
        if self.gates is not None and self.importance != "gates":
            raise ValueError(f"stage {self.name!r} has gates to train; that takes importance = 'gates'")
        if self.layers and self.distillation.layer_map is not None:
            raise ValueError(f"stage {self.name!r} removes layers, and layer_map names them; leave it out")
        if self.hidden and self.distillation.hidden_weight:
            raise ValueError(
                f"stage {self.name!r} makes states narrower, and hidden_weight compares them as they are; "
                "take tinybert.hidden, which has a projection, or minilm"
            )
        return self

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs, and how many weights there are, to what the stage takes."""
        super().check_inputs(given)
        check_teachers(self.name, self.inputs[1:], given, self.distillation)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Remove in steps, each followed by distillation; each step is kept on disk."""
        model = classifier.load(str(inputs[0].folder))
        whole = steps.sizes(model.model)
        for step in range(1, self.steps + 1):
            step_folder = folder / f"step-{step}"
            if not (step_folder / classifier.WEIGHTS_FILE).is_file():
                wanted = steps.after(whole, self._removed, step / self.steps)
                scores = self._scores(model, wanted, step, inputs[1:], context, step_folder)
                model = steps.take_out(model, wanted, scores)
                title = f"{self.name} {step}/{self.steps}"
                if self.recover:
                    distil(model, inputs[1:], self.distillation, self.training, context, step_folder, title)
                classifier.save(model, step_folder)
            model = classifier.load(str(step_folder))
        classifier.save(model, folder)

    @property
    def _removed(self) -> Shares:
        return Shares(self.heads, self.ffn, self.layers, self.hidden)

    def _scores(
        self,
        model: Classifier,
        wanted: Sizes,
        step: int,
        teachers: Sequence[Input],
        context: Context,
        folder: Path,
    ) -> PartScores:
        if self.importance == "magnitude":
            return steps.magnitude(model.model)
        if self.importance == "gates":
            closed = steps.to_close(self._removed, (step - 1) / self.steps, step / self.steps)
            title = f"{self.name} {step}/{self.steps}: gates"
            return self._train_gates(model, closed, teachers, context, folder / "gates", title)
        rows = read_by(model, context).training_rows()
        chosen = rows.take(self.importance_rows)
        return steps.taylor(model.model, wanted, true_labels, lambda: batches(rows, chosen, tokens=2048))

    def _train_gates(
        self,
        model: Classifier,
        closed: Mapping[str, float],
        teachers: Sequence[Input],
        context: Context,
        folder: Path,
        title: str,
    ) -> PartScores:
        """Train gates and weights together; the weights end with the gates of what may stay in them."""
        settings = self.gates or GateTraining()
        training = settings.training
        lesson = lesson_of(model, teachers, self.distillation, training.precision, context, title)
        gated = GatedObjective(
            lesson.objective,
            model.model,
            closed,
            rows=round(len(lesson.rows) * training.epochs),
            pace=settings.learning_rate / training.learning_rate,
            rising=settings.rising,
        )
        with gated.attached():
            lesson = replace(lesson, objective=gated, judge=gated.judge)
            lesson.learn(model.model, training, folder, context, title)
        nn.Module.to(model.model, "cpu")
        gated.fold()
        return steps.learned(gated)
