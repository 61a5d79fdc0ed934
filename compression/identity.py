"""What tells one input of a stage from another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from app import artifact

_TOLD_BY = (".safetensors", ".bin", ".json", ".onnx", ".npy")


def hashed(*parts: Any) -> str:
    """SHA-256 of anything JSON can hold; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def identity(source: str) -> str:
    """Hash of a model or build folder's weights and configuration; the name itself for a hub id."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    files = sorted(path for path in folder.iterdir() if path.suffix in _TOLD_BY)
    return hashed([(path.name, artifact.sha256(path)) for path in files])
