"""Every way to quantize one model, on both runtimes, in one table.

`python -m compression.quantization.survey --model FOLDER --data PATH` exports the model, makes every build,
and prints for each: size, latency (all builds taking turns, one text), accuracy and changed labels against
fp32 over real validation texts, and how far its answers move with the batch they are in.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from app.artifact import TokenizerSettings
from app.engines import Device, Engine, accelerators, available_engines, load_engine
from app.hardware import cpu_features, cpu_model
from compression import classifier, corpus, data, export, parity
from compression.batches import Rows
from compression.data import DataSettings
from compression.evaluation import Logits, accuracy, flip_rate, probabilities
from compression.measurement import latency
from compression.quantization import half
from compression.quantization.calibration import Observed, observe
from compression.quantization.scheme import Quantization, apply

LENGTHS = (16, 32, 128, 256)
FP32 = "fp32"
_CALIBRATION_ROWS = 128


@dataclass(frozen=True)
class Way:
    """A build of the survey: what the graph computes with, and who runs it in which float precision."""

    name: str
    quantization: Quantization | None
    engine: str = "onnx"
    options: tuple[tuple[str, str], ...] = ()
    device: Device = "cpu"


@dataclass(frozen=True)
class Finding:
    """A line of the table. Milliseconds by threads and length; `reviews_per_second` one text at a time."""

    name: str
    size_bytes: int
    latency_ms: dict[str, dict[int, float]]
    accuracy: float
    flip_rate: float
    logit_error: float
    flip_rate_in_company: float
    change_in_company: float


def _ways() -> list[Way]:
    static = Quantization(reduced_range=False)
    stored = Quantization(method="weight-only", reduced_range=False)
    quantizations = {
        FP32: None,
        "dynamic": Quantization(method="dynamic", reduced_range=False),
        "dynamic, 7-bit weights": Quantization(method="dynamic"),
        "per token": Quantization(method="per-token", reduced_range=False),
        "static min-max": Quantization(reduced_range=False, outliers=0),
        "static percentile": Quantization(reduced_range=False, activations="percentile"),
        "static entropy": Quantization(reduced_range=False, activations="entropy"),
        "static, outlier columns": static,
        "static, outlier columns, 7-bit weights": Quantization(),
        "static, outlier columns, 7-bit GPTQ": Quantization(rounding="compensated"),
        "static, outlier columns, 4-bit words": Quantization(reduced_range=False, embeddings=4),
        "blocks of 32, 8 bits": Quantization(method="blocks", block=32),
        "blocks of 128, 8 bits": Quantization(method="blocks", block=128),
        "blocks of 32, 4 bits": Quantization(method="blocks", block=32, weight_bits=4),
        "weights stored int8": stored,
    }
    ways = [Way(name, settings) for name, settings in quantizations.items()]
    for precision in ("f32", "bf16"):
        ways += [
            Way(f"OpenVINO {precision}", None, "openvino", _precision(precision)),
            Way(f"OpenVINO {precision}, static, outlier columns", static, "openvino", _precision(precision)),
            Way(f"OpenVINO {precision}, weights stored int8", stored, "openvino", _precision(precision)),
        ]
    for group in ("32", "128", str(2**64 - 1)):
        name = "per token" if len(group) > 3 else f"groups of {group}"
        options = (*_precision("bf16"), ("DYNAMIC_QUANTIZATION_GROUP_SIZE", group))
        ways.append(Way(f"OpenVINO bf16, weights stored int8, dynamic {name}", stored, "openvino", options))
    if "cuda" in accelerators():
        ways.append(Way("CUDA fp16", None, device="cuda"))
    return ways


def _precision(name: str) -> tuple[tuple[str, str], ...]:
    return (("INFERENCE_PRECISION_HINT", name),)


def survey(
    source: Path,
    rows: Rows,
    chosen: Sequence[int],
    calibration: Sequence[int],
    classes: int,
    options: argparse.Namespace,
) -> Iterator[Finding]:
    """Make and judge every build of a graph in fp32 by the first so many `classes`: its first head's."""
    ways = [way for way in _ways() if way.engine in available_engines() and _wanted(way, options.only)]
    ways += [Way(str(path), None) for path in options.also]
    observed = observe(source, rows, calibration, moments=True)
    with tempfile.TemporaryDirectory() as scratch:
        paths = {way.name: _build(way, source, observed, Path(scratch)) for way in ways}
        latencies = {
            str(threads): _latencies(ways, paths, threads, options.rounds, options.processor_time)
            for threads in options.threads
        }
        reference = parity.one_by_one(_load(Way(FP32, None), source, 1), rows, chosen)
        for way in ways:
            quality = _judge(_load(way, paths[way.name], 1), rows, chosen, reference, classes)
            taken = {threads: latencies[threads][way.name] for threads in latencies}
            yield Finding(way.name, paths[way.name].stat().st_size, taken, *quality)


def _wanted(way: Way, parts: Sequence[str] | None) -> bool:
    return not parts or any(part in way.name for part in parts)


def _build(way: Way, source: Path, observed: dict[str, Observed], folder: Path) -> Path:
    if way.name.endswith(".onnx"):
        return Path(way.name)
    if way.device == "cuda":
        return half.convert(source, folder / "half.onnx")
    if way.quantization is None:
        return source
    path = folder / f"{abs(hash(way.quantization))}.onnx"
    if not path.exists():
        apply(way.quantization, source, observed).save(path)
    return path


def _load(way: Way, path: Path, threads: int) -> Engine:
    if way.engine == "onnx":
        return load_engine("onnx", path, threads, device=way.device)
    import openvino as ov

    from app.engines.openvino import OpenVinoEngine

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **dict(way.options)}
    return OpenVinoEngine(ov.Core().compile_model(path, "CPU", options))


def _latencies(
    ways: Sequence[Way], paths: Mapping[str, Path], threads: int, rounds: int, processor_time: bool
) -> dict[str, dict[int, float]]:
    engines = {way.name: _load(way, paths[way.name], threads) for way in ways}
    models = {name: engine.logits for name, engine in engines.items()}
    points = latency(models, LENGTHS, rounds, processor_time=processor_time and threads == 1)
    for engine in engines.values():
        engine.close()
    return {name: {point.tokens: point.median_ms for point in found} for name, found in points.items()}


def _judge(
    engine: Engine, rows: Rows, chosen: Sequence[int], reference: Logits, classes: int
) -> tuple[float, float, float, float, float]:
    alone = parity.one_by_one(engine, rows, chosen)[:, :classes]
    together = parity.in_shuffled_batches(engine, rows, chosen)[:, :classes]
    expected = reference[:, :classes]
    return (
        accuracy(alone, rows.labels[list(chosen)]),
        flip_rate(alone, expected),
        float(np.sqrt(np.square(alone - expected).mean())),
        flip_rate(together, alone),
        float(np.abs(probabilities(together) - probabilities(alone)).max()),
    )


def table(findings: Sequence[Finding], threads: Sequence[int]) -> Table:
    """The findings as a table."""
    shown = Table(title="one text at a time; labels and logits against fp32; answers alone and in company")
    shown.add_column("build")
    columns = ["MB", *(f"{length} tok {count} thr" for count in threads for length in LENGTHS)]
    for column in (*columns, "accuracy", "flips", "logit error", "flips in company", "largest change"):
        shown.add_column(column, justify="right")
    for found in findings:
        taken = [f"{found.latency_ms[str(count)][length]:.2f}" for count in threads for length in LENGTHS]
        shown.add_row(
            found.name,
            f"{found.size_bytes / 1e6:.1f}",
            *taken,
            f"{found.accuracy:.2%}",
            f"{found.flip_rate:.2%}",
            f"{found.logit_error:.3f}",
            f"{found.flip_rate_in_company:.2%}",
            f"{found.change_in_company:.4f}",
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, survey, print."""
    options = _parser().parse_args(arguments)
    console = Console(width=220)
    with tempfile.TemporaryDirectory() as scratch, _validation(options, Path(scratch)) as opened:
        rows, source, classes = opened
        chosen = rows.take(options.texts)
        calibration = [row for row in range(len(rows)) if row not in set(chosen)][:_CALIBRATION_ROWS]
        findings = []
        for found in survey(source, rows, chosen, calibration or chosen, classes, options):
            findings.append(found)
            console.print(table([found], options.threads)) if options.verbose else None
    console.print(table(findings, options.threads))
    features = ", ".join(sorted(cpu_features()))
    clock = "processor time" if options.processor_time else "wall clock"
    console.print(f"{cpu_model()} ({features}); one thread by {clock}; {len(chosen)} texts", highlight=False)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(found) for found in findings], indent=2), encoding="utf-8")
    return 0


@contextmanager
def _validation(options: argparse.Namespace, scratch: Path) -> Iterator[tuple[Rows, Path, int]]:
    """Validation rows as the model reads them, its graph in fp32, and how many classes its first head has."""
    model = classifier.load(str(options.model))
    settings = TokenizerSettings(
        max_tokens=options.max_tokens,
        truncation="head+tail",
        head_tokens=options.max_tokens // 4,
        pad_token_id=model.pad_token_id,
    )
    model.tokenizer.save_pretrained(scratch / "tokenizer")
    dataset = data.load(options.data, data.with_label_names(DataSettings(), model.labels))
    file = scratch / "tokenizer" / "tokenizer.json"
    rows = Rows(corpus.build(dataset.validation, file, settings, scratch / "tokens"))
    export.to_onnx(model.model, scratch / "model.onnx", opset=17)
    yield rows, scratch / "model.onnx", len(model.labels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m compression.quantization.survey", description=__doc__)
    add = partial(parser.add_argument)
    add("--model", type=Path, required=True, metavar="DIR", help="a classifier in PyTorch")
    add("--data", required=True, metavar="PATH", help="labelled texts; validation rows are judged")
    add("--texts", type=int, default=1000, metavar="N", help="texts judged (default: 1000)")
    add("--max-tokens", type=int, default=256, metavar="N", help="ids read of a text (default: 256)")
    add("--threads", type=_numbers, default=(1, 2), metavar="N,N", help="thread counts (default: 1,2)")
    add("--rounds", type=int, default=25, metavar="N", help="timed calls per build and length (default: 25)")
    add(
        "--processor-time",
        action="store_true",
        help="with one thread, count computed instead of passed time: for a machine others use as well",
    )
    add("--only", action="append", metavar="PART", help="builds whose name contains this; may be repeated")
    add("--also", action="append", type=Path, default=[], metavar="FILE", help="another ONNX build of it")
    add("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    add("--verbose", action="store_true", help="show every build as soon as it is judged")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
