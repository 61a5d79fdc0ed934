"""Whether the tiers a cascade names are the versions it was fitted on. Blocks."""

from __future__ import annotations

from collections.abc import Mapping

from app.artifact import CascadeManifest, Manifest, Tier
from app.errors import ArtifactError, ChecksumError, UnknownModelError
from app.repository import Repository
from app.variant import Variant, VersionKey


def checked_tiers(
    repository: Repository, cascade: CascadeManifest, loaded: Mapping[VersionKey, Variant]
) -> list[VersionKey]:
    """The versions that a cascade asks, the cheapest first.

    Raises:
        ArtifactError: a tier is not in the repository, is a cascade itself, answers with other labels, or
            is in memory from another manifest than the repository has.
        ChecksumError: a tier is not the version that the thresholds were fitted on.
    """
    return [_checked(repository, cascade, tier, loaded) for tier in cascade.tiers]


def _checked(
    repository: Repository, cascade: CascadeManifest, tier: Tier, loaded: Mapping[VersionKey, Variant]
) -> VersionKey:
    key, owner = VersionKey(tier.name, tier.version), f"{cascade.name}/{cascade.version}"
    try:
        manifest = repository.manifest(key)
    except UnknownModelError:
        raise ArtifactError(
            f"{owner} asks {key}, which the repository does not have; copy that version into it"
        ) from None
    if not isinstance(manifest, Manifest):
        raise ArtifactError(f"{owner} asks {key}, which is a cascade itself; name its tiers instead")
    if manifest.identity != tier.sha256:
        raise ChecksumError(
            f"{key} is not the version that {owner} was fitted on: its checksum begins with "
            f"{manifest.identity[:12]}, not with {tier.sha256[:12]}; restore it, or make the cascade again "
            "with `bertpress cascade`"
        )
    if manifest.labels != cascade.labels:
        raise ArtifactError(
            f"{owner} answers {', '.join(cascade.labels)} and its tier {key} {', '.join(manifest.labels)}; "
            "tiers have the same labels in the same order"
        )
    if key in loaded and loaded[key].manifest.identity != manifest.identity:
        raise ArtifactError(
            f"{key} is in memory from another manifest than the repository has now; unload it first"
        )
    return key
