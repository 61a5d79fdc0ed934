from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from compression.assessment import assess
from compression.calibration import expected_calibration_error, reliability
from compression.evaluation import flip_rate
from compression.resampling import mcnemar

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, 300)
LOGITS = (np.eye(2)[LABELS] + RANDOM.normal(size=(300, 2))).astype(np.float32)
TEACHER = (2 * np.eye(2)[LABELS] + RANDOM.normal(size=(300, 2))).astype(np.float32)
SLICES = {"first": np.arange(300) < 100, "rest": np.arange(300) >= 100}


def test_every_figure_is_the_function_of_its_name(tmp_path: Path) -> None:
    found = assess("ours", "made up", LOGITS, LABELS, ("no", "yes"), 2.0, TEACHER, SLICES, resamples=200)
    predicted, taught = LOGITS.argmax(-1), TEACHER.argmax(-1)
    assert (found.n, found.labels) == (300, ("no", "yes"))
    assert found.accuracy.value == metrics.accuracy_score(LABELS, predicted)
    assert found.f1.value == pytest.approx(metrics.f1_score(LABELS, predicted, average="macro"))
    assert found.auc.value == pytest.approx(metrics.roc_auc_score(LABELS, LOGITS[:, 1] - LOGITS[:, 0]))
    assert (np.array(found.confusion) == metrics.confusion_matrix(LABELS, predicted)).all()
    for figure in (found.accuracy, found.f1, found.auc):
        assert figure.low < figure.value < figure.high
    assert found.calibration.error_before == expected_calibration_error(reliability(LOGITS, LABELS))
    assert found.calibration.error == expected_calibration_error(reliability(LOGITS / np.float32(2), LABELS))
    first = found.slices[0]
    assert (first.name, first.n) == ("first", 100)
    assert first.accuracy == (predicted == LABELS)[:100].mean()
    assert first.teacher_accuracy == (taught == LABELS)[:100].mean()
    agreement = found.agreement
    assert agreement is not None
    assert agreement.teacher_accuracy == (taught == LABELS).mean()
    assert agreement.retention == pytest.approx(found.accuracy.value / agreement.teacher_accuracy)
    assert agreement.label_flip_rate.value == flip_rate(LOGITS, TEACHER)
    assert agreement.difference.value == pytest.approx(found.accuracy.value - agreement.teacher_accuracy)
    assert agreement.difference.high < 0 < agreement.mcnemar.only_ours
    assert agreement.mcnemar == mcnemar(predicted == LABELS, taught == LABELS)
    found.write(tmp_path / "assessment.json")
    assert json.loads((tmp_path / "assessment.json").read_text())["f1"]["value"] == found.f1.value


def test_without_a_teacher_there_is_no_agreement() -> None:
    found = assess("ours", "made up", LOGITS, LABELS, ("no", "yes"), resamples=10)
    assert found.agreement is None
    assert found.slices == ()
    assert found.calibration.error == found.calibration.error_before
