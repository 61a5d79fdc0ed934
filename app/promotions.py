"""What is promoted, kept in a small file so that it survives a restart."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.atomic import write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Promotions:
    """The default model, and each model's promoted version."""

    default_model: str | None = None
    versions: dict[str, int] = field(default_factory=dict)

    def promote(self, name: str, version: int) -> Promotions:
        """With this version its model's default, and that model the service's."""
        return Promotions(name, {**self.versions, name: version})

    def forget(self, name: str) -> Promotions:
        """Without a promoted version of this model."""
        return Promotions(self.default_model, {key: v for key, v in self.versions.items() if key != name})


_ADAPTER = TypeAdapter(Promotions)


def read_promotions(path: Path) -> Promotions:
    """What was written last; nothing if there is no file or it cannot be understood (the log says so)."""
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        return Promotions()
    except OSError as error:
        log.warning("what was promoted before cannot be read from %s: %s", path, error.strerror)
    except ValidationError as error:
        log.warning(
            "%s does not say what was promoted (%d faults); starting without it", path, error.error_count()
        )
    return Promotions()


def write_promotions(path: Path, promotions: Promotions) -> bool:
    """Replace the file in one step; False if it cannot be written (the log says so)."""
    try:
        body = json.dumps(_ADAPTER.dump_python(promotions), indent=2, sort_keys=True)
        write_atomically(path, body.encode())
    except OSError as error:
        log.warning(
            "what is promoted cannot be written to %s (%s) and will not survive a restart; "
            "name a writable file in BERTPRESS_STATE",
            path,
            error.strerror,
        )
        return False
    return True
