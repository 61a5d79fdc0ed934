"""The model repository extension in this service's terms: what there is, load, unload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import ConflictError, NotLoadedError, UnknownModelError, UnsupportedInputError
from app.registry import Registry, VersionStatus
from app.routing import quoted

_STATES = {"ready": "READY", "loading": "LOADING", "draining": "UNLOADING"}


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One version of the repository as the extension tells of it."""

    name: str
    version: str
    state: str
    reason: str


async def index(registry: Registry, only_ready: bool) -> list[IndexRow]:
    """Every version, or those that answer."""
    rows = [_row(status) for status in await registry.status()]
    return [row for row in rows if row.state == "READY" or not only_ready]


async def load(registry: Registry, name: str, parameters: Mapping[str, object]) -> None:
    """Load a model's highest version and promote it: the extension's load names no version.

    Raises:
        UnknownModelError: there is no such model.
        UnsupportedInputError: a configuration or files come along.
        ArtifactError: the version cannot be trusted, or cannot run here.
    """
    if parameters:
        raise UnsupportedInputError(
            "load takes no configuration and no files; publish a version in the repository and load that"
        )
    highest = (await _versions(registry, name))[-1].key
    await registry.load(highest)
    await registry.promote(highest)


async def unload(registry: Registry, name: str) -> None:
    """Unload every version of a model; refused, and nothing is unloaded, where it is the default model.

    Raises:
        UnknownModelError: there is no such model.
        NotLoadedError: no version of it is loaded.
        ConflictError: it is the default model.
    """
    loaded = [status for status in await _versions(registry, name) if status.loaded]
    if not loaded:
        raise NotLoadedError(f"no version of {name} is loaded")
    if any(status.default for status in loaded):
        raise ConflictError(
            f"{name} is the default model; load another model before unloading it, or unload single versions "
            f"with POST /admin/models/{name}/<version>/unload"
        )
    # the promoted one last: until then, requests that name the model alone are answered
    for status in sorted(loaded, key=lambda status: status.promoted):
        await registry.unload(status.key)


async def _versions(registry: Registry, name: str) -> list[VersionStatus]:
    """A model's versions, the highest last."""
    rows = [status for status in await registry.status() if status.key.name == name]
    if not rows:
        raise UnknownModelError(f"there is no model {quoted(name)}; GET /v1/models lists them")
    return sorted(rows, key=lambda status: status.key)


def _row(status: VersionStatus) -> IndexRow:
    reason = "" if status.loaded else status.reason or ""
    return IndexRow(
        status.key.name, str(status.key.version), _STATES.get(status.state, "UNAVAILABLE"), reason
    )
