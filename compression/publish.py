"""From candidate builds to one published version: proven, judged, measured, described, written."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app import artifact
from app.artifact import Build, Head, Manifest, Probe, Quality, StoredFile
from app.engines import Engine
from app.errors import ManifestError, RecipeError
from app.tokenizer import Tokenizer
from compression import classifier, cost, model_card, parity
from compression.architecture import describe
from compression.assessment import assess
from compression.batches import Rows
from compression.calibration import fit_temperature
from compression.candidates import Candidate, gather
from compression.classifier import Classifier
from compression.cost import Opened
from compression.distillation.teacher_logits import teacher_logits
from compression.evaluation import Logits, accuracy, accuracy_interval, flip_rate
from compression.heads import slices
from compression.locks import exclusive
from compression.parity import GateSettings
from compression.provenance import provenance
from compression.slices import all_slices
from compression.stages.base import Context, Corpora, Input
from compression.stages.reading import read_by
from compression.training import Report

# Logits of a build may differ this much between machines: fp32 sums in another order, and int8 activations
# that a tiny difference rounds the other way.
_PROBE_TOLERANCE = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.1, "int8": 0.15}

# What a publication is about to write, kept in its stage's folder.
_INTENDED = "intended.json"

PROBE_TEXTS = (
    "A quiet, beautifully acted film that stays with you for days.",
    "Two hours of my life I will never get back.",
    "It is not that the jokes are bad, there simply are none.",
    "I expected little and was completely won over by the last scene.",
    "Fine.",
    "The sound was muddy, the chairs were hard, and yet nobody wanted to leave. " * 40,
)


@dataclass(frozen=True)
class Published:
    """A finished version, for the summary."""

    folder: Path
    manifest: Manifest


def publish(
    model: str,
    description: str,
    gate: GateSettings,
    inputs: Sequence[Input],
    context: Context,
    folder: Path,
    judged_rows: int | None = None,
) -> Path:
    """Prove every input build and write the version; returns its folder.

    `judged_rows` is how many rows of each test part judge it; None for all.

    Raises:
        ParityError: a build does not answer as its PyTorch model does; nothing is written.
        RecipeError: two builds have the same name.
    """
    written = _written_before(folder, context)
    if written is not None:
        return written
    gathered = gather([source.folder for source in inputs], folder / "builds")
    candidates = gathered.builds
    _check_names(candidates)
    source = classifier.load(str(candidates[0].build.model_folder))
    own, taught = read_by(source, context), context.all_corpora
    expected = reference(source, gate, own)
    sources = {**_files(source, own, folder), **gathered.files}
    proven = tuple(prove(candidate, expected, gate) for candidate in candidates)
    temperature = _temperature(candidates[0], expected)
    invariant = proven[0].batch_invariant
    draft = Manifest(
        name=model,
        version=1,
        description=description,
        heads=source.heads,
        architecture=describe(source.model),
        tokenizer=own.text,
        builds=proven,
        files=(),
        probes=_probes(proven, candidates, own, sources[artifact.TOKENIZER_FILE]),
        quality=tuple(
            quality
            for part, as_taught in zip(own.all_corpora, taught, strict=True)
            for quality in _qualities(
                candidates[0],
                source.heads,
                invariant,
                part,
                as_taught,
                context,
                temperature,
                folder,
                judged_rows,
            )
        ),
        calibration_temperature=temperature,
        cost=cost.measure(
            [Opened(each.build, each.path, each.engine) for each in candidates], own.text.max_tokens
        ),
        provenance=provenance(context),
    )
    built = {build.file for build in proven}
    files = tuple(_stored(name, sources[name]) for name in sorted(set(sources) - built))
    return write(draft.model_copy(update={"files": files}), sources, context.repository, folder)


def write(draft: Manifest, sources: dict[str, Path], repository: Path, folder: Path) -> Path:
    """Publish a draft under the next number, with its model card; runs that publish at once wait in line.

    What is about to be written is noted in the stage's folder.
    """
    repository.mkdir(parents=True, exist_ok=True)
    with exclusive(repository):
        return _write(draft, sources, repository, folder)


def _write(draft: Manifest, sources: dict[str, Path], repository: Path, folder: Path) -> Path:
    number = max(artifact.versions(repository, draft.name), default=0) + 1
    draft = draft.model_copy(update={"version": number})
    sources["README.md"] = model_card.write(draft, folder / "README.md")
    card = _stored("README.md", sources["README.md"])
    manifest = draft.model_copy(update={"files": (*draft.files, card)})
    (folder / _INTENDED).write_text(manifest.model_dump_json(), encoding="utf-8")
    return artifact.write(repository, manifest, sources)


def _written_before(folder: Path, context: Context) -> Path | None:
    """The version this stage wrote before it was killed, if it came so far: it is not published twice."""
    try:
        intended = Manifest.model_validate_json((folder / _INTENDED).read_text(encoding="utf-8"))
        target = context.repository / intended.name / str(intended.version)
        return target if artifact.read(target) == intended else None
    except (OSError, ValueError, ManifestError):
        return None


def _check_names(candidates: Sequence[Candidate]) -> None:
    counts = Counter(candidate.build.name for candidate in candidates)
    (name, count), *_ = counts.most_common(1)
    if count > 1:
        raise RecipeError(
            f"{count} builds named {name!r} are published as one version; their names must differ, for the "
            "service to choose between them: quantize them differently, or publish them apart"
        )


def reference(source: Classifier, gate: GateSettings, context: Context) -> parity.Reference:
    """What the builds of a model are held to, on its validation rows."""
    rows = context.validation_rows()
    return parity.reference(source.model, rows, rows.take(gate.texts), f"{context.data_name} validation")


def _files(source: Classifier, context: Context, folder: Path) -> dict[str, Path]:
    """config.json and the tokenizer in Hugging Face's own form, by file name."""
    staged = folder / "files"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    source.tokenizer.model_max_length = context.text.max_tokens
    source.tokenizer.save_pretrained(staged)
    # The same tokenizer without the line breaks and spaces that make a third of the file.
    source.tokenizer.backend_tokenizer.save(str(staged / artifact.TOKENIZER_FILE), pretty=False)
    source.model.config.save_pretrained(staged)
    return {path.name: path for path in staged.iterdir()}


def _temperature(candidate: Candidate, expected: parity.Reference) -> float:
    """What the first head's logits are divided by, fitted on the validation rows that have a label for it."""
    labels = expected.of(0).labels
    labelled = labels >= 0
    if not labelled.any():
        return 1.0
    logits = parity.one_by_one(candidate.engine, expected.rows, expected.chosen)
    return fit_temperature(logits[labelled][:, slices(expected.heads)[0]], labels[labelled])


def prove(candidate: Candidate, expected: parity.Reference, gate: GateSettings) -> Build:
    """Hold one build to the gate, alone and in company.

    Raises:
        ParityError: says which limit is broken, by how much.
    """
    build = candidate.build
    alone = parity.one_by_one(candidate.engine, expected.rows, expected.chosen)
    batched = parity.in_shuffled_batches(candidate.engine, expected.rows, expected.chosen)
    results, variances = [], []
    for number, part in enumerate(slices(expected.heads)):
        ours, together, theirs = alone[:, part], batched[:, part], expected.of(number)
        variances.append(parity.batch_variance(ours, together))
        found, in_company = parity.compare(ours, theirs), parity.compare(together, theirs)
        name = f"{build.name}, head {expected.heads[number].name}" if number else build.name
        held = gate.further if number else gate
        results.append(parity.check(found, in_company, build.precision, held, name))
    variance = parity.largest(variances)
    return Build(
        **artifact.stored_file(candidate.path).model_dump(),
        name=build.name,
        engine=build.engine,
        precision=build.precision,
        needs=build.needs,
        batch_invariant=parity.is_batch_invariant(variance),
        batch_variance=variance,
        parity=results[0],
        probe_tolerance=_PROBE_TOLERANCE[build.precision],
    )


def _probes(
    proven: Sequence[Build], candidates: Sequence[Candidate], context: Context, tokenizer_file: Path
) -> tuple[Probe, ...]:
    tokenizer = Tokenizer(tokenizer_file, context.text)
    probes = []
    for text in PROBE_TEXTS:
        input_ids = tokenizer.encode(text).input_ids[None, :]
        logits = {
            build.name: tuple(
                round(float(value), 6)
                for value in candidate.engine.logits(input_ids, np.ones_like(input_ids))[0]
            )
            for build, candidate in zip(proven, candidates, strict=True)
        }
        probes.append(Probe(text=text, logits=logits))
    return tuple(probes)


def _qualities(
    candidate: Candidate,
    heads: Sequence[Head],
    invariant: bool,
    part: Corpora,
    as_taught: Corpora,
    context: Context,
    temperature: float,
    folder: Path,
    judged_rows: int | None,
) -> list[Quality]:
    """Judge every head of the first build on a data set's test part, or on validation where there is none.

    What more there is to say of the first head is left in `folder`, as `assessment-DATA.json`.
    `part` and `as_taught` are the same texts as the build and as the teacher read them.
    """
    split = "validation" if part.test is None else "test"
    corpora = part.test or part.validation, as_taught.test or as_taught.validation
    rows, teacher_rows = (Rows(each.sample(judged_rows) if judged_rows else each) for each in corpora)
    taught_by = classifier.load(str(context.teacher.folder))
    report = context.report(f"teacher's logits on {part.name} {split}")
    classes, cache = sum(len(head.labels) for head in taught_by.heads), context.work / "logits"
    expected = teacher_logits(
        taught_by.model, context.teacher.key, teacher_rows, classes, cache, report=report
    ).numpy()
    logits = _answers(
        candidate.engine, rows, invariant, context.report(f"{candidate.build.name} on {part.name} {split}")
    )
    taught = dict(zip(taught_by.heads, slices(taught_by.heads), strict=True))
    judged = []
    for number, (head, ours) in enumerate(zip(heads, slices(heads), strict=True)):
        theirs = expected[:, taught[head]] if head in taught else None
        found = _quality(logits[:, ours], theirs, rows.labels_of(number))
        if found is not None and number == 0:
            found |= _assess(candidate, head, logits[:, ours], theirs, rows, part.name, temperature, folder)
        if found is not None:
            stated = Quality(
                dataset=part.name, split=split, head=head.name, build=candidate.build.name, **found
            )
            judged.append(stated)
    return judged


def _assess(
    candidate: Candidate,
    head: Head,
    logits: Logits,
    expected: Logits | None,
    rows: Rows,
    dataset: str,
    temperature: float,
    folder: Path,
) -> dict[str, Any]:
    """All figures into a file beside the publication; gives those that the manifest states."""
    labelled = rows.labels_of(0) >= 0
    whole = np.concatenate([np.diff(corpus.offsets) for corpus in rows.corpora])
    texts = [text for text, kept in zip(rows.texts, labelled, strict=True) if kept]
    assessment = assess(
        candidate.build.name,
        dataset,
        logits[labelled],
        rows.labels_of(0)[labelled],
        head.labels,
        temperature,
        None if expected is None else expected[labelled],
        all_slices(texts, whole[labelled], rows.corpora[0].settings.max_tokens),
    )
    assessment.write(folder / f"assessment-{dataset}.json")
    agreement, area = assessment.agreement, assessment.auc.value
    return {
        "f1": assessment.f1.value,
        "auc": None if np.isnan(area) else area,
        "calibration_error": assessment.calibration.error,
        "mcnemar_p": None if agreement is None else agreement.mcnemar.p_value,
    }


def _quality(logits: Logits, expected: Logits | None, labels: npt.NDArray[np.int64]) -> dict[str, Any] | None:
    """A head's figures on the rows that have a label for it; None where none has."""
    labelled = labels >= 0
    if not labelled.any():
        return None
    right = accuracy(logits[labelled], labels[labelled])
    figures: dict[str, Any] = {
        "n": int(labelled.sum()),
        "accuracy": right,
        "accuracy_interval_95": accuracy_interval(right, int(labelled.sum())),
    }
    if expected is not None:
        teacher_right = accuracy(expected[labelled], labels[labelled])
        figures["teacher_accuracy"] = teacher_right
        figures["retention"] = right / teacher_right if teacher_right else None
        figures["label_flip_rate"] = flip_rate(logits, expected)
    return figures


def _answers(engine: Engine, rows: Rows, invariant: bool, report: Report) -> Logits:
    """Every row as it would be served: alone, unless company does not change the answer."""
    run = parity.in_shuffled_batches if invariant else parity.one_by_one
    parts = []
    for start in range(0, len(rows), 256):
        stop = min(start + 256, len(rows))
        parts.append(run(engine, rows, range(start, stop)))
        report(stop, len(rows), "rows")
    return np.concatenate(parts)


def _stored(name: str, path: Path) -> StoredFile:
    return artifact.stored_file(path).model_copy(update={"file": name})
