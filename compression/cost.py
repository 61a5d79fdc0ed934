"""What a build costs on this machine, beside BERT-base in PyTorch fp32 measured in the same run."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from app.artifact import Cost, LatencyPoint
from app.engines import Engine
from app.hardware import cpu_features, cpu_model, usable_cores
from compression import baseline, peak_memory
from compression.builds import CandidateBuild
from compression.measurement import latency

LENGTHS = (32, 128, 256, 512)
_ROUNDS = 15
_RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "torchscript": "torch"}


def measure(build: CandidateBuild, path: Path, engine: Engine, max_tokens: int) -> tuple[Cost, Cost]:
    """Costs of the build and of the baseline, run alternately; lengths up to what the model reads."""
    threads = usable_cores()
    lengths = [length for length in LENGTHS if length <= max_tokens] or [max_tokens]
    models = {build.name: engine.logits, baseline.NAME: baseline.predictor(baseline.bert_base(), threads)}
    points = latency(models, lengths, _ROUNDS)
    memory = {
        build.name: peak_memory.measure(build.engine, path, lengths[-1], threads),
        baseline.NAME: peak_memory.measure(peak_memory.BASELINE, path, lengths[-1], threads),
    }
    runtimes = {build.name: _runtime(_RUNTIMES[build.engine]), baseline.NAME: _runtime("torch")}
    ours, theirs = (_cost(name, points[name], memory[name], runtimes[name], threads) for name in models)
    return ours, theirs


def _cost(name: str, points: list[LatencyPoint], memory: int, runtime: str, threads: int) -> Cost:
    return Cost(
        build=name,
        cpu=cpu_model(),
        cpu_features=tuple(sorted(cpu_features())),
        threads=threads,
        runtime=runtime,
        latency=tuple(points),
        peak_resident_bytes=memory,
        measured_on=datetime.now(UTC).date().isoformat(),
    )


def _runtime(package: str) -> str:
    return f"{package} {version(package)}"
