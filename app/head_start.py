"""Opens the version that will serve first while the rest of the service is still being imported.

Importing takes most of a start, and one core; reading, checking and opening a model takes the other.
Nothing heavy is imported at the top of this file: that is left to the thread.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from app.settings import Settings

if TYPE_CHECKING:
    from app.opening import Opened
    from app.variant import VersionKey

log = logging.getLogger(__name__)


class HeadStart:
    """A thread that opens one version, and hands it to the first who asks for that very version."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: tuple[VersionKey, Opened] | None = None
        self._thread = threading.Thread(target=self._open, name="bertpress-head-start", daemon=True)
        self._thread.start()

    def take(self, key: VersionKey) -> Opened | None:
        """What was opened, if it is this version; waits for the thread."""
        self._thread.join()
        opened, self._opened = self._opened, None
        if opened is None:
            return None
        if opened[0] == key:
            return opened[1]
        opened[1].session.engine.close()
        return None

    def _open(self) -> None:
        try:
            self._opened = _open_first(self._settings)
        except Exception as error:  # whatever it is, the start itself meets it again, and says so
            log.debug("no head start: %s", error)


def _open_first(settings: Settings) -> tuple[VersionKey, Opened]:
    from app import hardware
    from app.first import first_versions
    from app.opening import Opener
    from app.promotions import read_promotions
    from app.repository import Repository
    from app.tuning import Tuning

    machine = hardware.detect(features_override=settings.cpu_features)
    repository = Repository(settings.models)
    key = first_versions(repository.versions(), read_promotions(settings.state), settings)[0]
    return key, Opener(settings, machine, repository, Tuning(settings.tuning_file)).open(key)
