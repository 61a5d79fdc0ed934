"""Every shipped variant beside BERT-base in PyTorch fp32 and a linear n-gram model, all in one run.

Every figure is from text to answer, tokenization included. All models take turns on each text, so a
machine that slows down slows down for all.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from app import artifact
from app.artifact import Manifest, TokenizerSettings
from app.engines import load_engine
from app.errors import ArtifactError
from app.hardware import cpu_features, cpu_model, usable_cores
from app.tokenizer import Tokenizer
from compression import baseline, data, energy, ngram, peak_memory
from compression.data import Dataset, DataSettings
from compression.energy import Energy
from compression.evaluation import accuracy_interval
from compression.measurement import interleaved

LENGTHS = (32, 128, 512)
_BERT_TOKENS = 512
_WIDTH = 190


@dataclass(frozen=True)
class Contender:
    """A model under measurement: from a text to anything, and what is known of it beforehand."""

    name: str
    answer: Callable[[str], object]
    size_bytes: int
    peak_bytes: int
    accuracy: str


@dataclass(frozen=True)
class Line:
    """The figures of one contender. Latencies are medians in ms of one text of so many tokens."""

    name: str
    size_bytes: int
    peak_bytes: int
    accuracy: str
    latency_ms: dict[int, float]
    reviews_per_second: float
    energy: Energy | None = None


def main(models: Path, source: str | None, rounds: int, texts: int, json_file: Path | None) -> int:
    """Measure, print the table, and write JSON where asked."""
    console, threads = Console(width=_WIDTH), usable_cores()
    lines = figures(models, source, rounds, texts)
    console.print(_table(lines))
    console.print(_footnote(threads, texts), highlight=False)
    console.print(energy.footnote([line.energy for line in lines if line.energy]), highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(line) for line in lines], indent=2), encoding="utf-8")
    return 0


def figures(models: Path, source: str | None, rounds: int, texts: int) -> list[Line]:
    """Every model of a repository, BERT-base and, where there are data, the linear model."""
    dataset = None if source is None else data.load(source, DataSettings())
    with tempfile.TemporaryDirectory() as scratch:
        contenders = _contenders(models, dataset, usable_cores(), Path(scratch))
    reviews = sample(dataset, texts)
    return with_energy(measure(contenders, reviews, rounds), contenders, reviews, turns=min(4, rounds))


def measure(contenders: Sequence[Contender], reviews: Sequence[str], rounds: int) -> list[Line]:
    """Time all contenders in turn: at the stated lengths, and over real reviews one at a time."""
    latencies: dict[str, dict[int, float]] = {contender.name: {} for contender in contenders}
    for length in LENGTHS:
        text = _text_of(length)
        taken = interleaved({c.name: _bind(c.answer, text) for c in contenders}, rounds)
        for name, seconds in taken.items():
            latencies[name][length] = statistics.median(seconds) * 1e3
    seconds_all = _over_reviews(contenders, reviews)
    return [
        Line(
            c.name,
            c.size_bytes,
            c.peak_bytes,
            c.accuracy,
            latencies[c.name],
            len(reviews) / seconds_all[c.name],
        )
        for c in contenders
    ]


def with_energy(
    lines: Sequence[Line], contenders: Sequence[Contender], reviews: Sequence[str], turns: int
) -> list[Line]:
    """The same figures with the electricity each model takes for the reviews, one after the other."""
    calls = {contender.name: _endless(contender.answer, reviews) for contender in contenders}
    used = energy.measure(calls, energy.meter(), turns=turns)
    return [replace(line, energy=used[line.name]) for line in lines]


def _endless(answer: Callable[[str], object], reviews: Sequence[str]) -> Callable[[], object]:
    """The answer to the next review, from the first again after the last."""
    ahead = itertools.cycle(reviews)
    return lambda: answer(next(ahead))


def _over_reviews(contenders: Sequence[Contender], reviews: Sequence[str]) -> dict[str, float]:
    total = {contender.name: 0.0 for contender in contenders}
    for review in reviews:
        calls = {c.name: _bind(c.answer, review) for c in contenders}
        for name, seconds in interleaved(calls, rounds=1, warmup=0).items():
            total[name] += seconds[0]
    return total


def _bind(answer: Callable[[str], object], text: str) -> Callable[[], object]:
    return lambda: answer(text)


def _contenders(models: Path, dataset: Dataset | None, threads: int, scratch: Path) -> list[Contender]:
    versions = latest_versions(models)
    first_folder, first = versions[0]
    contenders = [_bert_base(first_folder, first, threads)]
    if dataset is not None:
        contenders.append(_linear(dataset, scratch, threads))
    return contenders + [variant(folder, manifest, threads) for folder, manifest in versions]


def latest_versions(models: Path) -> list[tuple[Path, Manifest]]:
    """The newest version of every model of a repository; cascades, which have no builds, are left out."""
    manifests = [(folder, artifact.read_any(folder)) for folder in published_folders(models)]
    return [(folder, manifest) for folder, manifest in manifests if isinstance(manifest, Manifest)]


def published_folders(models: Path) -> list[Path]:
    """The newest version of every model and cascade of a repository."""
    folders = list(artifact.newest_folders(models).values())
    if not folders:
        raise ArtifactError(f"{models} holds no published version; run `bertpress compress` first")
    return folders


def _bert_base(folder: Path, manifest: Manifest, threads: int) -> Contender:
    """The baseline reads with a variant's tokenizer: BERT's uncased vocabulary, up to 512 tokens."""
    settings = TokenizerSettings(
        max_tokens=_BERT_TOKENS, truncation="head", head_tokens=_BERT_TOKENS - 1, pad_token_id=0
    )
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, settings)
    model = baseline.bert_base()
    predict = baseline.predictor(model, threads)
    memory = peak_memory.measure(peak_memory.BASELINE, folder, manifest.tokenizer.max_tokens, threads)
    return Contender(baseline.NAME, through(tokenizer, predict), baseline.size_bytes(model), memory, "-")


def _linear(dataset: Dataset, scratch: Path, threads: int) -> Contender:
    model = ngram.fit(dataset.train.texts, dataset.train.labels or ())
    judged = dataset.test or dataset.validation
    right = float((model.predict(judged.texts) == np.asarray(judged.labels)).mean())
    path = scratch / "ngram.npy"
    model.save(path)
    memory = peak_memory.measure(peak_memory.NGRAM, path, 128, threads)
    score = _accuracy(right, len(judged))
    return Contender("linear n-gram model", lambda text: model.predict([text]), model.bytes, memory, score)


def variant(folder: Path, manifest: Manifest, threads: int) -> Contender:
    """A published version as it is served: its first build."""
    build = manifest.builds[0]
    path = folder / build.file
    engine = load_engine(build.engine, path, threads)
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, manifest.tokenizer)
    quality = manifest.quality[0]
    return Contender(
        name=f"{manifest.name}/{manifest.version} ({build.name})",
        answer=through(tokenizer, engine.logits),
        size_bytes=manifest.bytes,
        peak_bytes=peak_memory.measure(build.engine, path, manifest.tokenizer.max_tokens, threads),
        accuracy=_accuracy(quality.accuracy, quality.n),
    )


def through(tokenizer: Tokenizer, predict: Callable[..., object]) -> Callable[[str], object]:
    """From a text to what a model says of it, tokenization included."""

    def answer(text: str) -> object:
        input_ids = tokenizer.encode(text).input_ids[None, :]
        return predict(input_ids, np.ones_like(input_ids))

    return answer


def _accuracy(value: float, n: int) -> str:
    low, high = accuracy_interval(value, n)
    return f"{value:.2%} ({low:.2%} to {high:.2%})"


def _text_of(tokens: int) -> str:
    """A text of exactly so many tokens: common words are one each, and two are special."""
    words = ("the", "film", "was", "long", "and", "the", "cast", "very", "good")
    return " ".join(words[index % len(words)] for index in range(tokens - 2))


def sample(dataset: Dataset | None, count: int) -> list[str]:
    """Real reviews, or made-up texts of the lengths reviews have."""
    if dataset is None:
        lengths = np.random.default_rng(0).lognormal(5.4, 0.6, count).clip(16, 1000)
        return [_text_of(int(length)) for length in lengths]
    judged = dataset.test or dataset.validation
    chosen = np.random.default_rng(0).choice(len(judged), min(count, len(judged)), replace=False)
    return [judged.texts[index] for index in sorted(chosen)]


def _table(lines: Sequence[Line]) -> Table:
    table = Table(title="one text at a time, from text to answer")
    columns = [
        "model",
        "size",
        *(f"{length} tokens" for length in LENGTHS),
        "reviews/s",
        "peak memory",
        "energy per 1,000",
        "accuracy",
    ]
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "accuracy") else "right")
    slowest = lines[0]
    for line in lines:
        table.add_row(*_cells(line, slowest.latency_ms, slowest.reviews_per_second))
    return table


def _cells(line: Line, baseline_ms: Mapping[int, float], baseline_rate: float) -> list[str]:
    times = [f"{ms:.2f} ms ({baseline_ms[length] / ms:.1f}x)" for length, ms in line.latency_ms.items()]
    rate = f"{line.reviews_per_second:,.1f} ({line.reviews_per_second / baseline_rate:.1f}x)"
    size, peak = f"{line.size_bytes / 1e6:.1f} MB", f"{line.peak_bytes / 1e6:.0f} MB"
    used = "-" if line.energy is None else line.energy.text
    return [line.name, size, *times, rate, peak, used, line.accuracy]


def _footnote(threads: int, texts: int) -> str:
    features = ", ".join(sorted(cpu_features()))
    return (
        f"{cpu_model()} ({features}), {threads} threads, {datetime.now(UTC).date()}; medians, all models "
        f"taking turns; reviews/s over {texts} reviews. BERT-base has random weights and reads up to 512 "
        "tokens; a variant reads what its manifest says, cutting longer texts. Peak memory: a fresh process "
        "that loads the model and answers once."
    )
