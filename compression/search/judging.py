"""What a trial gave: its quality on validation texts and its costs on this CPU.

Test texts are never looked at here: what is chosen by a search must not be judged by what it was chosen on.
Latency is a share of the baseline's, each call of the one followed by a call of the other, so that a machine
that slows down slows both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from app import artifact
from app.engines import Engine, load_engine
from app.errors import ParityError
from app.hardware import usable_cores
from compression import baseline, builds, classifier, energy, parity, peak_memory
from compression.batches import Rows
from compression.builds import CandidateBuild
from compression.classifier import Classifier
from compression.distillation.teacher_logits import logits_of, teacher_logits
from compression.evaluation import Logits, accuracy, accuracy_interval, flip_rate
from compression.heads import slices
from compression.measurement import Predict, interleaved
from compression.parity import GateSettings
from compression.search.target_cpu import TargetCpu
from compression.search.work import TOKENS, shape_of
from compression.stages.base import Context
from compression.stages.reading import read_by

_ROUNDS = 15
_ENERGY_TURNS, _ENERGY_SECONDS = 3, 0.3


@dataclass(frozen=True)
class Measured:
    """One trial's figures. `latency` is a share of the baseline's; `judged_texts` how many texts the quality
    was found on; `accuracy_interval` covers the truth in 95 % of the cases."""

    size: float
    latency: float
    candidate_ms: float
    baseline_ms: float
    memory: float
    energy: float
    energy_source: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    teacher_accuracy: float
    retention: float
    label_flip_rate: float
    judged_texts: int
    latency_source: str = "measured"

    @property
    def fields(self) -> dict[str, float | str]:
        """For JSON."""
        return asdict(self)


class Yardstick:
    """Measures builds, all against the same teacher and the same baseline.

    With a `target` the latency is what that CPU would take; memory and energy are this machine's.
    """

    def __init__(self, context: Context, gate: GateSettings, target: TargetCpu | None = None) -> None:
        self._context, self._gate, self._target = context, gate, target
        self._threads = usable_cores()

    def measure(self, folder: Path) -> Measured:
        """Every figure of the build in a stage's folder.

        Raises:
            ParityError: it changes more labels than its gate could ever let pass.
        """
        build = builds.read(folder)
        source = classifier.load(str(build.model_folder))
        engine = load_engine(build.engine, folder / build.file, self._threads, build.precision)
        own = read_by(source, self._context)
        rows = own.validation_rows()
        head = slices(source.heads)[0]  # with several heads the first one is what is chosen by
        logits = parity.one_by_one(engine, rows, range(len(rows)))[:, head]
        self._check_parity(build, source, rows, logits)
        right, teacher_right = accuracy(logits, rows.labels), accuracy(self._taught, rows.labels)
        low, high = accuracy_interval(right, len(rows))
        tokens = min(TOKENS, own.text.max_tokens)
        candidate_ms, baseline_ms, latency, how = self._latency(engine, tokens, source, build)
        joules, joules_from = self._energy(engine, tokens)
        return Measured(
            size=float(_bytes_published(build, folder, source)),
            latency=latency,
            candidate_ms=candidate_ms,
            baseline_ms=baseline_ms,
            memory=float(
                peak_memory.measure(build.engine, folder / build.file, tokens, self._threads, build.precision)
            ),
            energy=joules,
            energy_source=joules_from,
            accuracy=right,
            accuracy_low=low,
            accuracy_high=high,
            teacher_accuracy=teacher_right,
            retention=right / teacher_right if teacher_right else 0.0,
            label_flip_rate=flip_rate(logits, self._taught),
            judged_texts=len(rows),
            latency_source=how,
        )

    @cached_property
    def _taught(self) -> Logits:
        """The teacher's answers to the same texts, read in its own way."""
        teacher, key = classifier.load(str(self._context.teacher.folder)), self._context.teacher.key
        classes = sum(len(head.labels) for head in teacher.heads)
        cache, head = self._context.work / "logits", slices(teacher.heads)[0]
        report = self._context.report("teacher's logits on validation")
        rows = self._context.validation_rows()
        return teacher_logits(teacher.model, key, rows, classes, cache, report=report).numpy()[:, head]

    def _check_parity(self, build: CandidateBuild, source: Classifier, rows: Rows, logits: Logits) -> None:
        """Refuse early what the gate would refuse after a full training: quantization broke the model.

        On few texts the rate is uncertain, so its 95 % interval must lie above the limit.
        """
        if build.precision == "fp32":
            return
        texts = rows.take(self._gate.texts)
        expected = logits_of(source.model, rows, texts)[:, slices(source.heads)[0]]
        flips = flip_rate(logits[texts], expected)
        low, limit = accuracy_interval(flips, len(texts))[0], self._gate.max_label_flip_rate
        if low > limit:
            raise ParityError(
                f"build {build.name}: label flips against PyTorch fp32 {flips:.4g} on {len(texts)} texts, "
                f"surely above the limit {limit:.4g}"
            )

    def _latency(
        self, engine: Engine, tokens: int, source: Classifier, build: CandidateBuild
    ) -> tuple[float, float, float, str]:
        """Milliseconds of the build, of the baseline, their ratio, and how it was found."""
        if self._target is not None:
            found = self._target.predict(shape_of(source.model), build.name, tokens)
            return found.build_ms, found.baseline_ms, found.share, found.source
        seconds = interleaved(
            _calls({"build": engine.logits, baseline.NAME: self._baseline}, tokens), _ROUNDS
        )
        ours, theirs = seconds["build"], seconds[baseline.NAME]
        ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        return statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3, ratio, "measured"

    def _energy(self, engine: Engine, tokens: int) -> tuple[float, str]:
        """Joules per 1,000 texts, and whether they were measured or estimated."""
        calls = _calls({"build": engine.logits}, tokens)
        meter = energy.meter()
        found = energy.measure(calls, meter, turns=_ENERGY_TURNS, seconds_per_turn=_ENERGY_SECONDS)["build"]
        return found.joules_per_1000, found.source

    @cached_property
    def _baseline(self) -> Predict:
        return baseline.predictor(baseline.bert_base(), self._threads)


def _calls(models: Mapping[str, Predict], tokens: int) -> dict[str, Callable[[], object]]:
    """One text of so many tokens, for every model the same."""
    input_ids = np.full((1, tokens), 7, dtype=np.int64)
    attention_mask = np.ones_like(input_ids)

    def bind(predict: Predict) -> Callable[[], object]:
        return lambda: predict(input_ids, attention_mask)

    return {name: bind(predict) for name, predict in models.items()}


def _bytes_published(build: CandidateBuild, folder: Path, source: Classifier) -> int:
    """Size of the version's files but for its model card: build, tokenizer and configuration."""
    tokenizer = len(source.tokenizer.backend_tokenizer.to_str().encode())
    config = len(source.model.config.to_json_string().encode())
    other = sum(
        path.stat().st_size
        for path in build.model_folder.glob("*token*.json")
        if path.name != artifact.TOKENIZER_FILE
    )
    return build.size_bytes(folder) + tokenizer + config + other
