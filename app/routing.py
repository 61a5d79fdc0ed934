"""Which version answers a request. Pure: the service carries the plan out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.cascade import TierPlan
from app.errors import NotLoadedError, NotReadyError, UnknownModelError
from app.variant import VersionKey

_QUOTED_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a request: who answers, and by asking which tiers if it is a cascade."""

    primary: VersionKey
    tiers: tuple[TierPlan, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the repository holds, what is loaded, and what is promoted."""

    known: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    loaded: frozenset[VersionKey] = frozenset()
    promoted: Mapping[str, int] = field(default_factory=dict)
    default_model: str | None = None
    cascades: Mapping[VersionKey, tuple[TierPlan, ...]] = field(default_factory=dict)


def plan(catalog: Catalog, model: str | None, version: int | None) -> Plan:
    """Resolve what a request names, or does not name, to a loaded version.

    Raises:
        UnknownModelError: no such model or version.
        NotLoadedError: it exists but is not in memory.
        NotReadyError: nothing was named and the default is not serving yet.
    """
    key = resolve(catalog, model, version)
    return Plan(key, catalog.cascades.get(key, ()))


def resolve(catalog: Catalog, model: str | None, version: int | None) -> VersionKey:
    """The loaded version that a request means; the errors are those of `plan`."""
    name = catalog.default_model if model is None else model
    if name is None:
        raise NotReadyError("no model is serving yet; see /health/ready")
    if version is None:
        return _unversioned(catalog, name, named=model is not None)
    key = VersionKey(name, version)
    if key in catalog.loaded:
        return key
    if version in catalog.known.get(name, ()):
        raise NotLoadedError(f"{key} is not loaded; an operator loads it with POST /admin/models/{key}/load")
    raise _unknown(catalog, name, version)


def _unversioned(catalog: Catalog, name: str, named: bool) -> VersionKey:
    """The promoted version, else the highest loaded one."""
    promoted = catalog.promoted.get(name)
    if promoted is not None and VersionKey(name, promoted) in catalog.loaded:
        return VersionKey(name, promoted)
    loaded = [key for key in catalog.loaded if key.name == name]
    if loaded:
        return max(loaded)
    if not named:
        raise NotReadyError(f"the default model {name} is not serving yet; see /health/ready")
    if not catalog.known.get(name):
        raise _unknown(catalog, name, None)
    highest = VersionKey(name, max(catalog.known[name]))
    raise NotLoadedError(
        f"no version of {name} is loaded; an operator loads one with POST /admin/models/{highest}/load"
    )


def _unknown(catalog: Catalog, name: str, version: int | None) -> UnknownModelError:
    if name not in catalog.known:
        return UnknownModelError(f"there is no model {quoted(name)}; GET /v1/models lists them")
    return UnknownModelError(f"{name} has no version {version}; GET /v1/models lists them")


def quoted(name: str) -> str:
    """A client's name for something, short and printable enough to repeat."""
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return repr(printable[:_QUOTED_CHARACTERS] + ("..." if len(printable) > _QUOTED_CHARACTERS else ""))
