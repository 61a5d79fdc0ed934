"""Which versions are loaded and promoted, and how one takes the other's place while requests flow.

Lives on the event loop; opening files runs in a thread, probes on the scheduler's workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from app.artifact import AnyManifest, CascadeManifest
from app.cascade import Cascade, Served
from app.errors import ArtifactError, BertpressError, ConflictError, NotLoadedError
from app.first import first_versions
from app.hardware import MIB, Hardware, resident_memory_bytes, return_free_memory, trim_memory
from app.head_start import HeadStart
from app.metrics import Metrics
from app.opening import Opened, Opener
from app.promotions import read_promotions, write_promotions
from app.repository import Repository
from app.routing import Catalog
from app.scheduler import Scheduler
from app.settings import Settings
from app.tiers import checked_tiers
from app.tuner import Tuner
from app.tuning import Tuning
from app.variant import Variant, VersionKey

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of the repository: what it is and what became of it."""

    key: VersionKey
    state: str
    """available, loading, ready, draining, or failed (then `reason` says why)."""
    default: bool
    promoted: bool
    manifest: AnyManifest | None
    variant: Variant | None
    reason: str | None
    cascade: Cascade | None = None

    @property
    def loaded(self) -> bool:
        """Whether it answers requests now."""
        return self.variant is not None or self.cascade is not None


class Registry:
    """Loads, promotes, drains and unloads versions, one operation at a time."""

    def __init__(
        self,
        settings: Settings,
        hardware: Hardware,
        scheduler: Scheduler,
        metrics: Metrics,
        head_start: HeadStart | None = None,
    ) -> None:
        self._settings, self._head_start = settings, head_start
        self._scheduler, self._metrics = scheduler, metrics
        self._repository = Repository(settings.models)
        self._opener = Opener(settings, hardware, self._repository, Tuning(settings.tuning_file))
        self._tuner = (
            Tuner(self._opener, scheduler, hardware, settings.lone_session) if settings.tune else None
        )
        self._promotions = read_promotions(settings.state)
        self._known: Mapping[str, tuple[int, ...]] = {}
        self._loaded: dict[VersionKey, Variant] = {}
        self._cascades: dict[VersionKey, Cascade] = {}
        self._busy: dict[VersionKey, str] = {}
        self._failures: dict[VersionKey, str] = {}
        self._operation = asyncio.Lock()
        self._default: VersionKey | None = None
        self._promoted: dict[str, int] = {}
        self.catalog = Catalog()

    @property
    def default(self) -> Served | None:
        """What answers a request that names nothing; None until it passed its probes."""
        key = self._default
        return None if key is None else self._loaded.get(key) or self._cascades.get(key)

    @property
    def loaded(self) -> tuple[Variant, ...]:
        """Models in memory that take requests."""
        return tuple(self._loaded.values())

    @property
    def served(self) -> tuple[Served, ...]:
        """The same, and the cascades that ask them."""
        return (*self._loaded.values(), *self._cascades.values())

    def get(self, key: VersionKey) -> Variant:
        """A model the catalog calls loaded."""
        return self._loaded[key]

    def cascade(self, key: VersionKey) -> Cascade:
        """A cascade the catalog calls loaded."""
        return self._cascades[key]

    def find(self, key: VersionKey) -> Served:
        """Whatever the catalog calls loaded."""
        return self._loaded.get(key) or self._cascades[key]

    async def start(self) -> None:
        """Load and promote the default model's best version, then what the settings name beside it.

        Raises:
            ArtifactError: no version of the default model can serve.
        """
        await self._refresh()
        self._promoted = {
            model: version
            for model, version in self._promotions.versions.items()
            if version in self._known.get(model, ())
        }
        async with self._operation:
            key = await self._load_first_valid()
            self._set_default(key)
        for entry in self._settings.preloaded:
            await self._preload(entry)

    async def load(self, key: VersionKey) -> None:
        """Bring a version into memory beside the others, a cascade with its tiers. Traffic stays where it is.

        Raises:
            UnknownModelError: there is no such version.
            ArtifactError: it cannot be trusted, or cannot run here.
        """
        async with self._operation:
            with self._counted("load"):
                await self._refresh()
                if key not in self.catalog.loaded:
                    self._repository.folder(key)  # what does not exist leaves no trace
                    await self._bring_up(key)

    async def promote(self, key: VersionKey) -> None:
        """Make a loaded version its model's default, and that model the service's.

        Raises:
            UnknownModelError: there is no such version.
            NotLoadedError: it is not in memory.
        """
        async with self._operation:
            with self._counted("promote"):
                self._require_loaded(key)
                self._set_default(key)
                self._promotions = self._promotions.promote(key.name, key.version)
                await asyncio.to_thread(write_promotions, self._settings.state, self._promotions)
                log.info("%s is promoted", key)

    async def unload(self, key: VersionKey) -> None:
        """Wait for the requests a version serves, then give its memory back.

        Raises:
            UnknownModelError: there is no such version.
            NotLoadedError: it is not in memory.
            ConflictError: it is the default, or a loaded cascade asks it.
        """
        async with self._operation:
            with self._counted("unload"):
                self._require_loaded(key)
                if key == self._default:
                    raise ConflictError(f"{key} is the default; promote another version before unloading it")
                self._refuse_tier(key)
                if self._promoted.get(key.name) == key.version:
                    del self._promoted[key.name]
                    self._promotions = self._promotions.forget(key.name)
                    await asyncio.to_thread(write_promotions, self._settings.state, self._promotions)
                await self._take_down(key)

    async def status(self) -> list[VersionStatus]:
        """Every version in the repository or in memory."""
        await self._refresh()
        keys = {VersionKey(name, version) for name, versions in self._known.items() for version in versions}
        keys |= self._loaded.keys() | self._cascades.keys() | self._busy.keys()
        return [await asyncio.to_thread(self._status, key) for key in sorted(keys)]

    def close(self) -> None:
        """Drop every engine; the scheduler has stopped."""
        if self._tuner is not None:
            self._tuner.close()
        for variant in self._loaded.values():
            variant.close()
        self._loaded.clear()
        self._cascades.clear()

    async def _load_first_valid(self) -> VersionKey:
        keys = first_versions(self._known, self._promotions, self._settings)
        for key in keys:
            try:
                await self._bring_up(key)
            except ArtifactError:
                continue  # _bring_up logged why
            return key
        reasons = "; ".join(self._failures[key] for key in keys)
        raise ArtifactError(f"no version of {keys[0].name} can serve: {reasons}")

    async def _preload(self, entry: str) -> None:
        """A model named here without a version means its promoted one, or its highest."""
        name, _, number = entry.partition("/")
        versions = self._known.get(name, ())
        if not versions or (number and number not in map(str, versions)):
            log.error("BERTPRESS_PRELOAD names %s, which is not in the repository", entry)
            return
        version = int(number) if number else self._promoted.get(name, max(versions))
        with suppress(BertpressError):  # logged; the default model serves all the same
            await self.load(VersionKey(name, version))

    async def _bring_up(self, key: VersionKey) -> None:
        with self._loading(key):
            cascade = await asyncio.to_thread(self._cascade_manifest, key)
            if cascade is not None:
                await self._bring_up_cascade(cascade)
                return
            variant = self._variant(await asyncio.to_thread(self._open, key))
            try:
                await self._probe(variant)
            except BaseException:
                variant.close()
                raise
        self._scheduler.add(variant)
        self._loaded[key] = variant
        self._publish_catalog()
        log.info(
            "%s is loaded: build %s on %d threads, %s; %s",
            key,
            variant.build.name,
            variant.session.threads,
            variant.session.engine.description,
            variant.reason,
        )
        self._after_load(variant)

    async def _bring_up_cascade(self, manifest: CascadeManifest) -> None:
        """Its tiers first, those in memory as they are; what was brought up for nothing goes again."""
        keys = await asyncio.to_thread(checked_tiers, self._repository, manifest, self._loaded)
        missing = [key for key in keys if key not in self._loaded]
        try:
            for key in missing:
                await self._bring_up(key)
        except BaseException:
            for key in missing:
                if key in self._loaded:
                    await self._take_down(key)
            raise
        metrics = self._metrics.variant(manifest.name, manifest.version, manifest.labels)
        texts = [self._metrics.tier_texts(manifest.name, manifest.version, str(key)) for key in keys]
        cascade = Cascade(manifest, [self._loaded[key] for key in keys], metrics, texts)
        self._cascades[cascade.key] = cascade
        self._publish_catalog()
        log.info("%s is loaded: a cascade of %s", cascade.key, ", ".join(map(str, keys)))

    def _cascade_manifest(self, key: VersionKey) -> CascadeManifest | None:
        manifest = self._repository.manifest(key)
        return manifest if isinstance(manifest, CascadeManifest) else None

    @contextmanager
    def _loading(self, key: VersionKey) -> Iterator[None]:
        """Say that a version is being loaded, and why it was not."""
        self._busy[key] = "loading"
        self._failures.pop(key, None)
        try:
            yield
        except Exception as error:
            self._failures[key] = str(error)
            log.error("%s was not loaded: %s", key, error)
            raise
        finally:
            del self._busy[key]

    def _after_load(self, variant: Variant) -> None:
        """What need not come before the first request."""
        # Opening leaves as much behind as the model is large.
        asyncio.get_running_loop().run_in_executor(None, trim_memory)
        if self._tuner is not None:
            self._tuner.begin(variant)

    def _open(self, key: VersionKey) -> Opened:
        head_start, self._head_start = self._head_start, None
        return (head_start and head_start.take(key)) or self._opener.open(key)

    def _variant(self, opened: Opened) -> Variant:
        manifest, limits = opened.manifest, self._opener.limits(opened.manifest, opened.choice.build)
        metrics = self._metrics.variant(manifest.name, manifest.version, manifest.labels)
        variant = Variant(manifest, opened.choice, opened.tokenizer, opened.session, limits, metrics)
        variant.memory_bytes = opened.memory_bytes
        return variant

    async def _probe(self, variant: Variant) -> None:
        """Every probe, as background work; what they take tells how this machine compares.

        One after the other: side by side they would slow each other, and need the memory of two passes.
        """
        numbers = range(len(variant.manifest.probes))
        calls: list[Callable[[], tuple[int, float]]] = [partial(variant.check_probe, n) for n in numbers]
        if not variant.session.cost.measured:
            calls.append(variant.longest_pass)
        passes = [
            await asyncio.wrap_future(self._scheduler.run_in_background(call, variant.session.threads))
            for call in calls
        ]
        variant.session.cost.fit(passes)
        await asyncio.wrap_future(self._scheduler.run_in_background(variant.trim))

    async def _take_down(self, key: VersionKey) -> None:
        before = resident_memory_bytes()
        self._busy[key] = "draining"
        served = self._cascades.pop(key, None) or self._loaded.pop(key)
        self._publish_catalog()
        try:
            await served.leases.all_returned()
        finally:
            del self._busy[key]
            if isinstance(served, Variant):
                self._scheduler.remove(served)
                served.close()
        del served
        await asyncio.to_thread(return_free_memory)
        after = resident_memory_bytes()
        log.info("%s is unloaded; resident %d MiB, before %d MiB", key, after // MIB, before // MIB)

    def _refuse_tier(self, key: VersionKey) -> None:
        for cascade in self._cascades.values():
            if any(tier.key == key for tier in cascade.tiers):
                raise ConflictError(f"{key} is a tier of {cascade.key}; unload that before it")

    def _require_loaded(self, key: VersionKey) -> None:
        if key not in self.catalog.loaded:
            self._repository.folder(key)
            raise NotLoadedError(f"{key} is not loaded; POST /admin/models/{key}/load first")

    def _set_default(self, key: VersionKey) -> None:
        self._default = key
        self._promoted[key.name] = key.version
        self._publish_catalog()

    async def _refresh(self) -> None:
        self._known = await asyncio.to_thread(self._repository.versions)
        self._publish_catalog()

    def _publish_catalog(self) -> None:
        self.catalog = Catalog(
            known=self._known,
            loaded=frozenset((*self._loaded, *self._cascades)),
            promoted=dict(self._promoted),
            default_model=None if self._default is None else self._default.name,
            cascades={key: cascade.plan for key, cascade in self._cascades.items()},
        )

    def _status(self, key: VersionKey) -> VersionStatus:
        variant, cascade = self._loaded.get(key), self._cascades.get(key)
        served: Served | None = variant or cascade
        manifest, reason = None, self._failures.get(key)
        try:
            manifest = served.manifest if served else self._repository.manifest(key)
        except BertpressError as error:
            reason = str(error)
        state = "ready" if served else self._busy.get(key) or ("failed" if reason else "available")
        promoted = self._promoted.get(key.name) == key.version
        return VersionStatus(key, state, key == self._default, promoted, manifest, variant, reason, cascade)

    @contextmanager
    def _counted(self, operation: str) -> Iterator[None]:
        outcome = "internal"
        try:
            yield
            outcome = "ok"
        except BertpressError as error:
            outcome = error.code
            raise
        finally:
            self._metrics.count_swap(operation, outcome)
