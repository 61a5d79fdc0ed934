"""One runtime per file behind one protocol."""

from app.engines.base import (
    Device,
    Engine,
    KeepsMemory,
    PreparesShapes,
    accelerators,
    available_engines,
    load_engine,
    runtime_version,
)

__all__ = [
    "Device",
    "Engine",
    "KeepsMemory",
    "PreparesShapes",
    "accelerators",
    "available_engines",
    "load_engine",
    "runtime_version",
]
