"""What stands in paths: a model's name, a version's number. What does not fit is a 404."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from app.protocols.texts import LARGEST_VERSION

Name = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[int, Path(ge=1, le=LARGEST_VERSION)]
