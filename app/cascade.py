"""A loaded cascade: cheap tiers first, dearer ones for the texts that those are not sure of.

Its tiers are versions like any others, loaded once however many cascades ask them, and each can be asked by
its own name.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from app.artifact import CascadeManifest
from app.collectors import Counter
from app.leases import Leases
from app.metrics import VariantMetrics
from app.variant import Variant, VersionKey


@dataclass(frozen=True, slots=True)
class TierPlan:
    """A tier; its answer stands from this score on, the last one's always."""

    key: VersionKey
    threshold: float | None

    def settles(self, score: float) -> bool:
        """Whether an answer of this score stands."""
        return self.threshold is None or score >= self.threshold


class Cascade:
    """A cascade whose tiers are in memory."""

    def __init__(
        self,
        manifest: CascadeManifest,
        tiers: Sequence[Variant],
        metrics: VariantMetrics,
        tier_texts: Sequence[Counter],
    ) -> None:
        self.key = VersionKey(manifest.name, manifest.version)
        self.manifest, self.tiers = manifest, tuple(tiers)
        self.metrics = metrics
        self.tier_texts = {tier.key: texts for tier, texts in zip(tiers, tier_texts, strict=True)}
        self.leases = Leases()

    def lease(self) -> AbstractContextManager[None]:
        """Hold the cascade and its tiers in memory while a request needs them."""
        return self.leases.lease()

    @property
    def plan(self) -> tuple[TierPlan, ...]:
        """The tiers as routing sees them."""
        return plan_of(self.manifest)

    @property
    def last(self) -> Variant:
        """The tier whose answers always stand."""
        return self.tiers[-1]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of an answer's probabilities."""
        return self.manifest.labels

    @property
    def max_tokens(self) -> int:
        """Most tokens that every tier reads."""
        return min(tier.max_tokens for tier in self.tiers)

    @property
    def precision(self) -> str:
        """Precision of the tier whose answers always stand."""
        return self.last.precision

    @property
    def build_name(self) -> str:
        """Its tiers, the cheapest first."""
        return " > ".join(str(tier.key) for tier in self.tiers)

    @property
    def platform(self) -> str:
        """What runs it."""
        return "cascade"

    @property
    def threads(self) -> int:
        """Threads of a pass of the tier whose answers always stand."""
        return self.last.threads


Served = Variant | Cascade
"""Whatever can answer a request."""


def plan_of(manifest: CascadeManifest) -> tuple[TierPlan, ...]:
    """A cascade's tiers with their thresholds, the cheapest first."""
    return tuple(TierPlan(VersionKey(tier.name, tier.version), tier.threshold) for tier in manifest.tiers)
