"""A build on its way to publication: one file and what is known about it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from app.artifact import EngineName, Precision
from app.errors import CompressionError

# Where it is described.
FILE = "build.json"


@dataclass(frozen=True)
class CandidateBuild:
    """A build not yet proven. `model_folder` holds the PyTorch model it came from; `companions` are files
    the build's own file refers to."""

    name: str
    engine: EngineName
    precision: Precision
    file: str
    needs: tuple[str, ...]
    model_folder: Path
    companions: tuple[str, ...] = ()

    def size_bytes(self, folder: Path) -> int:
        """Bytes of its files in their folder."""
        return sum((folder / name).stat().st_size for name in (self.file, *self.companions))

    def write(self, folder: Path) -> None:
        """Leave the description beside the file."""
        described = asdict(self) | {"model_folder": str(self.model_folder)}
        (folder / FILE).write_text(json.dumps(described, indent=2), encoding="utf-8")


def read(folder: Path) -> CandidateBuild:
    """The build a stage left in its folder.

    Raises:
        CompressionError: its description cannot be read.
    """
    try:
        return _described(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompressionError(
            f"{folder / FILE} does not describe a build ({type(error).__name__}: {error}); export it again"
        ) from error


def _described(described: dict[str, Any]) -> CandidateBuild:
    return CandidateBuild(
        name=described["name"],
        engine=cast(EngineName, described["engine"]),
        precision=cast(Precision, described["precision"]),
        file=described["file"],
        needs=tuple(described["needs"]),
        model_folder=Path(described["model_folder"]),
        companions=tuple(described.get("companions", ())),
    )
