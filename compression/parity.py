"""Does a build answer as the model it came from?

The reference is the fp32 PyTorch model. A build in fp32 must give its logits in any batch; one of lower
precision may change few labels and lose little accuracy. What fails is not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from torch import nn
from transformers import PreTrainedModel

from app.artifact import BatchVariance, Head, Parity
from app.engines import Engine
from app.errors import ParityError
from app.tokenizer import pad
from compression.batches import Rows
from compression.distillation.teacher_logits import logits_of
from compression.evaluation import Logits, accuracy, flip_rate, probabilities
from compression.heads import heads_of, slices
from compression.settings import Settings

_BATCH_ROWS = 16
# An answer may move this much with its batch-mates and still count as not depending on them.
_INVARIANT_PROBABILITY = 0.01


class GateSettings(Settings):
    """What a build of reduced precision may change. Looser limits than these need a `reason`."""

    max_label_flip_rate: float = Field(default=0.01, ge=0, le=1)
    max_accuracy_loss: float = Field(default=0.005, ge=0, le=1)
    fp32_tolerance: float = Field(default=1e-3, gt=0)
    texts: int = Field(default=1000, ge=1)
    reason: str | None = None

    @property
    def further(self) -> GateSettings:
        """What is asked of a head beside the first: its accuracy alone, for ratings change places easily."""
        return self.model_copy(update={"max_label_flip_rate": 1.0})

    @model_validator(mode="after")
    def _looser_needs_a_reason(self) -> GateSettings:
        looser = (
            self.max_label_flip_rate > 0.01 or self.max_accuracy_loss > 0.005 or self.fp32_tolerance > 1e-3
        )
        if looser and not self.reason:
            raise ValueError("limits looser than 1 % flips, 0.5 points and 1e-3 need a reason")
        return self


@dataclass(frozen=True)
class Reference:
    """The fp32 PyTorch answers a build is held to, on chosen rows of a data set.

    With `heads` the logits are those of all heads side by side; `of` gives one head's own reference.
    """

    dataset: str
    rows: Rows
    chosen: Sequence[int]
    logits: Logits
    heads: tuple[Head, ...] = ()
    number: int = 0

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """True labels of the chosen rows, -1 where a row has none."""
        return self.rows.labels_of(self.number)[list(self.chosen)]

    def of(self, number: int) -> Reference:
        """The same about one head alone."""
        return replace(self, logits=self.logits[:, slices(self.heads)[number]], number=number)


def reference(model: nn.Module, rows: Rows, chosen: Sequence[int], dataset: str) -> Reference:
    """Compute the answers a build is held to."""
    heads = heads_of(cast(PreTrainedModel, model).config)
    return Reference(dataset, rows, chosen, logits_of(model, rows, chosen), heads)


def one_by_one(engine: Engine, rows: Rows, chosen: Sequence[int]) -> Logits:
    """Every row alone and unpadded. Shape: (N, C)."""
    return np.concatenate([engine.logits(*_padded(rows, [row])) for row in chosen])


def in_shuffled_batches(engine: Engine, rows: Rows, chosen: Sequence[int], seed: int = 0) -> Logits:
    """The same rows in padded batches of random company. Shape: (N, C), in the order of `chosen`."""
    order = np.random.default_rng(seed).permutation(len(chosen))
    parts = [
        engine.logits(*_padded(rows, [chosen[index] for index in order[start : start + _BATCH_ROWS]]))
        for start in range(0, len(order), _BATCH_ROWS)
    ]
    shuffled = np.concatenate(parts)
    logits = np.empty_like(shuffled)
    logits[order] = shuffled
    return logits


def batch_variance(alone: Logits, batched: Logits) -> BatchVariance:
    """How far answers moved between running alone and running in company."""
    change = np.abs(probabilities(alone) - probabilities(batched)).max()
    return BatchVariance(
        texts=len(alone),
        batch_size=_BATCH_ROWS,
        label_flip_rate=flip_rate(batched, alone),
        max_probability_change=float(change),
    )


def largest(variances: Sequence[BatchVariance]) -> BatchVariance:
    """The worst of several heads' variances in every respect."""
    return variances[0].model_copy(
        update={
            "label_flip_rate": max(each.label_flip_rate for each in variances),
            "max_probability_change": max(each.max_probability_change for each in variances),
        }
    )


def is_batch_invariant(variance: BatchVariance) -> bool:
    """Whether an answer may be computed in any company."""
    return variance.label_flip_rate == 0 and variance.max_probability_change < _INVARIANT_PROBABILITY


def compare(logits: Logits, expected: Reference) -> Parity:
    """A build's answers beside the reference's."""
    labels = expected.labels
    labelled = bool((labels >= 0).all())
    return Parity(
        dataset=expected.dataset,
        texts=len(logits),
        accuracy=accuracy(logits, labels) if labelled else None,
        reference_accuracy=accuracy(expected.logits, labels) if labelled else None,
        label_flip_rate=flip_rate(logits, expected.logits),
        max_logit_difference=float(np.abs(logits - expected.logits).max()),
        max_probability_difference=float(
            np.abs(probabilities(logits) - probabilities(expected.logits)).max()
        ),
    )


def check(parity: Parity, batched: Parity, precision: str, gate: GateSettings, build: str) -> Parity:
    """Hold a build to the gate; returns its parity with the reason for looser limits, if there is one.

    Raises:
        ParityError: says which limit is broken, by how much.
    """
    if precision == "fp32":
        worst = max(parity.max_logit_difference, batched.max_logit_difference)
        _within("logits differ from PyTorch's by", worst, gate.fp32_tolerance, build)
    else:
        _within("label flips against PyTorch fp32", parity.label_flip_rate, gate.max_label_flip_rate, build)
        if parity.accuracy is not None and parity.reference_accuracy is not None:
            # Rounding noise of a subtraction must not fail a build that stands exactly on the limit.
            loss = round(parity.reference_accuracy - parity.accuracy, 9)
            _within("accuracy lost against PyTorch fp32", loss, gate.max_accuracy_loss, build)
    return parity.model_copy(update={"limit_note": gate.reason})


def _within(what: str, value: float, limit: float, build: str) -> None:
    if not value <= limit:
        raise ParityError(f"build {build}: {what} {value:.4g}, limit {limit:.4g}; it is not published")


def _padded(rows: Rows, chosen: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return pad([rows.row(row) for row in chosen], rows.pad_token_id)
