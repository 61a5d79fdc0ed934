"""Which version serves first after a start. Pure, but for what it logs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from app.errors import ArtifactError
from app.promotions import Promotions
from app.settings import Settings
from app.variant import VersionKey

log = logging.getLogger(__name__)

Known = Mapping[str, tuple[int, ...]]
"""Versions in the repository, by model."""


def first_versions(known: Known, promotions: Promotions, settings: Settings) -> list[VersionKey]:
    """Versions of the default model in the order in which they are tried: the promoted one, then the highest.

    Raises:
        ArtifactError: there is no model, or not the one that the settings name.
    """
    name = _default_model(known, promotions, settings)
    versions = sorted(known[name], reverse=True)
    promoted = promotions.versions.get(name)
    if promoted in versions:
        versions = [promoted, *(version for version in versions if version != promoted)]
    return [VersionKey(name, version) for version in versions]


def _default_model(known: Known, promotions: Promotions, settings: Settings) -> str:
    """What was promoted last, else what the settings name, else the first by name."""
    if not known:
        raise ArtifactError(f"{settings.models} holds no model; name the repository in BERTPRESS_MODELS")
    if promotions.default_model in known:
        log.info("the default model is %s, after %s", promotions.default_model, settings.state)
        return str(promotions.default_model)
    if promotions.default_model is not None:
        log.warning(
            "%s names %s, which is not in the repository any more", settings.state, promotions.default_model
        )
    if settings.default_model is None:
        return min(known)
    if settings.default_model not in known:
        raise ArtifactError(
            f"BERTPRESS_DEFAULT_MODEL names {settings.default_model!r}; {settings.models} has {sorted(known)}"
        )
    log.info("the default model is %s, after BERTPRESS_DEFAULT_MODEL", settings.default_model)
    return settings.default_model
