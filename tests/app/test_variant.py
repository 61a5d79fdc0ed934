from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import artifact
from app.batcher import BatchLimits
from app.builds import choose_build
from app.errors import ArtifactError, EngineError, ProbeError
from app.metrics import Metrics
from app.variant import Variant, length_buckets, load_variant
from tests.app.conftest import RecordingEngine
from tests.app.tiny import publish


def load(folder: Path, max_rows: int = 8) -> Variant:
    manifest = artifact.read(folder)
    choice = choose_build(manifest, set(), {"onnx"})
    limits = BatchLimits(max_rows, 1000, batch_invariant=True)
    return load_variant(folder, manifest, choice, 1, limits, Metrics().variant("tiny", 1, manifest.labels))


def test_buckets_end_at_the_models_length() -> None:
    assert length_buckets(32) == [8, 16, 32]
    assert length_buckets(100) == [8, 16, 32, 64, 100]
    assert length_buckets(4) == [4]


def test_probes_of_a_sound_version_pass(tmp_path: Path) -> None:
    for check in load(publish(tmp_path)).probe_checks():
        check()


def test_a_probe_that_differs_fails(tmp_path: Path) -> None:
    checks = list(load(publish(tmp_path, probe_shift=0.01)).probe_checks())
    with pytest.raises(ProbeError, match=r"probe 0, allowed 0\.001"):
        checks[0]()


@pytest.mark.parametrize("logits", [[np.nan, 0.0], [0.0]])
def test_nan_and_missing_logits_fail(tmp_path: Path, logits: list[float]) -> None:
    variant = load(publish(tmp_path))
    engine: Any = RecordingEngine()
    engine.logits = lambda *_: np.array([logits], dtype=np.float32)
    variant.session.engine = engine
    with pytest.raises(ProbeError):
        next(variant.probe_checks())()


def test_warm_up_touches_every_bucket_and_learns_the_cost(tmp_path: Path) -> None:
    variant = load(publish(tmp_path))
    engine = RecordingEngine()
    variant.session.engine = engine
    for warm_up_pass in variant.warm_up_passes():
        warm_up_pass()
    assert set(engine.shapes) == {(rows, length) for rows in (1, 4) for length in (8, 16, 32)}
    assert variant.cost(1, 8) < 10


def test_single_rows_where_batches_are_not_invariant(tmp_path: Path) -> None:
    variant = load(publish(tmp_path, batch_invariant=False))
    engine = RecordingEngine()
    variant.session.engine = engine
    for warm_up_pass in variant.warm_up_passes():
        warm_up_pass()
    assert {rows for rows, _ in engine.shapes} == {1}
    assert not variant.limits.batch_invariant


def test_a_batch_answers_as_single_rows(tmp_path: Path) -> None:
    variant = load(publish(tmp_path))
    rows = [
        variant.tokenizer.encode(text).input_ids for text in ("good", "a very long terrible movie", "see it")
    ]
    singles = np.concatenate([variant.run([row]) for row in rows])
    np.testing.assert_allclose(variant.run(rows), singles, atol=1e-5)


def test_what_does_not_open(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a tokenizer"):
        load(folder)
    other = publish(tmp_path, version=2)
    (other / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot load"):
        load(other)


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    variant = load(publish(tmp_path))
    variant.close()
    with pytest.raises(EngineError, match="closed"):
        variant.run([np.array([2, 3])])


@pytest.mark.anyio
async def test_draining_counts_the_requests_out(tmp_path: Path) -> None:
    variant = load(publish(tmp_path))
    with variant.lease():
        with variant.lease():
            drained = asyncio.ensure_future(variant.drained())
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not drained.done()
    await drained
    assert variant.leases == 0
