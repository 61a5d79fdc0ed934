"""What a request gets: predictions made of logits, and where the time went. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.artifact import Head
from app.job import Logits
from app.tokenizer import Encoded
from app.variant import VersionKey


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """What a head beside the first one says of a text."""

    head: Head
    label: str
    probabilities: tuple[float, ...]

    @property
    def score(self) -> float:
        """The largest probability."""
        return max(self.probabilities)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One text's answer; `logits` and `probabilities` stand in the order of the model's labels.

    Of a model with several heads it is the first one's; `further` has those of the others, in their order.
    """

    label: str
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    tokens: int
    truncated: bool
    further: tuple[HeadAnswer, ...] = ()

    @property
    def score(self) -> float:
        """The largest probability."""
        return max(self.probabilities)


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went; queue, inference and batch are the largest over the texts."""

    queue_seconds: float
    tokenize_seconds: float
    inference_seconds: float
    total_seconds: float
    batch_rows: int = 0
    """Texts in the forward pass; 0 where none was run for this request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Predictions in the order of the texts, and which version gave them.

    Where that is a cascade, `tiers` says which of its tiers gave each one.
    """

    key: VersionKey
    labels: tuple[str, ...]
    predictions: list[Prediction]
    timing: Timing
    tiers: tuple[VersionKey, ...] = ()
    head: str = "label"
    """Name of the head whose labels these are."""


def predict(logits: Logits, encoded: Encoded, labels: tuple[str, ...], temperature: float) -> Prediction:
    """One text's prediction from its logits, (C,). Logits past the last label are padding of the graph."""
    values = tuple(logits[: len(labels)].tolist())
    probabilities = softmax(values, temperature)
    label = labels[probabilities.index(max(probabilities))]
    return Prediction(label, values, probabilities, len(encoded.input_ids), encoded.truncated)


def predict_heads(logits: Logits, encoded: Encoded, heads: Sequence[Head], temperature: float) -> Prediction:
    """One text's prediction from the logits of several heads side by side, (C,).

    The temperature is the first head's: the calibration knows no other.
    """
    first = predict(logits, encoded, heads[0].labels, temperature)
    further, start = [], len(heads[0].labels)
    for head in heads[1:]:
        probabilities = softmax(logits[start : start + len(head.labels)].tolist())
        further.append(HeadAnswer(head, head.labels[probabilities.index(max(probabilities))], probabilities))
        start += len(head.labels)
    return replace(first, further=tuple(further))


def softmax(logits: Sequence[float], temperature: float = 1.0) -> tuple[float, ...]:
    """Probabilities of a handful of classes, in double precision; numpy would take ten times as long."""
    largest = max(logits)
    shifted = [math.exp((value - largest) / temperature) for value in logits]
    total = sum(shifted)
    return tuple(value / total for value in shifted)
