"""What stands in paths: a model's name, a version's number. What does not fit is a 404."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path

from app.protocols.texts import LARGEST_VERSION

_LONGEST_NAME = 64
_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"

Name = Annotated[str, Path(min_length=1, max_length=_LONGEST_NAME, pattern=_NAME)]
Version = Annotated[int, Path(ge=1, le=LARGEST_VERSION)]

PATH_SCHEMAS: dict[str, dict[str, Any]] = {
    "name": {"type": "string", "minLength": 1, "maxLength": _LONGEST_NAME, "pattern": _NAME},
    "version": {"type": "integer", "minimum": 1, "maximum": LARGEST_VERSION},
}
"""The same for routes that read their paths themselves."""
