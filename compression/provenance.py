"""What a version was made from and with, so that it can be made again."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from app.artifact import Provenance
from compression.stages.base import Context

_LIBRARIES = ("torch", "transformers", "accelerate", "onnx", "onnxruntime", "tokenizers", "numpy")


def provenance(context: Context) -> Provenance:
    """The run as the manifest states it. Paths are cut to their last part: they mean nothing elsewhere."""
    return provenance_of(
        teacher=Path(context.teacher_source).name,
        recipe=context.recipe.name,
        recipe_sha256=context.recipe.sha256,
        data_name=context.data_name,
        data_fingerprint=context.data_fingerprint,
        seed=context.recipe.teacher.seed,
    )


def provenance_of(
    *, teacher: str, recipe: str, recipe_sha256: str, data_name: str, data_fingerprint: str, seed: int
) -> Provenance:
    """The same with what is installed here, and the time."""
    return Provenance(
        teacher=teacher,
        recipe=recipe,
        recipe_sha256=recipe_sha256,
        data=data_name,
        data_fingerprint=data_fingerprint,
        seed=seed,
        code_revision=code_revision(),
        libraries=library_versions(),
        created_at=datetime.now(UTC).replace(microsecond=0).isoformat(),
    )


def library_versions() -> dict[str, str]:
    """The installed versions of what decides a result."""
    return {name: found for name in _LIBRARIES if (found := _version(name))}


def code_revision() -> str | None:
    """The git commit this code is of, if it runs from a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
