"""A tiny classifier as ONNX graphs, before and after fusion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.engines import load_engine
from compression import graph
from compression.architecture import head_size, layer_shapes
from compression.batches import Batch
from compression.classifier import Classifier
from compression.export import to_onnx
from tests.compression.tiny import tiny_classifier, uneven_classifier


@dataclass(frozen=True)
class Exported:
    """The classifier and its graphs."""

    classifier: Classifier
    unfused: Path
    fused: Path
    operators: Counter[str]


# By family, and whether its layers are uneven.
Export = Callable[[str, bool], Exported]


def export(family: str, uneven: bool, folder: Path) -> Exported:
    classifier = uneven_classifier(family) if uneven else tiny_classifier(family)
    unfused, fused = folder / "unfused.onnx", folder / "model.onnx"
    to_onnx(classifier.model, unfused, opset=17)
    return Exported(classifier, unfused, fused, fuse(classifier, unfused, fused))


def fuse(classifier: Classifier, unfused: Path, fused: Path) -> Counter[str]:
    model = classifier.model
    return graph.fuse(unfused, fused, layer_shapes(model), model.config.hidden_size, head_size(model))


def answers(path: Path, batch: Batch, engine: str = "onnx") -> npt.NDArray[np.float32]:
    """A build's logits. Shape: (B, C)."""
    return load_engine(engine, path, 1).logits(batch.input_ids.numpy(), batch.attention_mask.numpy())
