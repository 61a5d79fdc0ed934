"""Stages of the student that counts n-grams: its distillation and its export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from compression import classifier
from compression.batches import Rows
from compression.builds import CandidateBuild
from compression.classifier import Classifier
from compression.distillation.objective import DistillationSettings
from compression.distillation.teacher_logits import logits_of
from compression.evaluation import Logits, accuracy
from compression.ngrams import fitting, graph
from compression.ngrams.fitting import Fitted, FittingSettings
from compression.ngrams.hashing import buckets_within
from compression.ngrams.student import NgramForSequenceClassification, NgramShape, make_config
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by
from compression.stages.training import check_teachers, objective_of

_REPORT_FILE = "ngrams.json"


class NgramsStage(Stage):
    """A model without layers that sums a weight for each uni-, bi- and trigram of token ids, distilled from
    its inputs; it reads with the first one's tokenizer.

    `buckets` is how many rows the tables of bigrams and of trigrams have, a byte each for two classes;
    `max_tokens` how much of a text it reads, which costs it next to nothing. The stage's folder has an
    ngrams.json with the accuracy on validation before and after the weights were rounded to int8.
    """

    takes: ClassVar[tuple[str, ...]] = ("model", "model|linear")
    gives: ClassVar[str] = "ngrams"
    input_count: ClassVar[tuple[int, int]] = (1, 16)

    kind: Literal["ngrams"]
    buckets: int = Field(default=1 << 21, ge=16, le=1 << 28)
    max_tokens: int = Field(default=2048, ge=8, le=8192)
    distillation: DistillationSettings = DistillationSettings()
    fitting: FittingSettings = FittingSettings()

    def check_inputs(self, given: Mapping[str, str]) -> None:
        """Hold the inputs, and how many weights there are, to what the stage takes."""
        super().check_inputs(given)
        if self.distillation.compares_tokens:
            raise ValueError(f"stage {self.name!r} makes a model without layers; it learns from labels alone")
        check_teachers(self.name, self.inputs, given, self.distillation)

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Count, fit, round to int8, and write the model."""
        source = classifier.load(str(inputs[0].folder))
        buckets = buckets_within(self.buckets)
        shape = NgramShape(buckets, buckets, self.max_tokens)
        config = make_config(source.model.config, source.labels, shape)
        model = NgramForSequenceClassification(config)
        student = Classifier(model, source.tokenizer)
        own = read_by(student, context)
        rows = own.training_rows(self.distillation.unlabelled_rows)
        taught = self._taught(source, inputs, context, len(rows))
        report = context.report(self.name)
        features = fitting.counts(rows, shape, int(config.vocab_size))
        fitted = fitting.fit(
            features, rows.lengths, rows.labels, taught, self.distillation, self.fitting, report
        )
        fitting.fill(model, fitted, np.asarray(features.sum(0), dtype=np.float32).ravel())
        told = _accuracies(model, fitted, own)
        (folder / _REPORT_FILE).write_text(json.dumps(told, indent=2), encoding="utf-8")
        classifier.save(student, folder)

    def _taught(self, source: Classifier, teachers: Sequence[Input], context: Context, rows: int) -> Logits:
        """What the teachers say of every training row about the first head. Shape: (N, C)."""
        objective = objective_of(source, teachers, self.distillation, "auto", context, self.name)
        classes = len(source.labels)
        if objective.teacher_logits is None:
            return np.zeros((rows, classes), dtype=np.float32)
        return np.asarray(objective.teacher_logits[:, :classes].numpy(), dtype=np.float32)


class NgramsExportStage(Stage):
    """The n-gram model as an ONNX graph of gathers, whole-number hashing and sums, its tables in int8."""

    takes: ClassVar[tuple[str, ...]] = ("ngrams",)
    gives: ClassVar[str] = "build"

    kind: Literal["ngrams-export"]
    opset: int = Field(default=17, ge=17, le=20)

    def run(self, inputs: Sequence[Input], _: Context, folder: Path) -> None:
        """Write the graph."""
        source = inputs[0].folder
        model = classifier.load(str(source)).model
        assert isinstance(model, NgramForSequenceClassification)  # noqa: S101 - the recipe was checked
        graph.write(model, folder / "model.onnx", self.opset)
        CandidateBuild("onnx-int8", "onnx", "int8", "model.onnx", (), source).write(folder)


def _accuracies(
    model: NgramForSequenceClassification, fitted: Fitted, context: Context
) -> dict[str, dict[str, float]]:
    """On the validation part of every data set, with the weights as fitted and as rounded."""
    found = {}
    for part in context.all_corpora:
        rows = Rows(part.validation)
        features = fitting.counts(rows, model.shape, int(model.config.vocab_size))
        before = fitting.logits(features, rows.lengths, fitted)
        after = logits_of(model, rows, range(len(rows)))
        found[part.name] = {
            name: round(accuracy(logits, rows.labels), 5)
            for name, logits in (("fp64", before), ("int8", after))
        }
    return found
