"""The model repository as the service sees it: which versions there are, and a checked way to open one."""

from __future__ import annotations

from pathlib import Path

from app import artifact
from app.artifact import AnyManifest
from app.errors import ArtifactError, ManifestError, UnknownModelError
from app.variant import VersionKey


class Repository:
    """A folder of <name>/<version>/ folders. Remembers manifests until their file changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._manifests: dict[VersionKey, tuple[tuple[int, int], AnyManifest | ManifestError]] = {}

    def versions(self) -> dict[str, tuple[int, ...]]:
        """Every version present, valid or not; models without one are left out."""
        found = {name: tuple(artifact.versions(self.root, name)) for name in artifact.model_names(self.root)}
        return {name: versions for name, versions in found.items() if versions}

    def manifest(self, key: VersionKey) -> AnyManifest:
        """Read a version's manifest.

        Raises:
            UnknownModelError: there is no such version.
            ManifestError: it cannot be trusted.
        """
        folder = self.folder(key)
        try:
            status = (folder / artifact.MANIFEST_FILE).stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = (0, 0)
        if key not in self._manifests or self._manifests[key][0] != stamp:
            self._manifests[key] = (stamp, _read(folder))
        outcome = self._manifests[key][1]
        if isinstance(outcome, ManifestError):
            raise outcome
        return outcome

    def folder(self, key: VersionKey) -> Path:
        """The version's folder.

        Raises:
            UnknownModelError: there is no such version.
            ArtifactError: it leads out of the repository.
        """
        if key.version not in self.versions().get(key.name, ()):
            raise UnknownModelError(f"the repository has no {key}; GET /v1/models lists what it has")
        folder = self.root / key.name / str(key.version)
        if not folder.resolve().is_relative_to(self.root.resolve()):
            raise ArtifactError(
                f"{folder} leads out of the repository; copy the version instead of linking it"
            )
        return folder


def _read(folder: Path) -> AnyManifest | ManifestError:
    try:
        return artifact.read_any(folder)
    except ManifestError as error:
        return error
