from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import artifact
from app.artifact import Cost, LatencyPoint
from app.batcher import BatchLimits
from app.builds import choose_build
from app.engines import load_engine
from app.errors import EngineError, ProbeError
from app.metrics import Metrics
from app.session import Session
from app.tokenizer import Tokenizer
from app.variant import Variant, cost_grid, length_buckets, published_cost
from tests.app.conftest import RecordingEngine
from tests.app.tiny import publish


def load(folder: Path) -> Variant:
    manifest = artifact.read(folder)
    choice = choose_build(manifest, set(), {"onnx"})
    limits = BatchLimits(8, 1000, choice.build.batch_invariant)
    session = Session(
        load_engine("onnx", folder / choice.build.file, 1),
        1,
        published_cost(manifest, choice.build.name, limits, 1),
    )
    tokenizer = Tokenizer(folder / "tokenizer.json", manifest.tokenizer)
    metrics = Metrics().variant("tiny", 1, manifest.labels)
    return Variant(manifest, choice, tokenizer, session, limits, metrics)


def test_buckets_end_at_the_models_length() -> None:
    assert length_buckets(32) == [8, 16, 32]
    assert length_buckets(100) == [8, 16, 32, 64, 100]
    assert length_buckets(4) == [4]


def test_probes_of_a_sound_version_pass(tmp_path: Path) -> None:
    variant = load(publish(tmp_path))
    for number, probe in enumerate(variant.manifest.probes):
        tokens, seconds = variant.check_probe(number)
        assert tokens == len(variant.tokenizer.encode(probe.text).input_ids)
        assert seconds > 0


def test_a_probe_that_differs_fails(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"probe 0, allowed 0\.001"):
        load(publish(tmp_path, probe_shift=0.01)).check_probe(0)


@pytest.mark.parametrize("logits", [[np.nan, 0.0], [0.0]])
def test_nan_and_missing_logits_fail(tmp_path: Path, logits: list[float]) -> None:
    variant = load(publish(tmp_path))
    engine: Any = RecordingEngine()
    engine.logits = lambda *_: np.array([logits], dtype=np.float32)
    variant.session.engine = engine
    with pytest.raises(ProbeError):
        variant.check_probe(0)


def test_a_probe_of_another_build_on_another_session(tmp_path: Path) -> None:
    variant = load(publish(tmp_path, builds={"one": {}, "two": {"probe_tolerance": 1e9}}))
    engine = RecordingEngine()
    other = Session(engine, 1, variant.session.cost)
    variant.check_probe(0, variant.manifest.builds[1], other)
    assert len(engine.shapes) == 1
    with pytest.raises(ProbeError, match="build one"):
        variant.check_probe(0, variant.manifest.builds[0], other)


def test_lengths_in_steps(tmp_path: Path) -> None:
    variant, engine = load(publish(tmp_path)), RecordingEngine()
    session = Session(engine, 1, variant.session.cost, length_step=12)
    assert variant.max_tokens == 32
    for length in (1, 12, 13, 25, 32):
        row = variant.some_ids(length)
        (answer,) = variant.run([row], session)
        assert list(answer) == [row[0], row[1] if length > 1 else 0], "what is padded is masked"
    assert [shape[1] for shape in engine.shapes] == [12, 12, 24, 32, 32]


def test_ids_to_measure_with(tmp_path: Path) -> None:
    variant = load(publish(tmp_path))
    probe = list(variant.tokenizer.encode(variant.manifest.probes[0].text).input_ids)
    assert list(variant.some_ids(12)) == (probe * 12)[:12]
    assert list(variant.some_ids(2)) == probe[:2]


def test_the_grid_of_costs(tmp_path: Path) -> None:
    manifest = artifact.read(publish(tmp_path))
    lengths = [8, 16, 32]
    assert cost_grid(manifest, BatchLimits(8, 1000, True)) == [(r, t) for r in (1, 4) for t in lengths]
    assert cost_grid(manifest, BatchLimits(8, 1000, False)) == [(1, t) for t in lengths]


def test_published_latencies_give_the_cost_its_shape(tmp_path: Path) -> None:
    manifest = artifact.read(publish(tmp_path))
    limits = BatchLimits(8, 1000, True)
    guessed = published_cost(manifest, "onnx-fp32", limits, 1)
    assert guessed.estimated == set(cost_grid(manifest, limits))
    assert guessed(4, 16) < 4 * guessed(1, 16)
    published = manifest.model_copy(
        update={"cost": (cost_of("onnx-fp32", {(1, 8): 1.0, (1, 32): 40.0}), cost_of("another", {}))}
    )
    model = published_cost(published, "onnx-fp32", limits, 1)
    assert model(1, 8) == pytest.approx(0.001)
    assert model(1, 32) == pytest.approx(0.04)
    assert 0.001 < model(1, 16) < 0.04
    on_two = cost_of("onnx-fp32", {(1, 8): 0.5, (1, 32): 20.0}).model_copy(update={"threads": 2})
    both = published.model_copy(update={"cost": (*published.cost, on_two)})
    assert published_cost(both, "onnx-fp32", limits, 1)(1, 32) == pytest.approx(0.04)
    assert published_cost(both, "onnx-fp32", limits, 2)(1, 32) == pytest.approx(0.02)


def cost_of(build: str, milliseconds: dict[tuple[int, int], float]) -> Cost:
    points = tuple(
        LatencyPoint(rows=rows, tokens=tokens, median_ms=ms, p90_ms=ms)
        for (rows, tokens), ms in milliseconds.items()
    )
    return Cost(
        build=build,
        cpu="x",
        cpu_features=(),
        threads=1,
        runtime="x",
        latency=points,
        measured_on="2025-01-01",
    )


def test_a_batch_answers_as_single_rows(tmp_path: Path) -> None:
    variant = load(publish(tmp_path))
    rows = [
        variant.tokenizer.encode(text).input_ids for text in ("good", "a very long terrible movie", "see it")
    ]
    singles = np.concatenate([variant.run([row]) for row in rows])
    np.testing.assert_allclose(variant.run(rows), singles, atol=1e-5)


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    variant = load(publish(tmp_path))
    variant.close()
    assert variant.closed
    with pytest.raises(EngineError, match="closed"):
        variant.run([np.array([2, 3])])
