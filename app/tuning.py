"""What was measured while idle, kept for the next start: costs of passes, and what numbers of threads gave.

A small file beside the promotions. It holds nothing that cannot be measured again, so whatever is wrong with
it costs a log line and never a start.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from app.atomic import write_atomically
from app.cost import Point

log = logging.getLogger(__name__)

_SCHEMA = 2
# The entries of so many builds and machines are kept, the latest ones.
_MOST_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class Place:
    """What measurements depend on. Another build, processor, quota or runtime has measurements of its own."""

    sha256: str
    build: str
    cpu: str
    features: frozenset[str]
    cores: int
    runtime: str

    @property
    def key(self) -> str:
        """One line, readable in the file."""
        features = "+".join(sorted(self.features))
        return (
            f"{self.build} {self.sha256[:16]} | {self.cpu} {features} | {self.cores} cores | {self.runtime}"
        )


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Trial:
    """What so many threads a pass gave: passes on all cores at once, and one pass alone.

    Texts a second are a mean over short and long ones.
    """

    texts_per_second: Positive
    lone_seconds: Positive


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of one build at one place, by threads of a pass."""

    costs: Mapping[int, Mapping[Point, float]] = field(default_factory=dict)
    trials: Mapping[int, Trial] = field(default_factory=dict)

    @property
    def best_rate(self) -> float | None:
        """Texts a second of the best trial; None if there was none."""
        return max((trial.texts_per_second for trial in self.trials.values()), default=None)

    def with_cost(self, threads: int, points: Mapping[Point, float]) -> Measured:
        """With the costs of passes on so many threads."""
        return Measured({**self.costs, threads: dict(points)}, self.trials)

    def with_trials(self, trials: Mapping[int, Trial]) -> Measured:
        """With these trials beside those it has."""
        return Measured(self.costs, {**self.trials, **trials})


@dataclass(frozen=True, slots=True)
class _StoredEntry:
    costs: dict[Count, list[tuple[Count, Count, Positive]]]
    trials: dict[Count, Trial]


@dataclass(frozen=True, slots=True)
class _StoredFile:
    schema_version: int
    entries: dict[str, _StoredEntry]


_ADAPTER = TypeAdapter(_StoredFile)


class Tuning:
    """The file's entries in memory. May be used from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries = _read(path)

    def get(self, place: Place) -> Measured:
        """What is known of a place; nothing, if it is new."""
        with self._lock:
            return self._entries.get(place.key, Measured())

    def put(self, place: Place, measured: Measured) -> bool:
        """Remember, and replace the file in one step; False if that cannot be done (the log says so)."""
        with self._lock:
            self._entries.pop(place.key, None)
            self._entries[place.key] = measured
            for key in list(self._entries)[:-_MOST_ENTRIES]:
                del self._entries[key]
            body = _ADAPTER.dump_json(_stored(self._entries), indent=1)
            try:
                write_atomically(self._path, body)
            except OSError as error:
                log.warning(
                    "measurements cannot be written to %s (%s); the next start makes them again; "
                    "name a writable file in BERTPRESS_TUNING",
                    self._path,
                    error.strerror,
                )
                return False
            return True


def _read(path: Path) -> dict[str, Measured]:
    try:
        stored = _ADAPTER.validate_json(path.read_bytes())
        if stored.schema_version == _SCHEMA:
            return {key: _measured(entry) for key, entry in stored.entries.items()}
        log.warning("%s has schema %d, not %d; measuring again", path, stored.schema_version, _SCHEMA)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("measurements cannot be read from %s: %s; measuring again", path, error.strerror)
    except ValidationError as error:
        log.warning("%s does not hold measurements (%d faults); measuring again", path, error.error_count())
    return {}


def _measured(entry: _StoredEntry) -> Measured:
    costs = {
        threads: {(rows, length): seconds for rows, length, seconds in points}
        for threads, points in entry.costs.items()
    }
    return Measured(costs, entry.trials)


def _stored(entries: Mapping[str, Measured]) -> _StoredFile:
    rows = {key: {t: _flat(points) for t, points in m.costs.items()} for key, m in entries.items()}
    return _StoredFile(_SCHEMA, {key: _StoredEntry(rows[key], dict(m.trials)) for key, m in entries.items()})


def _flat(points: Mapping[Point, float]) -> list[tuple[int, int, float]]:
    return [(rows, length, seconds) for (rows, length), seconds in points.items()]
