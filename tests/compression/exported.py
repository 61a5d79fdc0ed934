"""Tiny classifiers as graphs, made once for all tests that only read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.engines import load_engine
from compression.batches import Batch
from compression.classifier import Classifier
from compression.export import to_onnx
from tests.compression.tiny import tiny_classifier, uneven_classifier


@dataclass(frozen=True)
class Exported:
    """The classifier and its graph."""

    classifier: Classifier
    path: Path


# By family, and whether its layers are uneven.
Export = Callable[[str, bool], Exported]


def export(family: str, uneven: bool, folder: Path) -> Exported:
    classifier = uneven_classifier(family) if uneven else tiny_classifier(family)
    path = folder / "model.onnx"
    to_onnx(classifier.model, path, opset=17)
    return Exported(classifier, path)


def answers(path: Path, batch: Batch, engine: str = "onnx") -> npt.NDArray[np.float32]:
    """A build's logits. Shape: (B, C)."""
    return load_engine(engine, path, 1).logits(batch.input_ids.numpy(), batch.attention_mask.numpy())
