"""What every engine offers, and how a build finds its own."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from app.errors import EngineError

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

# engine name -> (module of ours, runtime package it needs)
_ENGINES = {
    "onnx": ("app.engines.onnx", "onnxruntime"),
    "openvino": ("app.engines.openvino", "openvino"),
    "torchscript": ("app.engines.torchscript", "torch"),
}


class Engine(Protocol):
    """A loaded build. `logits` may be called from several threads at once."""

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Forward pass: (B, T) ids and mask to (B, C) float32 logits."""
        ...

    def close(self) -> None:
        """Give the runtime's memory back; the engine is not used again."""
        ...


class _EngineModule(Protocol):
    def load(self, path: Path, threads: int, precision: str | None) -> Engine: ...


def available_engines() -> frozenset[str]:
    """Engines whose runtime is installed, found without importing it."""
    return frozenset(name for name, (_, package) in _ENGINES.items() if importlib.util.find_spec(package))


def load_engine(engine: str, path: Path, threads: int, precision: str | None = None) -> Engine:
    """Load a build's file with its runtime on `threads` intra-op threads.

    `precision` is the build's own; a runtime that chooses its float precision by the CPU is held to it.

    Raises:
        EngineError: unknown engine, runtime not installed, or the file does not load.
    """
    if engine not in _ENGINES:
        raise EngineError(f"unknown engine {engine!r}; known: {sorted(_ENGINES)}")
    if engine not in available_engines():
        extra = "" if engine == "onnx" else f"; pip install 'bertpress[{engine}]'"
        raise EngineError(f"the runtime of engine {engine!r} is not installed{extra}")
    module = cast(_EngineModule, importlib.import_module(_ENGINES[engine][0]))
    return module.load(path, threads, precision)
