"""Latency, throughput, memory and energy of every published build that runs here, in one run.

All builds take turns, and BERT-base with them where asked, so that figures can be compared; another table,
from another machine or day, can be read beside it with `read`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from app.artifact import Build, LatencyPoint, Manifest
from app.engines import available_engines, load_engine
from app.errors import DataError
from app.hardware import cpu_features, cpu_model, usable_cores
from compression import baseline, classifier, energy, peak_memory
from compression.benchmark import latest_versions
from compression.energy import Energy
from compression.measurement import Predict, latency
from compression.settings import Settings

_BATCH_ROWS = 16


class Throughput(Settings):
    """Rows a second in batches of equal length, from the median."""

    rows: int
    tokens: int
    rows_per_second: float


class EntryShape(Settings):
    """What decides how much a build computes; `attention` is the summed width of each layer's heads."""

    hidden_size: int
    attention: tuple[int, ...]
    ffn: tuple[int, ...]


class Entry(Settings):
    """One build's figures; energy is that of one text at a time at the longest length.

    `shape` is missing where nothing is known of it: BERT-base, and tables of earlier versions.
    """

    model: str
    build: str
    engine: str
    precision: str
    size_bytes: int
    peak_resident_bytes: int
    latency: tuple[LatencyPoint, ...]
    throughput: tuple[Throughput, ...]
    joules_per_1000: float
    watts: float
    energy_source: str
    shape: EntryShape | None = None


class EngineTable(Settings):
    """All entries of one run and the machine they were measured on."""

    cpu: str
    cpu_features: tuple[str, ...]
    threads: int
    measured_on: str
    rounds: int
    entries: tuple[Entry, ...]
    runtime: str = "not stated"


@dataclass(frozen=True)
class _Opened:
    model: str
    build: str
    engine: str
    precision: str
    size_bytes: int
    path: Path
    predict: Predict
    shape: EntryShape | None = None


def measure(models: Path, lengths: Sequence[int], rounds: int, beside_baseline: bool = True) -> EngineTable:
    """Measure the builds of the latest version of every model.

    Raises:
        ArtifactError: the repository holds no version.
    """
    threads = usable_cores()
    opened = [
        _open(manifest, folder, build)
        for folder, manifest in latest_versions(models)
        for build in manifest.builds
        if _runs_here(build)
    ]
    if beside_baseline:
        opened.append(_baseline(threads))
    calls = {f"{each.model} {each.build}": each.predict for each in opened}
    alone = latency(calls, lengths, rounds)
    batched = latency(calls, lengths, max(1, rounds // 3), rows=_BATCH_ROWS)
    used = energy.measure(
        {name: _bind(predict, max(lengths)) for name, predict in calls.items()},
        energy.meter(),
        turns=min(4, rounds),
    )
    entries = tuple(
        _entry(each, alone[name], batched[name], used[name], max(lengths), threads)
        for each, name in zip(opened, calls, strict=True)
    )
    return EngineTable(
        cpu=cpu_model(),
        cpu_features=tuple(sorted(cpu_features())),
        threads=threads,
        measured_on=datetime.now(UTC).date().isoformat(),
        rounds=rounds,
        entries=entries,
        runtime=f"onnxruntime {version('onnxruntime')}",
    )


def read(path: Path) -> EngineTable:
    """A table that was written earlier, here or on another machine.

    Raises:
        DataError: it is not there, or not such a table.
    """
    try:
        return EngineTable.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "table"
        raise DataError(
            f"{path} is not a table of `bertpress benchmark engine`: {where}: {first['msg']}"
        ) from error


def write(table: EngineTable, path: Path) -> None:
    """Leave the table as JSON."""
    path.write_text(table.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _entry(
    opened: _Opened,
    alone: Sequence[LatencyPoint],
    batched: Sequence[LatencyPoint],
    used: Energy,
    tokens: int,
    threads: int,
) -> Entry:
    return Entry(
        model=opened.model,
        build=opened.build,
        engine=opened.engine,
        precision=opened.precision,
        size_bytes=opened.size_bytes,
        peak_resident_bytes=peak_memory.measure(
            opened.engine, opened.path, tokens, threads, opened.precision
        ),
        latency=tuple(alone),
        throughput=tuple(
            Throughput(
                rows=point.rows, tokens=point.tokens, rows_per_second=point.rows / point.median_ms * 1e3
            )
            for point in batched
        ),
        joules_per_1000=used.joules_per_1000,
        watts=used.watts,
        energy_source=used.source,
        shape=opened.shape,
    )


def _open(manifest: Manifest, folder: Path, build: Build) -> _Opened:
    path = folder / build.file
    engine = load_engine(build.engine, path, usable_cores(), build.precision)
    return _Opened(
        f"{manifest.name}/{manifest.version}",
        build.name,
        build.engine,
        build.precision,
        manifest.bytes,
        path,
        engine.logits,
        _shape(manifest, folder),
    )


def _shape(manifest: Manifest, folder: Path) -> EntryShape | None:
    """From the manifest and, for the width of a head, config.json; None for what has no layers."""
    stated = manifest.architecture
    if not stated.layers:
        return None
    config = classifier.config_of(str(folder))
    head_size = config.hidden_size // config.num_attention_heads
    return EntryShape(
        hidden_size=stated.hidden_size,
        attention=tuple(heads * head_size for heads in stated.attention_heads),
        ffn=stated.ffn_width,
    )


def _baseline(threads: int) -> _Opened:
    model = baseline.bert_base()
    predict = baseline.predictor(model, threads)
    size = baseline.size_bytes(model)
    return _Opened(baseline.NAME, "torch-fp32", peak_memory.BASELINE, "fp32", size, Path("-"), predict)


def _runs_here(build: Build) -> bool:
    return build.engine in available_engines() and set(build.needs) <= cpu_features()


def _bind(predict: Predict, tokens: int) -> Callable[[], object]:
    ids = np.full((1, tokens), 7, dtype=np.int64)
    return lambda: predict(ids, np.ones_like(ids))
