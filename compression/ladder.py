"""What each step of the compression saves, one on top of the other, on real texts in one run.

The steps are those of FastFormers: BERT-base in PyTorch fp32 with every text padded to 512 tokens; only as
long as the text; a student; its graph in ONNX Runtime; int8; an instance for each core; pruning; a cascade.
Every figure is from text to answer, tokenization included, all texts one at a time.

Source: Kim, Awadalla 2020, FastFormers: Highly Efficient Transformer Models for NLU (table 6).
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from app import artifact
from app.artifact import CascadeManifest, Manifest, TokenizerSettings
from app.engines import load_engine
from app.hardware import cpu_features, cpu_model, usable_cores
from app.tokenizer import Tokenizer
from compression import baseline, classifier, data, export
from compression.data import DataSettings
from compression.evaluation import probabilities
from compression.measurement import Predict

Logits = npt.NDArray[np.float32]
Answer = Callable[[str], Logits]

BERT_TOKENS = 512
# Padded texts all take the same, so a part of them tells.
PADDED_TEXTS = 50
_OPSET = 17
_WIDTH = 150


@dataclass(frozen=True)
class Step:
    """One rung: how a text is answered, by so many instances at once.

    `judged` is false where the weights are random; `retention` is the manifest's, on the whole test part;
    `texts` is how many of the texts are timed (the rest is taken to last as long), and `rounds` how often.
    """

    name: str
    answer: Answer
    instances: int = 1
    judged: bool = True
    retention: float | None = None
    texts: int | None = None
    rounds: int | None = None


@dataclass(frozen=True)
class Rung:
    """The figures of a step: seconds for all texts, and accuracy on them (None with random weights)."""

    name: str
    seconds: float
    accuracy: float | None
    retention: float | None


@dataclass(frozen=True)
class Asked:
    """What the ladder is made of. `teacher` is the fp32 classifier in PyTorch; versions are named."""

    models: Path
    teacher: Path
    data: str
    versions: tuple[str, ...]
    texts: int
    rounds: int
    max_tokens: int


def main(asked: Asked, json_file: Path | None) -> int:
    """Climb, print the table, and write JSON where asked."""
    console, threads = Console(width=_WIDTH), usable_cores()
    texts, labels = _sample(asked)
    with tempfile.TemporaryDirectory() as scratch:
        rungs = climb(steps(asked, threads, Path(scratch)), texts, labels, asked.rounds, console.print)
    console.print(table(rungs))
    console.print(_footnote(asked, threads), highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(rung) for rung in rungs], indent=2), encoding="utf-8")
    return 0


def climb(
    steps: Iterable[Step],
    texts: Sequence[str],
    labels: npt.NDArray[np.int64],
    rounds: int,
    report: Callable[[str], object],
) -> list[Rung]:
    """Time every step over all texts, `rounds` times; medians."""
    rungs = []
    for step in steps:
        timed = texts[: step.texts]
        logits = [step.answer(text) for text in timed[:3]]  # warm
        taken = []
        for _ in range(step.rounds or rounds):
            started = time.perf_counter()
            logits = _all(step, timed)
            taken.append(time.perf_counter() - started)
        seconds = statistics.median(taken) * len(texts) / len(timed)
        right = float((np.stack(logits).argmax(-1) == labels[: len(timed)]).mean()) if step.judged else None
        rungs.append(Rung(step.name, seconds, right, step.retention))
        report(f"{step.name}: {seconds:.2f} s")
    return rungs


def _all(step: Step, texts: Sequence[str]) -> list[Logits]:
    if step.instances == 1:
        return [step.answer(text) for text in texts]
    with ThreadPoolExecutor(step.instances) as pool:
        return list(pool.map(step.answer, texts))


def steps(asked: Asked, threads: int, scratch: Path) -> Iterable[Step]:
    """Every rung, made when it is its turn, so that models do not share the memory."""
    bert_reads = _tokenizer(asked.teacher, BERT_TOKENS)
    bert = baseline.predictor(baseline.bert_base(), threads)
    padded = f"{baseline.NAME}, padded to {BERT_TOKENS}"
    teacher = classifier.load(str(asked.teacher))
    classes = len(teacher.labels)
    yield Step(padded, _padded(bert_reads, bert, classes), judged=False, texts=PADDED_TEXTS, rounds=1)
    yield Step("only as long as the text", _through(bert_reads, bert, classes), judged=False, rounds=1)
    del bert
    reads = _tokenizer(asked.teacher, asked.max_tokens)
    teacher.model.eval()
    yield Step("student, PyTorch fp32", _through(reads, baseline.predictor(teacher.model, threads), classes))
    export.to_onnx(teacher.model, scratch / "fp32.onnx", _OPSET)
    engine = load_engine("onnx", scratch / "fp32.onnx", threads)
    yield Step("graph, ONNX Runtime fp32", _through(reads, engine.logits, classes))
    engine.close()
    for number, name in enumerate(asked.versions):
        folder = artifact.newest_folder(asked.models, name)
        manifest = artifact.read_any(folder)
        if isinstance(manifest, CascadeManifest):
            yield _cascade(asked.models, manifest, threads)
            continue
        if number == 0:
            yield _published(folder, manifest, threads, 1)
        yield _published(folder, manifest, 1, threads)


def _published(folder: Path, manifest: Manifest, threads: int, instances: int) -> Step:
    name = f"{manifest.name}, {manifest.builds[0].name}{_several(instances)}"
    answer = _opened(folder, manifest, threads, instances)
    return Step(name, answer, instances, retention=manifest.quality[0].retention)


def _opened(folder: Path, manifest: Manifest, threads: int, instances: int) -> Answer:
    build = manifest.builds[0]
    engine = load_engine(build.engine, folder / build.file, threads, build.precision, instances)
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, manifest.tokenizer)
    return _through(tokenizer, engine.logits, len(manifest.labels))


def _several(instances: int) -> str:
    return f", {instances} instances" if instances > 1 else ""


def _cascade(models: Path, manifest: CascadeManifest, instances: int) -> Step:
    """The tiers as the service asks them: the next one where a score stays below the threshold."""
    tiers = []
    for tier in manifest.tiers:
        folder = models / tier.name / str(tier.version)
        asked = artifact.read(folder)
        tiers.append((_opened(folder, asked, 1, instances), asked.calibration_temperature, tier.threshold))

    def answer(text: str) -> Logits:
        for ask, temperature, threshold in tiers:
            logits = ask(text)
            if threshold is None or probabilities(logits[None, :] / temperature).max() >= threshold:
                break
        return logits

    taught, quality = asked.quality[0].teacher_accuracy, manifest.quality or (manifest.fitted,)
    retention = quality[0].accuracy / taught if taught else None
    names = " > ".join(tier.name for tier in manifest.tiers)
    return Step(f"{manifest.name}: {names}{_several(instances)}", answer, instances, retention=retention)


def _tokenizer(teacher: Path, tokens: int) -> Tokenizer:
    """The teacher's own; of longer texts a quarter is the head, as in the recipes of the shipped models."""
    pad_token_id = classifier.load(str(teacher)).pad_token_id
    settings = TokenizerSettings(
        max_tokens=tokens, truncation="head+tail", head_tokens=tokens // 4, pad_token_id=pad_token_id
    )
    return Tokenizer(teacher / artifact.TOKENIZER_FILE, settings)


def _through(tokenizer: Tokenizer, predict: Predict, classes: int) -> Answer:
    def answer(text: str) -> Logits:
        input_ids = tokenizer.encode(text).input_ids[None, :]
        return _first_head(predict(input_ids, np.ones_like(input_ids)), classes)

    return answer


def _padded(tokenizer: Tokenizer, predict: Predict, classes: int) -> Answer:
    def answer(text: str) -> Logits:
        ids = tokenizer.encode(text).input_ids
        room = (0, BERT_TOKENS - len(ids))
        input_ids = np.pad(ids, room)[None, :]
        return _first_head(predict(input_ids, np.pad(np.ones_like(ids), room)[None, :]), classes)

    return answer


def _first_head(logits: object, classes: int) -> Logits:
    """Logits of the one text's first head. Shape: (C,)."""
    row: Logits = np.asarray(logits)[0, :classes]
    return row


def _sample(asked: Asked) -> tuple[list[str], npt.NDArray[np.int64]]:
    dataset = data.load(asked.data, DataSettings())
    judged = dataset.test or dataset.validation
    chosen = np.random.default_rng(0).choice(len(judged), min(asked.texts, len(judged)), replace=False)
    labels = np.asarray(judged.labels or (), dtype=np.int64)
    return [judged.texts[index] for index in chosen], labels[chosen]


def table(rungs: Sequence[Rung]) -> Table:
    """The rungs with what each gains on the one before, and all on the first."""
    shown = Table(title="what each step saves")
    for column in ("step", "seconds", "on the step before", "in all", "accuracy here", "retained here"):
        shown.add_column(column, justify="left" if column == "step" else "right")
    shown.add_column("retained, whole test part", justify="right")
    reference = next((rung.accuracy for rung in rungs if rung.accuracy is not None), None)
    for before, rung in zip([rungs[0], *rungs], rungs, strict=False):
        here = None if rung.accuracy is None or not reference else rung.accuracy / reference
        shown.add_row(
            rung.name,
            f"{rung.seconds:.2f}",
            f"{before.seconds / rung.seconds:.2f}x",
            f"{rungs[0].seconds / rung.seconds:.1f}x",
            _percent(rung.accuracy),
            _percent(here),
            _percent(rung.retention),
        )
    return shown


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _footnote(asked: Asked, threads: int) -> str:
    features = ", ".join(sorted(cpu_features()))
    return (
        f"{asked.texts} texts, one at a time, from text to answer; {cpu_model()} ({features}), {threads} "
        f"cores, {datetime.now(UTC).date()}; medians of {asked.rounds} rounds, BERT-base once, padded on "
        f"{PADDED_TEXTS} texts. BERT-base has random weights. Retained: against the fp32 teacher, which is "
        "the student in PyTorch; here on these texts, else on the whole test part, as the manifest has it."
    )
