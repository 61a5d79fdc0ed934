"""What builds cost on this machine, beside BERT-base in PyTorch fp32 measured in the same run.

`python -m compression.cost models/NAME/VERSION` measures every build of a published version that this
machine can run and adds the figures to its manifest: which build is fastest depends on the CPU, and on
whether a pass has all of its cores (one text that is alone) or one (as many at once as there are cores).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from app import artifact
from app.artifact import Build, Cost, LatencyPoint
from app.engines import Engine, available_engines, load_engine
from app.errors import BertpressError
from app.hardware import cpu_features, cpu_model, usable_cores
from compression import baseline, peak_memory
from compression.builds import CandidateBuild
from compression.measurement import Predict, latency

LENGTHS = (32, 128, 256, 512)
_ROUNDS = 15
_RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "torchscript": "torch"}


@dataclass(frozen=True)
class Opened:
    """A build to measure: candidate or published, its file, and the engine that runs it."""

    build: CandidateBuild | Build
    path: Path
    engine: Engine


def measure(opened: Sequence[Opened], max_tokens: int) -> tuple[Cost, ...]:
    """Costs of the builds on all cores and of the baseline, run alternately, then of the builds on one.

    Lengths up to what the model reads.
    """
    threads = usable_cores()
    lengths = _lengths(max_tokens)
    models: dict[str, Predict] = {each.build.name: each.engine.logits for each in opened}
    models[baseline.NAME] = baseline.predictor(baseline.bert_base(), threads)
    points = latency(models, lengths, _ROUNDS)
    costs = [_cost_of(each, points[each.build.name], threads) for each in opened]
    memory = peak_memory.measure(peak_memory.BASELINE, Path("-"), lengths[-1], threads)
    costs.append(_cost(baseline.NAME, points[baseline.NAME], memory, "torch", threads))
    return (*costs, *(measure_on_one_core(opened, max_tokens) if threads > 1 else ()))


def measure_on_one_core(opened: Iterable[Opened], max_tokens: int) -> tuple[Cost, ...]:
    """Costs of passes of one thread, the builds taking turns: how the service runs where many ask at once."""
    alone = [
        Opened(each.build, each.path, load_engine(each.build.engine, each.path, 1, each.build.precision))
        for each in opened
    ]
    points = latency({each.build.name: each.engine.logits for each in alone}, _lengths(max_tokens), _ROUNDS)
    for each in alone:
        each.engine.close()
    return tuple(_cost_of(each, points[each.build.name], 1) for each in alone)


def _lengths(max_tokens: int) -> list[int]:
    return [length for length in LENGTHS if length <= max_tokens] or [max_tokens]


def _cost_of(opened: Opened, points: list[LatencyPoint], threads: int) -> Cost:
    build = opened.build
    memory = peak_memory.measure(build.engine, opened.path, points[-1].tokens, threads, build.precision)
    return _cost(build.name, points, memory, _RUNTIMES[build.engine], threads)


def of_baseline(costs: Iterable[Cost]) -> Cost | None:
    """What BERT-base took where the builds were measured first."""
    return next((cost for cost in costs if cost.build == baseline.NAME), None)


def add_measurement(folder: Path, one_core: bool = False) -> tuple[Cost, ...]:
    """Measure every build of a published version that runs here, and put the figures into its manifest.

    With `one_core` only passes of one thread are measured. Figures of the same CPU and number of threads are
    replaced, what is new comes first unless it is of one core alone. No other file of the version changes.

    Raises:
        ArtifactError: the folder is not a version that can be trusted.
    """
    manifest = artifact.read(folder)
    artifact.verify(folder, manifest)
    usable = [_opened(build, folder / build.file) for build in manifest.builds if _runs_here(build)]
    measured = (measure_on_one_core if one_core else measure)(usable, manifest.tokenizer.max_tokens)
    here = {(cost.cpu, cost.threads) for cost in measured}
    kept = tuple(cost for cost in manifest.cost if (cost.cpu, cost.threads) not in here)
    costs = (*kept, *measured) if one_core else (*measured, *kept)
    updated = manifest.model_copy(update={"cost": costs})
    partial = folder / f".{artifact.MANIFEST_FILE}.partial"
    partial.write_text(
        json.dumps(updated.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    partial.replace(folder / artifact.MANIFEST_FILE)
    return measured


def _opened(build: Build, path: Path) -> Opened:
    return Opened(build, path, load_engine(build.engine, path, usable_cores(), build.precision))


def _runs_here(build: Build) -> bool:
    return build.engine in available_engines() and set(build.needs) <= cpu_features()


def _cost(name: str, points: list[LatencyPoint], memory: int, package: str, threads: int) -> Cost:
    return Cost(
        build=name,
        cpu=cpu_model(),
        cpu_features=tuple(sorted(cpu_features())),
        threads=threads,
        runtime=f"{package} {version(package)}",
        latency=tuple(points),
        peak_resident_bytes=memory,
        measured_on=datetime.now(UTC).date().isoformat(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a published version on this machine."""
    parser = argparse.ArgumentParser(prog="python -m compression.cost", description=__doc__)
    parser.add_argument("version", type=Path, metavar="models/NAME/VERSION")
    parser.add_argument(
        "--one-core", action="store_true", help="passes of one thread only, without BERT-base"
    )
    options = parser.parse_args(arguments)
    try:
        measured = add_measurement(options.version, options.one_core)
    except BertpressError as error:
        print(f"bertpress: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for cost in measured:
        times = ", ".join(f"{point.tokens} tokens {point.median_ms:.2f} ms" for point in cost.latency)
        print(f"{cost.build}, {cost.threads} threads: {times}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
