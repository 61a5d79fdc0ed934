from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from compression.batches import Rows
from compression.quantization import calibration
from compression.quantization.calibration import Observed, Range, observe, ranges, without_outliers
from tests.compression.exported import Export
from tests.compression.tiny import rows_of


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return rows_of(12, tmp_path)


def slowly(path: Path, name: str, rows: Rows) -> calibration.Floats:
    """An inner value over all rows. Shape: (all tokens, K)."""
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    parts = []
    for row in range(len(rows)):
        ids = rows.row(row)[None, :]
        (value,) = session.run([name], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        parts.append(np.asarray(value).reshape(-1, np.asarray(value).shape[-1]))
    return np.concatenate(parts)


def test_it_sees_what_is_there(exported: Export, rows: Rows) -> None:
    path = exported("bert", True).path
    observed = observe(path, rows, range(len(rows)), moments=True)
    # Embeddings, and of each layer the attention's mix, both norms and the activation; of the last one only
    # what the first position needs, its own slice included; the head reads the last norm.
    assert len(observed) == 1 + 3 * 4 + 1
    for name, seen in observed.items():
        values = slowly(path, name, rows)
        assert np.allclose(seen.low, values.min(0), atol=1e-5)
        assert np.allclose(seen.high, values.max(0), atol=1e-5)
        assert seen.counts.sum() == values.size
        assert seen.second_moments is not None
        assert np.allclose(seen.second_moments, values.T @ values, rtol=1e-3, atol=1e-3)


def seen(values: calibration.Floats) -> Observed:
    found = Observed(values.min(0), values.max(0))
    found.counts = np.histogram(np.abs(values), bins=2048, range=(0, found.largest))[0]
    return found


def values(tokens: int = 2000, columns: int = 8) -> calibration.Floats:
    return np.random.default_rng(0).normal(size=(tokens, columns)).astype(np.float32)


def test_percentile_is_that_of_the_absolute_values() -> None:
    found = ranges({"x": seen(values())}, "percentile")["x"]
    exact = np.quantile(np.abs(values()), 0.9999)
    assert found.high == pytest.approx(exact, rel=0.02)
    assert found.low == pytest.approx(-exact, rel=0.02)


def test_a_side_that_is_shorter_stays_as_it_is() -> None:
    one_sided = np.maximum(values(), -0.17)
    found = ranges({"x": seen(one_sided)}, "percentile")["x"]
    assert found.low == pytest.approx(-0.17)
    assert found.high < float(one_sided.max())


def divergence_by_the_book(counts: calibration.Floats, kept: int, levels: int) -> float:
    """Migacz 2017, slide "Entropy calibration - pseudocode", bin by bin."""
    p = [float(count) for count in counts[:kept]]
    p[-1] += float(counts[kept:].sum())
    q = [0.0] * kept
    for level in range(levels):
        bins = [bin_ for bin_ in range(kept) if bin_ * levels // kept == level]
        filled = [bin_ for bin_ in bins if counts[bin_] > 0]
        for bin_ in filled:
            q[bin_] = sum(float(counts[each]) for each in bins) / len(filled)
    p_all, q_all = sum(p), sum(q)
    total = 0.0
    for left, right in zip(p, q, strict=True):
        if left > 0:
            total += left / p_all * (np.log(left / p_all / (right / q_all)) if right > 0 else np.log(1e9))
    return total


def test_entropy_is_that_of_the_slides() -> None:
    counts = np.histogram(np.abs(values()), bins=128)[0]
    for kept in (16, 17, 40, 100, 128):
        expected = divergence_by_the_book(counts, kept, 16)
        assert calibration._divergence(counts, kept, 16) == pytest.approx(expected, abs=1e-9)


def test_entropy_cuts_a_long_empty_tail() -> None:
    with_outlier = values()
    with_outlier[0, 0] = 100
    kept = ranges({"x": seen(with_outlier)}, "entropy")["x"]
    assert 2 < kept.high < 20
    assert ranges({"x": seen(with_outlier)}, "min-max")["x"].high == 100


def test_nothing_seen_cuts_nothing() -> None:
    assert calibration.entropy(np.zeros(2048, np.int64)) == 2048


def test_outlier_columns_leave_the_range() -> None:
    low, high = np.full(8, -1.0, np.float32), np.full(8, 2.0, np.float32)
    high[5], low[2] = 30, -20
    assert without_outliers(low, high, most=0) == Range(-20, 30)
    assert without_outliers(low, high, most=1) == Range(-20, 2, (5,))
    assert without_outliers(low, high, most=4) == Range(-1, 2, (2, 5))
    assert high[5] == 30  # the caller's own


def test_a_range_always_holds_zero_exactly() -> None:
    for span in (Range(1, 5), Range(-5, -1), Range(-0.17, 3.3), Range(0, 0)):
        assert 0 <= span.zero_point <= 255
        assert span.scale > 0
    assert Range(1, 5).zero_point == 0
    assert Range(-5, -1).zero_point == 255
    # The lowest value has the integer 0, and the highest 255.
    span = Range(-1, 3)
    assert span.scale * (255 - span.zero_point) == pytest.approx(3, abs=span.scale)
    assert span.scale * (0 - span.zero_point) == pytest.approx(-1, abs=span.scale)
