"""A published version as a tier: how it answers labelled texts, and what one text costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app import artifact
from app.artifact import Build, Manifest
from app.engines import Engine, available_engines, load_engine
from app.errors import CompressionError
from app.hardware import cpu_features, usable_cores
from app.tokenizer import Tokenizer
from compression.cascade.thresholds import TierAnswers
from compression.evaluation import Logits, probabilities
from compression.measurement import interleaved
from compression.training import Report, silent

_ROUNDS = 3


@dataclass(frozen=True)
class OpenTier:
    """A version in memory, with a build that runs here."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer
    engine: Engine

    @property
    def name(self) -> str:
        """Name and version."""
        return f"{self.manifest.name}/{self.manifest.version}"

    def logits(self, text: str) -> Logits:
        """What it answers for its first head, unpadded and alone. Shape: (C,)."""
        input_ids = self.tokenizer.encode(text).input_ids[None, :]
        answer: Logits = self.engine.logits(input_ids, np.ones_like(input_ids))[
            0, : len(self.manifest.labels)
        ]
        return answer

    def probabilities(self, text: str) -> Logits:
        """The same as probabilities, calibrated as the service does it. Shape: (C,)."""
        logits = self.logits(text) / np.float32(self.manifest.calibration_temperature)
        return probabilities(logits)


def open_tier(repository: Path, wanted: str) -> OpenTier:
    """Open `name` (its newest version) or `name/version` with the first of its builds that runs here.

    Raises:
        CompressionError: there is no such version, or none of its builds runs here.
        ArtifactError: it cannot be trusted, or is a cascade.
    """
    name, _, number = wanted.partition("/")
    known = artifact.versions(repository, name)
    if not known or (number and number not in map(str, known)):
        there = ", ".join(artifact.model_names(repository)) or "nothing"
        raise CompressionError(f"{repository} holds no {wanted}; it has {there}")
    folder = repository / name / (number or str(known[-1]))
    manifest = artifact.read(folder)
    artifact.verify(folder, manifest)
    build = _runnable(manifest, folder)
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, manifest.tokenizer)
    engine = load_engine(build.engine, folder / build.file, usable_cores(), build.precision)
    return OpenTier(folder, manifest, tokenizer, engine)


def _runnable(manifest: Manifest, folder: Path) -> Build:
    features, engines = cpu_features(), available_engines()
    for build in manifest.builds:
        if build.engine in engines and set(build.needs) <= features:
            return build
    raise CompressionError(f"no build of {folder} runs on this CPU with what is installed here")


def ask(
    tier: OpenTier,
    texts: Sequence[str],
    labels: npt.NDArray[np.int64],
    cost_ms: float,
    report: Report = silent,
) -> TierAnswers:
    """What a tier answers to every text, one at a time as the service may do it."""
    answers = []
    for number, text in enumerate(texts, start=1):
        answers.append(tier.probabilities(text))
        report(number, len(texts), "texts")
    found = np.stack(answers).astype(np.float64)
    return TierAnswers(tier.name, found.max(-1), found.argmax(-1) == labels, cost_ms)


def costs_ms(tiers: Sequence[OpenTier], texts: Sequence[str]) -> list[float]:
    """Milliseconds of one text alone, tokenization included: the mean over the texts of the best of three.

    All tiers take turns on each text, so that a machine that slows down slows down for all.
    """
    total = dict.fromkeys(range(len(tiers)), 0.0)
    for text in texts:
        calls = {str(index): _bound(tier, text) for index, tier in enumerate(tiers)}
        taken = interleaved(calls, _ROUNDS, warmup=1)
        for index in total:
            total[index] += min(taken[str(index)])
    return [seconds / len(texts) * 1e3 for seconds in total.values()]


def _bound(tier: OpenTier, text: str) -> Callable[[], object]:
    return lambda: tier.logits(text)
