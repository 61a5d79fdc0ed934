"""From a version's folder to a tokenizer and a session: verified, the best build, what is known of its cost.

Blocks, and is called from threads. What it opens is not yet probed.
"""

from __future__ import annotations

import logging
import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from app import artifact
from app.artifact import TOKENIZER_FILE, Build, CascadeManifest, Manifest
from app.batcher import BatchLimits
from app.builds import Choice, rank_builds
from app.cost import CostModel
from app.engines import Device, PreparesShapes, accelerators, available_engines, load_engine, runtime_version
from app.errors import ArtifactError, EngineError
from app.hardware import Hardware, resident_memory_bytes
from app.repository import Repository
from app.session import Session
from app.settings import Settings
from app.threads import best_threads, candidates, core_budget, fixed_threads
from app.tokenizer import Tokenizer
from app.tuning import Place, Tuning
from app.variant import VersionKey, cost_grid, published_cost

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A version's parts in memory."""

    manifest: Manifest
    choice: Choice
    tokenizer: Tokenizer
    session: Session
    memory_bytes: int


class Opener:
    """Opens versions of one repository on one machine."""

    def __init__(
        self, settings: Settings, hardware: Hardware, repository: Repository, tuning: Tuning
    ) -> None:
        self.tuning = tuning
        self._settings, self._hardware, self._repository = settings, hardware, repository
        self._budget = core_budget(settings, hardware.cores)

    def open(self, key: VersionKey) -> Opened:
        """Verify a version and open its best build that opens.

        Raises:
            UnknownModelError: there is no such version.
            ArtifactError: it cannot be trusted, or nothing of it opens here.
        """
        folder, manifest = self._repository.folder(key), self._repository.manifest(key)
        if isinstance(manifest, CascadeManifest):
            raise ArtifactError(f"{key} is a cascade and has no builds of its own; its tiers are opened")
        choices = self.rank(manifest)
        before = resident_memory_bytes()
        with ThreadPoolExecutor(2, thread_name_prefix="bertpress-opening") as pool:
            verified = pool.submit(artifact.verify, folder, manifest)
            tokenizer = pool.submit(Tokenizer, folder / TOKENIZER_FILE, manifest.tokenizer)
            choice, session = self._open_first(manifest, choices, verified)
        try:
            # What was opened meanwhile is used only if every byte is the published one.
            verified.result()
            opened = tokenizer.result()
        except BaseException:
            if session is not None:
                session.engine.close()
            raise
        if session is None:
            raise ArtifactError(f"no build of {key} opens here: {choice.reason}")
        memory_bytes = max(resident_memory_bytes() - before, 0)
        return Opened(manifest, choice, opened, session, memory_bytes)

    def rank(self, manifest: Manifest) -> list[Choice]:
        """Every build that can run here, the best first by what is known so far."""
        settings = self._settings
        features, engines = self._hardware.features, available_engines()
        if any("cuda" in build.needs for build in manifest.builds):
            features |= accelerators()
        measured = {build.name: self.tuning.get(self.place(build)).best_rate for build in manifest.builds}
        rates = {name: rate for name, rate in measured.items() if rate is not None}
        threads = fixed_threads(settings, self._hardware.cores) or 1
        allowed = settings.allow_torchscript
        return rank_builds(manifest, features, engines, settings.build, allowed, rates, threads)

    def place(self, build: Build) -> Place:
        """What measurements of a build depend on."""
        hardware = self._hardware
        return Place(
            build.sha256,
            build.name,
            hardware.cpu,
            hardware.features,
            self._budget,
            runtime_version(build.engine),
        )

    def thread_candidates(self, build: Build) -> list[int]:
        """Threads of a pass that are worth a trial; none where there is nothing to choose."""
        fixed = fixed_threads(self._settings, self._hardware.cores)
        return [] if fixed is not None or device_of(build) != "cpu" else candidates(self._budget)

    def open_session(self, manifest: Manifest, build: Build, threads: int) -> Session:
        """Open a build's file on so many threads.

        Raises:
            EngineError: it does not open.
        """
        device = device_of(build)
        # What runs elsewhere needs no threads here, and one pass at a time keeps it busy.
        passes, inner = (1, 1) if device != "cpu" else (max(self._budget // threads, 1), threads)
        folder = self._repository.folder(VersionKey(manifest.name, manifest.version))
        engine = load_engine(build.engine, folder / build.file, inner, build.precision, passes, device)
        # Padding is a batch-mate as well: it must not change an answer.
        step = engine.length_step if build.batch_invariant and isinstance(engine, PreparesShapes) else 1
        return Session(engine, threads, self._cost(manifest, build, threads), step)

    def limits(self, manifest: Manifest, build: Build) -> BatchLimits:
        """What bounds a batch of a build.

        On a CPU no batch takes more memory for its attention than the longest text by itself: more rows of
        such a length would not be faster either, for they leave the caches.
        """
        settings, longest = self._settings, manifest.tokenizer.max_tokens
        pairs = longest**2 if device_of(build) == "cpu" else math.inf
        return BatchLimits(settings.max_batch_rows, settings.max_batch_tokens, build.batch_invariant, pairs)

    def _open_first(
        self, manifest: Manifest, choices: list[Choice], verified: Future[None]
    ) -> tuple[Choice, Session | None]:
        """The first choice that opens; none where none does, the last one's reason saying why."""
        failures = []
        for choice in choices:
            if choice.build.engine == "torchscript" and verified.exception() is not None:
                break  # this format can carry code: nothing of it is read before its checksum is known
            try:
                session = self.open_session(manifest, choice.build, self._threads(choice.build))
            except EngineError as error:
                log.warning("build %s of %s does not open: %s", choice.build.name, manifest.name, error)
                failures.append(f"build {choice.build.name} does not open: {error}")
                continue
            reason = "; ".join([choice.reason, *failures])
            return Choice(choice.build, reason), session
        return Choice(choices[-1].build, "; ".join(failures)), None

    def _threads(self, build: Build) -> int:
        if device_of(build) != "cpu":
            return self._budget
        fixed = fixed_threads(self._settings, self._hardware.cores)
        if fixed is not None:
            return fixed
        trials = self.tuning.get(self.place(build)).trials
        allowed = {threads: trial for threads, trial in trials.items() if self._budget % threads == 0}
        return best_threads(allowed) or 1

    def _cost(self, manifest: Manifest, build: Build, threads: int) -> CostModel:
        stored = self.tuning.get(self.place(build)).costs.get(threads, {})
        limits = self.limits(manifest, build)
        model = published_cost(manifest, build.name, limits, threads)
        for point in cost_grid(manifest, limits):
            if point in stored:
                model.measure(point, stored[point])
        model.extend()
        return model


def device_of(build: Build) -> Device:
    """Where a build runs."""
    return "cuda" if "cuda" in build.needs else "cpu"
