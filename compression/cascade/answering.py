"""A published cascade answering by itself: its tiers asked in turn, as the service asks them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app import artifact
from app.artifact import CascadeManifest
from app.errors import ArtifactError
from compression.cascade.tiers import OpenTier, open_tier
from compression.evaluation import Logits


@dataclass(frozen=True)
class OpenCascade:
    """A cascade with all its tiers in memory."""

    manifest: CascadeManifest
    tiers: tuple[OpenTier, ...]

    @property
    def name(self) -> str:
        """Name and version."""
        return f"{self.manifest.name}/{self.manifest.version}"

    def probabilities(self, text: str) -> Logits:
        """What the first tier that is sure enough answers, else the last. Shape: (C,)."""
        for tier, described in zip(self.tiers, self.manifest.tiers, strict=True):
            found = tier.probabilities(text)
            if described.threshold is None or found.max() >= described.threshold:
                break
        return found


def open_cascade(folder: Path) -> OpenCascade:
    """Open a cascade's version folder; its tiers stand in the same repository.

    Raises:
        CompressionError: a tier is not there, or none of its builds runs here.
        ArtifactError: the folder holds no cascade, or a tier is not the one that the thresholds are for.
    """
    manifest = artifact.read_any(folder)
    if not isinstance(manifest, CascadeManifest):
        raise ArtifactError(f"{folder} is no cascade; name a version that is one")
    tiers = tuple(open_tier(folder.parent.parent, f"{tier.name}/{tier.version}") for tier in manifest.tiers)
    for tier, described in zip(tiers, manifest.tiers, strict=True):
        if tier.manifest.identity != described.sha256:
            raise ArtifactError(
                f"{tier.name} is not the version that {manifest.name}/{manifest.version} was fitted to: its "
                "checksums differ; make the cascade again"
            )
    return OpenCascade(manifest, tiers)


def open_served(folder: Path) -> OpenTier | OpenCascade:
    """Open a published version of either kind.

    Raises:
        CompressionError: no build runs here.
        ArtifactError: it cannot be trusted.
    """
    manifest = artifact.read_any(folder)
    if isinstance(manifest, CascadeManifest):
        return open_cascade(folder)
    return open_tier(folder.parent.parent, f"{manifest.name}/{manifest.version}")
