"""From candidate builds to one published version: proven, judged, measured, described, written."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app import artifact
from app.artifact import Build, Manifest, Probe, StoredFile
from app.errors import ManifestError, RecipeError
from app.tokenizer import Tokenizer
from compression import classifier, cost, model_card, parity, quality
from compression.architecture import describe
from compression.calibration import fit_temperature
from compression.candidates import Candidate, gather
from compression.classifier import Classifier
from compression.cost import Opened
from compression.heads import slices
from compression.locks import exclusive
from compression.parity import GateSettings
from compression.provenance import provenance
from compression.stages.base import Context, Input
from compression.stages.reading import read_by

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

    `judged_rows` is how many rows of each test part judge its first build; None for all.

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
    own = read_by(source, context)
    expected = reference(source, gate, own)
    sources = {**_files(source, own, folder), **gathered.files}
    proven = tuple(prove(candidate, expected, gate) for candidate in candidates)
    temperature = _temperature(candidates[0], expected)
    asked = quality.Asked(
        source.heads,
        tuple(zip(candidates, [each.batch_invariant for each in proven], strict=True)),
        temperature,
    )
    runnable = [
        Opened(each.build, each.path, each.engine)
        for each in candidates
        if not each.emulated and "cuda" not in each.build.needs  # costs are those of CPUs
    ]
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
        quality=quality.judge(asked, own, context, folder, judged_rows),
        calibration_temperature=temperature,
        cost=cost.measure(runnable, own.text.max_tokens) if runnable else (),
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
    sources[artifact.CARD_FILE] = model_card.write(draft, folder / artifact.CARD_FILE)
    card = _stored(artifact.CARD_FILE, sources[artifact.CARD_FILE])
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
        checked = parity.check(found, in_company, build.precision, held, name)
        results.append(checked.model_copy(update={"emulated": candidate.emulated}))
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


def _stored(name: str, path: Path) -> StoredFile:
    return artifact.stored_file(path).model_copy(update={"file": name})
