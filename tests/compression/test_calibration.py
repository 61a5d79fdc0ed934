from __future__ import annotations

import numpy as np
import pytest
import torch

from compression import calibration
from compression.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from compression.evaluation import probabilities

RANDOM = np.random.default_rng(0)
LOGITS = (RANDOM.normal(size=(3000, 3)) * 2).astype(np.float32)
# Labels drawn from the very probabilities: these logits are calibrated as they are.
LABELS = np.array([RANDOM.choice(3, p=row / row.sum()) for row in probabilities(LOGITS).astype(np.float64)])


def test_bins_are_counted_row_by_row() -> None:
    given = probabilities(LOGITS[:200])
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(given, LABELS, strict=False):
        bins.setdefault(min(int(row.max() * 10), 9), []).append(
            (float(row.max()), bool(row.argmax() == label))
        )
    found = reliability(LOGITS[:200], LABELS[:200], bins=10)
    assert [each.rows for each in found] == [len(bins[index]) for index in sorted(bins)]
    for each, index in zip(found, sorted(bins), strict=True):
        assert each.confidence == pytest.approx(sum(c for c, _ in bins[index]) / each.rows, rel=1e-5)
        assert each.accuracy == pytest.approx(sum(r for _, r in bins[index]) / each.rows)
    expected = sum(
        len(rows) / 200 * abs(sum(c for c, _ in rows) / len(rows) - sum(r for _, r in rows) / len(rows))
        for rows in bins.values()
    )
    assert expected_calibration_error(found) == pytest.approx(expected, rel=1e-5)


def test_certainty_falls_into_the_last_bin() -> None:
    (only,) = reliability(np.array([[0.0, 200.0]], dtype=np.float32), np.array([1]))
    assert (only.rows, only.confidence, only.accuracy) == (1, 1.0, 1.0)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(factor: float) -> None:
    temperature = fit_temperature(LOGITS * np.float32(factor), LABELS)
    assert temperature == pytest.approx(factor, rel=0.08), "the labels were drawn at temperature 1"
    after = expected_calibration_error(reliability(LOGITS * np.float32(factor / temperature), LABELS))
    assert after < 0.03


def test_the_temperature_is_the_best_of_a_fine_grid() -> None:
    logits, labels = LOGITS[:300] * 2, LABELS[:300]
    grid = np.linspace(0.2, 5, 2000)
    best = min(grid, key=lambda value: negative_log_likelihood(logits, labels, value))
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=0.03), (
        "but for one part in 302 of doubt"
    )


def test_likelihood_is_cross_entropy() -> None:
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(LOGITS / 1.7), torch.from_numpy(LABELS))
    assert negative_log_likelihood(LOGITS, LABELS, 1.7) == pytest.approx(float(expected), rel=1e-5)


def test_who_is_always_right_is_believed_as_far_as_rows_go() -> None:
    logits = np.eye(3, dtype=np.float32)[LABELS[:98]]
    sure = probabilities(logits / np.float32(fit_temperature(logits, LABELS[:98]))).max(-1)
    assert sure == pytest.approx(np.full(98, 99 / 100), abs=1e-4)


def test_no_temperature_beyond_the_limits() -> None:
    right = np.eye(3, dtype=np.float32)[LABELS]
    assert fit_temperature(right * np.float32(1e-3), LABELS) == calibration.LOWEST
    assert fit_temperature(-right, LABELS) == calibration.HIGHEST
