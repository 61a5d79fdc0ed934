"""The contract between the suite and the service: one published version of one model.

`<repository>/<name>/<version>/` holds `manifest.json`, the builds it lists, and the tokenizer and
configuration in Hugging Face's own form. A version is written to a temporary folder, its manifest last,
and renamed into place: a half-written version cannot be seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from app.errors import ArtifactError, ChecksumError, ManifestError

MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
CARD_FILE = "README.md"

EngineName = Literal["onnx", "openvino", "torchscript"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Head(_Frozen):
    """One task of the model: its labels stand in the order of its logits."""

    name: str
    labels: tuple[str, ...] = Field(min_length=2)


class Architecture(_Frozen):
    """Shapes; heads and FFN width are given per layer because pruning makes them uneven."""

    family: str
    layers: int = Field(ge=0)
    hidden_size: int = Field(ge=1)
    attention_heads: tuple[int, ...]
    ffn_width: tuple[int, ...]
    vocabulary: int = Field(ge=1)
    parameters: int = Field(ge=0)


class TokenizerSettings(_Frozen):
    """How text becomes at most `max_tokens` ids: `head_tokens` from its start, the rest from its end.

    Special tokens count: the first id belongs to the start, the last to the end. Truncation `head` is
    the case in which all but the closing special token come from the start.
    """

    max_tokens: int = Field(ge=2, le=8192)
    truncation: Literal["head", "head+tail"]
    head_tokens: int = Field(ge=1)
    pad_token_id: int = Field(ge=0)

    @model_validator(mode="after")
    def _tail_is_not_empty(self) -> TokenizerSettings:
        if not 1 <= self.head_tokens < self.max_tokens:
            raise ValueError(f"head_tokens must lie between 1 and {self.max_tokens - 1}")
        if self.truncation == "head" and self.head_tokens != self.max_tokens - 1:
            raise ValueError("truncation 'head' means head_tokens = max_tokens - 1")
        return self


class StoredFile(_Frozen):
    """One file of the version as it was published."""

    file: FileName
    sha256: Sha256
    bytes: int = Field(ge=0)


class BatchVariance(_Frozen):
    """How far answers moved between one unpadded row at a time and shuffled padded batches."""

    texts: int
    batch_size: int
    label_flip_rate: float
    max_probability_change: float


class Parity(_Frozen):
    """How one build answered beside the fp32 PyTorch model it came from, on the same rows.

    `emulated`: the CPU at hand lacked what the build needs, and its arithmetic was computed step by step.
    """

    dataset: str
    texts: int
    accuracy: float | None = None
    reference_accuracy: float | None = None
    label_flip_rate: float
    max_logit_difference: float
    max_probability_difference: float
    limit_note: str | None = None
    emulated: bool = False


class Build(StoredFile):
    """One runnable form of the model. `needs` names CPU features; `name` is unique in the version."""

    name: str
    engine: EngineName
    precision: Precision
    needs: tuple[str, ...] = ()
    batch_invariant: bool
    batch_variance: BatchVariance | None = None
    parity: Parity | None = None
    probe_tolerance: float = Field(gt=0)


class Probe(_Frozen):
    """A text and, per build name, the logits it must give within the build's `probe_tolerance`."""

    text: str
    logits: dict[str, tuple[float, ...]]


class Quality(_Frozen):
    """Accuracy of one build and head on labelled rows, beside the fp32 teacher on the same rows.

    `f1` is macro F1; `calibration_error` the expected one after the temperature; `mcnemar_p` how probable so
    uneven a division of the rows that only one of build and teacher gets right is by chance.
    """

    dataset: str
    split: str
    head: str = "label"
    build: str
    n: int
    accuracy: float
    accuracy_interval_95: tuple[float, float]
    teacher_accuracy: float | None = None
    retention: float | None = None
    label_flip_rate: float | None = None
    f1: float | None = None
    auc: float | None = None
    calibration_error: float | None = None
    mcnemar_p: float | None = None


class LatencyPoint(_Frozen):
    """Median and spread of one forward pass of `rows` rows of `tokens` ids each."""

    rows: int
    tokens: int
    median_ms: float
    p90_ms: float


class Cost(_Frozen):
    """What one build costs, and on which machine that was measured."""

    build: str
    cpu: str
    cpu_features: tuple[str, ...]
    threads: int
    runtime: str
    latency: tuple[LatencyPoint, ...]
    peak_resident_bytes: int | None = None
    measured_on: str


class Provenance(_Frozen):
    """Where the version came from; enough to make it again."""

    teacher: str
    recipe: str
    recipe_sha256: str
    data: str
    data_fingerprint: str
    seed: int
    code_revision: str | None = None
    libraries: dict[str, str]
    created_at: str


class _Version(_Frozen):
    """What stands in the manifest of every version, whatever its kind."""

    schema_version: Literal[1] = 1
    kind: Literal["model", "cascade"]
    name: ModelName
    version: int = Field(ge=1)
    description: str = ""
    heads: tuple[Head, ...] = Field(min_length=1)
    provenance: Provenance

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the first head, in logit order."""
        return self.heads[0].labels

    @property
    def stored_files(self) -> tuple[StoredFile, ...]:
        """Every file the version consists of, manifest.json itself aside."""
        raise NotImplementedError

    @property
    def bytes(self) -> int:
        """Size of the version's files, manifest.json itself aside."""
        unique = {stored.file: stored.bytes for stored in self.stored_files}
        return sum(unique.values())


class Manifest(_Version):
    """`manifest.json` of a model: everything the service and a reader need to know about a version."""

    kind: Literal["model"] = "model"
    architecture: Architecture
    tokenizer: TokenizerSettings
    builds: tuple[Build, ...] = Field(min_length=1)
    files: tuple[StoredFile, ...]
    probes: tuple[Probe, ...] = Field(min_length=1)
    quality: tuple[Quality, ...] = ()
    calibration_temperature: float = Field(default=1.0, gt=0)
    cost: tuple[Cost, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Manifest:
        names = [build.name for build in self.builds]
        if len(set(names)) != len(names):
            raise ValueError(f"build names must differ, got {names}")
        classes = sum(len(head.labels) for head in self.heads)
        for probe in self.probes:
            missing = sorted(set(names) - set(probe.logits))
            if missing:
                raise ValueError(f"a probe has no logits for the builds {missing}")
            if any(len(logits) != classes for logits in probe.logits.values()):
                raise ValueError(f"a probe does not have one logit for each of the {classes} labels")
        return self

    def bytes_to_run(self, build: Build) -> int:
        """Size of a build with the files that stand beside all builds: its weights may be one of those."""
        return build.bytes + sum(stored.bytes for stored in self.files)

    @property
    def stored_files(self) -> tuple[StoredFile, ...]:
        """Every file the version consists of, manifest.json itself aside."""
        return (*self.builds, *self.files)

    @property
    def identity(self) -> str:
        """sha256 of all that its answers depend on: files, builds, labels, tokenizer settings, temperature.

        Figures do not belong to it, nor does the model card, which is made of them: costs may be measured
        again on another machine.
        """
        builds = [(each.name, each.engine, each.precision, each.file) for each in self.builds]
        stored = sorted({(each.file, each.sha256) for each in self.stored_files if each.file != CARD_FILE})
        read = self.tokenizer.model_dump(mode="json", exclude_defaults=True)
        heads = [(head.name, head.labels) for head in self.heads]
        document = [heads, read, self.calibration_temperature, builds, stored]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class Tier(_Frozen):
    """A version that a cascade asks. `sha256` is its `Manifest.identity`, which covers all its checksums.

    Its answer stands where its score reaches `threshold`; the last tier has none, and every answer of it
    stands. `cost_ms` is one text alone, tokenization included, where the thresholds were fitted.
    """

    name: ModelName
    version: int = Field(ge=1)
    sha256: Sha256
    threshold: float | None = Field(default=None, ge=0, le=1)
    cost_ms: float = Field(gt=0)


class CascadeFigures(_Frozen):
    """How a cascade answers labelled rows. `shares` and `alone` have one figure per tier: how many texts it
    answers, and its accuracy where it answers all of them."""

    dataset: str
    split: str
    n: int
    accuracy: float
    accuracy_interval_95: tuple[float, float]
    shares: tuple[float, ...]
    alone: tuple[float, ...]
    cost_ms: float = Field(gt=0)


class Floor(_Frozen):
    """What the thresholds had to hold on the rows they were fitted on; `retention` is of the last tier."""

    accuracy: float = Field(ge=0, le=1)
    retention: float | None = Field(default=None, ge=0, le=1)


class CascadeManifest(_Version):
    """`manifest.json` of a cascade: cheap tiers first, dearer ones for what those are not sure of.

    `fitted` is on the rows the thresholds were fitted on, `quality` on rows that took no part in it.
    """

    kind: Literal["cascade"]
    tiers: tuple[Tier, ...] = Field(min_length=2, max_length=8)
    floor: Floor
    fitted: CascadeFigures
    quality: tuple[CascadeFigures, ...] = ()
    cpu: str
    files: tuple[StoredFile, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> CascadeManifest:
        if any(tier.threshold is None for tier in self.tiers[:-1]) or self.tiers[-1].threshold is not None:
            raise ValueError("every tier but the last has a threshold")
        if len({(tier.name, tier.version) for tier in self.tiers}) != len(self.tiers):
            raise ValueError("a version stands twice among the tiers")
        return self

    @property
    def stored_files(self) -> tuple[StoredFile, ...]:
        """Every file the version consists of, manifest.json itself aside: its tiers' are not among them."""
        return self.files


AnyManifest = Manifest | CascadeManifest
_ANY: TypeAdapter[AnyManifest] = TypeAdapter(Annotated[AnyManifest, Field(discriminator="kind")])


def read(folder: Path) -> Manifest:
    """Parse the manifest of a version of a model.

    Raises:
        ManifestError: missing, a link, not JSON, another schema, standing in a folder of another name, or
            that of a cascade.
    """
    manifest = read_any(folder)
    if isinstance(manifest, CascadeManifest):
        raise ManifestError(f"{folder} is a cascade, which has no builds of its own; name one of its tiers")
    return manifest


def read_any(folder: Path) -> AnyManifest:
    """Parse a version's manifest, of whatever kind.

    Raises:
        ManifestError: missing, a link, not JSON, another schema, or standing in a folder of another name.
    """
    path = folder / MANIFEST_FILE
    if path.is_symlink():
        raise ManifestError(f"{path} is a link, which may lead out of the repository; copy the version")
    try:
        raw = json.loads(path.read_bytes())
        manifest = _ANY.validate_python({"kind": "model", **raw} if isinstance(raw, dict) else raw)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "manifest"
        raise ManifestError(f"{path}: {where}: {first['msg']}") from error
    except ValueError as error:
        raise ManifestError(f"{path} is not valid JSON: {error}") from error
    if (manifest.name, str(manifest.version)) != (folder.parent.name, folder.name):
        raise ManifestError(
            f"{path} is the manifest of {manifest.name}/{manifest.version}, not of this folder"
        )
    return manifest


def verify(folder: Path, manifest: AnyManifest) -> None:
    """Check that every file is the one that was published.

    Raises:
        ChecksumError: a file is missing, leads out of the folder, or has other bytes.
    """
    for stored in manifest.stored_files:
        path = folder / stored.file
        if path.is_symlink() or not path.is_file():
            raise ChecksumError(f"{path} is missing or not a plain file; publish the version again")
        if path.stat().st_size != stored.bytes:
            found = path.stat().st_size
            raise ChecksumError(f"{path} has {found} bytes, published with {stored.bytes}; copy it again")
        if sha256(path) != stored.sha256:
            raise ChecksumError(f"{path} does not match its published sha256; copy it again")


def write(repository: Path, draft: AnyManifest, sources: Mapping[str, Path]) -> Path:
    """Publish a version and return its folder.

    `sources` maps each file name in the draft to where its bytes are now. The manifest is written last
    and the folder appears under its final name only when it is complete.

    Raises:
        ArtifactError: the version exists already, or a file of the manifest has no source.
    """
    target = repository / draft.name / str(draft.version)
    if target.exists():
        raise ArtifactError(f"{target} exists; versions are never overwritten, publish the next number")
    missing = sorted({stored.file for stored in draft.stored_files} - set(sources))
    if missing:
        raise ArtifactError(f"no source is given for {missing}")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".publishing-", dir=target.parent))
    try:
        for stored in draft.stored_files:
            shutil.copyfile(sources[stored.file], staging / stored.file)
        verify(staging, draft)
        body = json.dumps(draft.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (staging / MANIFEST_FILE).write_text(body + "\n", encoding="utf-8")
        staging.chmod(0o755)
        _sync(staging)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def versions(repository: Path, name: str) -> list[int]:
    """Version numbers present in the repository, ascending, complete or not."""
    folder = repository / name
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if re.fullmatch(r"[1-9]\d*", entry.name))


def model_names(repository: Path) -> list[str]:
    """Names of the models in the repository, sorted; folders with other names are not models."""
    if not repository.is_dir():
        return []
    pattern = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
    return sorted(
        entry.name for entry in repository.iterdir() if entry.is_dir() and pattern.fullmatch(entry.name)
    )


def newest_folders(repository: Path) -> dict[str, Path]:
    """The folder of each model's highest version, by name; models without a version are left out."""
    numbers = {name: versions(repository, name) for name in model_names(repository)}
    return {name: repository / name / str(found[-1]) for name, found in numbers.items() if found}


def newest_folder(repository: Path, name: str) -> Path:
    """The folder of a model's highest version.

    Raises:
        ArtifactError: the repository holds no version of it.
    """
    folders = newest_folders(repository)
    if name not in folders:
        there = ", ".join(folders) or "nothing"
        raise ArtifactError(f"{repository} holds no version of {name}; it has {there}")
    return folders[name]


def stored_file(path: Path) -> StoredFile:
    """Describe a file as it is now."""
    return StoredFile(file=path.name, sha256=sha256(path), bytes=path.stat().st_size)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
