"""What every engine offers, and how a build finds its own."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast, runtime_checkable

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


Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a build runs."""

    threads: int
    """Inside one pass."""
    precision: str | None = None
    """The build's own; a runtime that chooses its float precision by the CPU is held to it."""
    passes: int = 1
    """As many at once as the engine must be ready for."""
    device: Device = "cpu"


class Engine(Protocol):
    """A loaded build. `logits` may be called from several threads at once."""

    @property
    def description(self) -> str:
        """The runtime, and how it runs the build: device, precision."""
        ...

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Forward pass: (B, T) ids and mask to (B, C) float32 logits."""
        ...

    def close(self) -> None:
        """Give the runtime's memory back; the engine is not used again."""
        ...


@runtime_checkable
class KeepsMemory(Protocol):
    """An engine that keeps the memory of its largest passes for the next ones, until it is trimmed."""

    def trim(self) -> None:
        """Give back what no pass uses now."""
        ...


@runtime_checkable
class PreparesShapes(Protocol):
    """An engine that prepares itself for every shape it meets, and keeps that: few lengths serve it best."""

    @property
    def length_step(self) -> int:
        """Padded lengths should be multiples of this, where the model reads as many."""
        ...


class _EngineModule(Protocol):
    def load(self, path: Path, placement: Placement) -> Engine: ...


def available_engines() -> frozenset[str]:
    """Engines whose runtime is installed, found without importing it."""
    return frozenset(name for name, (_, package) in _ENGINES.items() if importlib.util.find_spec(package))


def runtime_version(engine: str) -> str:
    """The runtime and its version, found without importing it."""
    package = _ENGINES[engine][1]
    # onnxruntime comes under other names too, by what it runs on
    for name in (package, f"{package}-gpu"):
        try:
            return f"{package} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return package


def accelerators() -> frozenset[str]:
    """Devices beside the CPU that the installed ONNX Runtime was built for: what a build may `need`."""
    if "onnx" not in available_engines():
        return frozenset()
    import onnxruntime

    return frozenset({"cuda"} if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else ())


def load_engine(
    engine: str,
    path: Path,
    threads: int,
    precision: str | None = None,
    passes: int = 1,
    device: Device = "cpu",
) -> Engine:
    """Load a build's file with its runtime; see Placement.

    Raises:
        EngineError: unknown engine, runtime not installed, or the file does not load there.
    """
    if engine not in _ENGINES:
        raise EngineError(f"unknown engine {engine!r}; known: {sorted(_ENGINES)}")
    if engine not in available_engines():
        extra = "" if engine == "onnx" else f"; pip install 'bertpress[{engine}]'"
        raise EngineError(f"the runtime of engine {engine!r} is not installed{extra}")
    if device != "cpu" and engine != "onnx":
        raise EngineError(f"engine {engine!r} runs on the CPU alone, not on {device}")
    module = cast(_EngineModule, importlib.import_module(_ENGINES[engine][0]))
    return module.load(path, Placement(threads, precision, passes, device))
