"""A cascade out of published versions: thresholds fitted on validation, judged on test, and its manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app import artifact
from app.artifact import CascadeFigures, CascadeManifest, Floor, ModelName, Tier
from app.errors import CompressionError
from app.hardware import cpu_model
from compression import data
from compression.cascade.thresholds import Outcome, TierAnswers, fit, outcome
from compression.cascade.tiers import OpenTier, ask, costs_ms, open_tier
from compression.data import Dataset, DataSettings, Split
from compression.evaluation import accuracy_interval
from compression.provenance import provenance_of
from compression.settings import Settings
from compression.training import Report

_COST_TEXTS = 200


class CascadeRequest(Settings):
    """One call of `bertpress cascade`. `tiers` go from the cheapest to the best; one of the floors is given:
    an accuracy, or a share of the accuracy of the last tier."""

    repository: Path
    tiers: tuple[str, ...]
    data: tuple[str, ...]
    name: ModelName
    accuracy_floor: float | None = None
    retention_floor: float | None = None
    description: str = ""


@dataclass(frozen=True)
class PublishedCascade:
    """A finished cascade, for the summary."""

    folder: Path
    manifest: CascadeManifest


def make(
    request: CascadeRequest, settings: DataSettings, report: Callable[[str], Report]
) -> PublishedCascade:
    """Fit, judge and publish.

    Raises:
        CompressionError: fewer than two tiers, tiers of different labels, or a floor that cannot be held.
        ArtifactError: a tier that cannot be trusted.
        DataError: data that cannot be used.
    """
    tiers = _open(request)
    labels = tiers[-1].manifest.labels
    datasets = data.load_all(request.data, data.with_label_names(settings, labels))
    costs = costs_ms(tiers, _sample(datasets))
    split = _together([dataset.validation for dataset in datasets])
    asked = _ask(tiers, split, costs, report, "validation")
    floor = _floor(request, asked[-1])
    chosen = fit(asked, floor.accuracy)
    name = "+".join(dataset.name for dataset in datasets)
    fitted = _figures(name, "validation", asked, chosen)
    quality = []
    for dataset in datasets:
        if dataset.test is not None:
            found = _ask(tiers, dataset.test, costs, report, f"{dataset.name} test")
            quality.append(_figures(dataset.name, "test", found, outcome(found, chosen.thresholds)))
    draft = CascadeManifest(
        kind="cascade",
        name=request.name,
        version=max(artifact.versions(request.repository, request.name), default=0) + 1,
        description=request.description,
        heads=tiers[-1].manifest.heads[:1],
        tiers=tuple(
            _tier(tier, threshold, cost)
            for tier, threshold, cost in zip(tiers, (*chosen.thresholds, None), costs, strict=True)
        ),
        floor=floor,
        fitted=fitted,
        quality=tuple(quality),
        cpu=cpu_model(),
        provenance=provenance_of(
            teacher=tiers[-1].name,
            recipe="cascade",
            recipe_sha256=_identity(request, tiers),
            data_name=name,
            data_fingerprint=data.fingerprint(datasets),
            seed=settings.seed,
        ),
    )
    return PublishedCascade(artifact.write(request.repository, draft, {}), draft)


def _open(request: CascadeRequest) -> list[OpenTier]:
    if len(request.tiers) < 2:
        raise CompressionError(
            f"a cascade has at least two tiers, got {len(request.tiers)}; give --tier again"
        )
    tiers = [open_tier(request.repository, wanted) for wanted in request.tiers]
    last = tiers[-1].manifest
    for tier in tiers:
        if tier.manifest.labels != last.labels:
            raise CompressionError(
                f"{tier.name} answers {', '.join(tier.manifest.labels)}, {tiers[-1].name} "
                f"{', '.join(last.labels)}; tiers have the same labels in the same order"
            )
    names = [tier.name for tier in tiers]
    if len(set(names)) < len(names):
        raise CompressionError(f"a version is given twice as a tier: {', '.join(names)}")
    return tiers


def _sample(datasets: Sequence[Dataset]) -> list[str]:
    """Texts to measure costs on, evenly spread over the validation texts."""
    texts = [text for dataset in datasets for text in dataset.validation.texts]
    return [texts[index] for index in np.unique(np.linspace(0, len(texts) - 1, _COST_TEXTS).astype(int))]


def _together(splits: Sequence[Split]) -> Split:
    texts = tuple(text for split in splits for text in split.texts)
    return Split(texts, tuple(label for split in splits for label in split.labels or ()))


def _ask(
    tiers: Sequence[OpenTier],
    split: Split,
    costs: Sequence[float],
    report: Callable[[str], Report],
    what: str,
) -> list[TierAnswers]:
    labels = np.asarray(split.labels)
    return [
        ask(tier, split.texts, labels, cost, report(f"{tier.name} on {what}"))
        for tier, cost in zip(tiers, costs, strict=True)
    ]


def _floor(request: CascadeRequest, last: TierAnswers) -> Floor:
    if request.accuracy_floor is not None:
        return Floor(accuracy=request.accuracy_floor)
    if request.retention_floor is None:
        raise CompressionError("a cascade needs a floor: an accuracy, or a share of the last tier's")
    # Rounding noise of a product must not raise a floor that stands exactly on what is reached.
    wanted = round(request.retention_floor * last.accuracy, 9)
    return Floor(accuracy=wanted, retention=request.retention_floor)


def _figures(dataset: str, split: str, asked: Sequence[TierAnswers], found: Outcome) -> CascadeFigures:
    count = len(asked[0].scores)
    return CascadeFigures(
        dataset=dataset,
        split=split,
        n=count,
        accuracy=found.accuracy,
        accuracy_interval_95=accuracy_interval(found.accuracy, count),
        shares=found.shares,
        alone=tuple(tier.accuracy for tier in asked),
        cost_ms=found.cost_ms,
    )


def _tier(tier: OpenTier, threshold: float | None, cost_ms: float) -> Tier:
    return Tier(
        name=tier.manifest.name,
        version=tier.manifest.version,
        sha256=tier.manifest.identity,
        threshold=threshold,
        cost_ms=cost_ms,
    )


def _identity(request: CascadeRequest, tiers: Sequence[OpenTier]) -> str:
    """Hash of what was asked for."""
    asked = [[tier.name for tier in tiers], request.accuracy_floor, request.retention_floor]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
