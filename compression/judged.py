"""Whatever can answer, judged on labelled texts: a model folder, a build, a published version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app import artifact
from app.artifact import CascadeManifest, Head, TokenizerSettings
from app.errors import CompressionError, DataError
from compression import assessment, builds, checkpoint, classifier, corpus, data, parity, single_stage
from compression.assessment import Assessment
from compression.batches import Rows
from compression.candidates import answering, gather
from compression.cascade.answering import open_cascade
from compression.data import Dataset, DataSettings
from compression.distillation.teacher_logits import logits_of
from compression.evaluation import Logits
from compression.heads import slices
from compression.quality import columns_of
from compression.recipe import TextSettings
from compression.slices import all_slices
from compression.training import Report

_CHUNK_ROWS = 256


@dataclass(frozen=True)
class Source:
    """Something that answers: how it reads texts, its heads in logit order, and its answers on rows."""

    name: str
    heads: tuple[Head, ...]
    tokenizer_file: Path
    text: TokenizerSettings
    answers: Callable[[Rows, Sequence[int]], Logits]

    @property
    def labels(self) -> tuple[str, ...]:
        """Those of the first head."""
        return self.heads[0].labels


def evaluate(
    source: str,
    sources: Sequence[str],
    settings: DataSettings,
    text: TextSettings,
    work: Path,
    report: Callable[[str], Report],
    teacher: str | None = None,
    build: str | None = None,
) -> list[Assessment]:
    """Judge every head on the test part of every data set, or on validation where there is none.

    A further head is judged where the data have its column. A published version reads texts as its manifest
    says, everything else as `text` says. Builds answer one text at a time, as they are served. `build` names
    another build of a version than its first.

    Raises:
        CompressionError: no model, no such build, no data, or a teacher with other labels.
    """
    judged = opened(source, text, work, build)
    taught = None if teacher is None else opened(teacher, text, work)
    if taught is not None and taught.labels != judged.labels:
        raise DataError(
            f"the labels of {source} are {', '.join(judged.labels)}, those of {teacher} "
            f"{', '.join(taught.labels)}; answers are compared label by label"
        )
    if len(judged.heads) > 1:
        settings = data.with_heads(settings, judged.heads)
    else:
        settings = data.with_label_names(settings, judged.labels)
    datasets = data.load_all(sources, settings)
    return [found for dataset in datasets for found in assessed(judged, dataset, work, report, taught)]


def assessed(
    judged: Source,
    dataset: Dataset,
    work: Path,
    report: Callable[[str], Report],
    taught: Source | None = None,
) -> list[Assessment]:
    """Judge every head of what is open on data that are read, beside its teacher where that has the head."""
    rows = _rows(judged, dataset, work)
    logits = _answers(judged, rows, dataset.name, report)
    reference: dict[Head, Logits] = {}
    if taught is not None:
        expected = _answers(taught, _rows(taught, dataset, work), dataset.name, report)
        reference = {head: expected[:, part] for head, part in _parts(taught)}
    tokens = np.concatenate([np.diff(corpus.offsets) for corpus in rows.corpora])
    kinds = all_slices(rows.texts, tokens, judged.text.max_tokens, columns_of(rows, dataset.heads))
    found = []
    for number, (head, part) in enumerate(_parts(judged)):
        labels = rows.labels_of(number) if number < len(dataset.heads) else np.empty(0, np.int64)
        known = np.flatnonzero(labels >= 0)
        if not len(known):
            continue
        beside = reference[head][known] if head in reference else None
        own = {} if number else {name: chosen[known] for name, chosen in kinds.items()}
        found.append(
            assessment.assess(
                judged.name,
                dataset.name,
                logits[known][:, part],
                labels[known],
                head.labels,
                teacher=beside,
                slices={name: chosen for name, chosen in own.items() if chosen.any()},
                head=head.name,
            )
        )
    return found


def _parts(source: Source) -> list[tuple[Head, slice]]:
    """Every head and its part of the logits."""
    return list(zip(source.heads, slices(source.heads), strict=True))


def _rows(source: Source, dataset: Dataset, work: Path) -> Rows:
    """What is judged, as this source reads it."""
    split = dataset.test or dataset.validation
    return Rows(corpus.build(split, source.tokenizer_file, source.text, work / "tokens", dataset.name))


def _answers(source: Source, rows: Rows, dataset: str, report: Callable[[str], Report]) -> Logits:
    """Logits of all heads side by side. Shape: (N, C)."""
    told, parts = report(f"{source.name} on {dataset}"), []
    for start in range(0, len(rows), _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, len(rows))
        parts.append(source.answers(rows, range(start, stop)))
        told(stop, len(rows), "texts")
    return np.concatenate(parts)


def opened(source: str, text: TextSettings, work: Path, build: str | None = None) -> Source:
    """Open a version's folder (a cascade's too), a build's, a classifier's or its hub id, or a checkpoint of
    a training.

    Raises:
        CompressionError: it is none of these.
    """
    folder = Path(source)
    if (folder / artifact.MANIFEST_FILE).is_file():
        return _version(folder, build)
    if build is not None:
        raise CompressionError(f"{source} is no published version and has no builds to choose {build!r} from")
    if (folder / builds.FILE).is_file():
        return _build(folder, text, work)
    name, weights = source, checkpoint.weights_of(folder)
    if weights is not None:
        source = str(checkpoint.lay_out(weights, work / "judged" / "checkpoint"))
    model = classifier.load(source, any_family=True)
    tokenizer_file, settings = _reading(source, text, work)
    answers = lambda rows, chosen: logits_of(model.model, rows, chosen)  # noqa: E731
    return Source(name, model.heads, tokenizer_file, settings, answers)


def _version(folder: Path, name: str | None) -> Source:
    manifest = artifact.read_any(folder)
    if isinstance(manifest, CascadeManifest):
        return _cascade(folder, name)
    artifact.verify(folder, manifest)
    names = [build.name for build in manifest.builds]
    if name is not None and name not in names:
        raise CompressionError(
            f"{manifest.name}/{manifest.version} has no build {name[:60]!r}; it has {', '.join(names)}"
        )
    build = manifest.builds[0 if name is None else names.index(name)]
    engine, emulated = answering(build, folder / build.file)
    return Source(
        f"{manifest.name}/{manifest.version} ({_said(build.name, emulated)})",
        tuple(manifest.heads),
        folder / artifact.TOKENIZER_FILE,
        manifest.tokenizer,
        lambda rows, chosen: parity.one_by_one(engine, rows, chosen),
    )


def _cascade(folder: Path, build: str | None) -> Source:
    """Its tiers read texts in their own ways; tokens are counted as the last one has them."""
    cascade = open_cascade(folder)
    if build is not None:
        raise CompressionError(f"{cascade.name} is a cascade and has no builds to choose {build!r} from")
    last = cascade.tiers[-1]
    return Source(
        cascade.name,
        tuple(cascade.manifest.heads),
        last.folder / artifact.TOKENIZER_FILE,
        last.manifest.tokenizer,
        lambda rows, chosen: np.stack([_log(cascade.probabilities(rows.texts[row])) for row in chosen]),
    )


def _build(folder: Path, text: TextSettings, work: Path) -> Source:
    described = builds.read(folder)
    (candidate,) = gather([folder], work / "judged").builds
    tokenizer_file, settings = _reading(str(described.model_folder), text, work)
    heads = classifier.load(str(described.model_folder)).heads
    return Source(
        f"{folder} ({_said(described.name, candidate.emulated)})",
        heads,
        tokenizer_file,
        settings,
        lambda rows, chosen: parity.one_by_one(candidate.engine, rows, chosen),
    )


def _log(shares: Logits) -> Logits:
    found: Logits = np.log(np.maximum(shares, np.finfo(np.float32).tiny))
    return found


def _said(build: str, emulated: bool) -> str:
    return f"{build}, emulated" if emulated else build


def _reading(source: str, text: TextSettings, work: Path) -> tuple[Path, TokenizerSettings]:
    """A model's tokenizer as a file, and how much of a text it reads."""
    model = classifier.load(source, any_family=True)
    vocabulary = hashlib.sha256(model.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    folder = work / "tokenizers" / vocabulary[:12]
    model.tokenizer.save_pretrained(folder)
    settings = single_stage.text_of(text, model.longest_input, model.pad_token_id)
    return folder / artifact.TOKENIZER_FILE, settings
