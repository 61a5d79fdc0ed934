from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.artifact import BatchVariance, Parity
from app.engines import load_engine
from app.engines.base import Ids, Logits
from app.errors import ParityError
from compression import parity
from compression.batches import Rows
from compression.parity import GateSettings
from tests.compression.exported import Export
from tests.compression.tiny import corpus_of, logits, made_up_reviews, rows_of, tiny_model


class PerRowEngine:
    """Logits that follow from a row's own ids and from nothing else."""

    description = "a fake"

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        total = (input_ids * attention_mask).sum(-1)
        return np.stack([np.sin(total), np.cos(total)], -1).astype(np.float32)

    def close(self) -> None:
        pass


class SwayedEngine(PerRowEngine):
    """Quantizes by the largest value in the batch, as dynamic int8 does; padding moves it as well."""

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        shift = np.float32(len(input_ids) * 0.05 + input_ids.shape[1] * 0.001)
        answer: Logits = super().logits(input_ids, attention_mask) + np.array([shift, 0], dtype=np.float32)
        return answer


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return rows_of(50, tmp_path)


def test_the_reference_is_the_models_own_answer(rows: Rows) -> None:
    chosen = [3, 1, 40]
    expected = parity.reference(tiny_model(), rows, chosen, "reviews validation")
    for position, row in enumerate(chosen):
        alone = logits(tiny_model(), rows.batch([row]))[0].numpy()
        assert np.allclose(expected.logits[position], alone, atol=1e-5)
    assert expected.labels.tolist() == [made_up_reviews()[row][1] for row in chosen]


def test_alone_means_unpadded_and_in_order(rows: Rows) -> None:
    shapes = []

    class Watched(PerRowEngine):
        def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
            shapes.append(input_ids.shape)
            assert attention_mask.all()
            return super().logits(input_ids, attention_mask)

    chosen = [7, 2, 30]
    found = parity.one_by_one(Watched(), rows, chosen)
    assert shapes == [(1, len(rows.row(row))) for row in chosen]
    for position, row in enumerate(chosen):
        total = rows.row(row).sum()
        assert found[position] == pytest.approx([np.sin(total), np.cos(total)], abs=1e-5)


def test_shuffled_batches_come_back_in_order(rows: Rows) -> None:
    chosen = list(range(5, 45))
    alone = parity.one_by_one(PerRowEngine(), rows, chosen)
    batched = parity.in_shuffled_batches(PerRowEngine(), rows, chosen)
    assert np.array_equal(alone, batched)


def test_the_company_is_random_and_seeded(rows: Rows) -> None:
    seen: list[list[int]] = []

    class Watched(PerRowEngine):
        def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
            seen.append(input_ids[:, 1:4].sum(-1).tolist())
            return super().logits(input_ids, attention_mask)

    for seed in (0, 0, 1):
        parity.in_shuffled_batches(Watched(), rows, range(40), seed)
    assert [len(batch) for batch in seen] == [16, 16, 8] * 3
    assert seen[:3] == seen[3:6] != seen[6:]


def test_an_answer_that_depends_on_batch_mates_is_found_out(rows: Rows) -> None:
    chosen = range(50)
    for engine, invariant in ((PerRowEngine(), True), (SwayedEngine(), False)):
        alone = parity.one_by_one(engine, rows, chosen)
        batched = parity.in_shuffled_batches(engine, rows, chosen)
        variance = parity.batch_variance(alone, batched)
        assert parity.is_batch_invariant(variance) is invariant
        assert (variance.texts, variance.batch_size) == (50, 16)
        assert (variance.max_probability_change > 0.1) is not invariant
        assert (variance.label_flip_rate > 0) is not invariant


def test_an_fp32_build_does_not_depend_on_batch_mates(rows: Rows, exported: Export) -> None:
    made = exported("bert", True)
    engine = load_engine("onnx", made.path, 1)
    alone = parity.one_by_one(engine, rows, range(50))
    batched = parity.in_shuffled_batches(engine, rows, range(50))
    assert parity.is_batch_invariant(parity.batch_variance(alone, batched))
    expected = parity.reference(made.classifier.model, rows, range(50), "reviews")
    found, in_company = parity.compare(alone, expected), parity.compare(batched, expected)
    assert max(found.max_logit_difference, in_company.max_logit_difference) < 1e-4
    assert found.label_flip_rate == 0
    assert found.accuracy == found.reference_accuracy
    parity.check(found, in_company, "fp32", GateSettings(), "onnx-fp32")


@pytest.mark.parametrize(
    ("flips", "change", "invariant"),
    [(0.0, 0.009, True), (0.0, 0.01, False), (0.001, 0.001, False), (0.0, 0.0, True)],
)
def test_what_counts_as_invariant(flips: float, change: float, invariant: bool) -> None:
    variance = BatchVariance(texts=1000, batch_size=16, label_flip_rate=flips, max_probability_change=change)
    assert parity.is_batch_invariant(variance) is invariant


def test_compare_counts_flips_accuracy_and_differences(rows: Rows) -> None:
    chosen = list(range(10))
    labels = rows.labels[:10]
    right = np.stack([1 - labels, labels], -1).astype(np.float32) * 2
    expected = parity.Reference("reviews", rows, chosen, right)
    moved = right.copy()
    moved[4] = -moved[4]
    moved[5] += 0.5
    found = parity.compare(moved, expected)
    assert (found.texts, found.dataset) == (10, "reviews")
    assert (found.accuracy, found.reference_accuracy, found.label_flip_rate) == (0.9, 1.0, 0.1)
    assert found.max_logit_difference == pytest.approx(4.0)
    sure = 1 / (1 + np.exp(-2))
    assert found.max_probability_difference == pytest.approx(2 * sure - 1, abs=1e-5)


def test_rows_without_labels_have_no_accuracy(tmp_path: Path) -> None:
    rows = Rows(corpus_of(made_up_reviews()[:4], tmp_path, labelled=False))
    expected = parity.Reference("reviews", rows, range(4), np.zeros((4, 2), dtype=np.float32))
    found = parity.compare(np.zeros((4, 2), dtype=np.float32), expected)
    assert (found.accuracy, found.reference_accuracy) == (None, None)
    parity.check(found, found, "int8", GateSettings(), "onnx-int8")


def measured(**overrides: Any) -> Parity:
    plain: dict[str, Any] = {
        "dataset": "reviews",
        "texts": 1000,
        "accuracy": 0.9,
        "reference_accuracy": 0.9,
        "label_flip_rate": 0.0,
        "max_logit_difference": 0.0,
        "max_probability_difference": 0.0,
    }
    return Parity(**{**plain, **overrides})


GOOD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("fp32", {"max_logit_difference": 1e-3}, {"max_logit_difference": 1e-3}),
    ("int8", {"label_flip_rate": 0.01}, {}),
    ("int8", {"accuracy": 0.895}, {}),  # exactly on the limit, a rounding error beside it
    ("int8", {"accuracy": 0.95}, {}),
    ("int8", {"max_logit_difference": 9.0}, {"max_logit_difference": 9.0}),
    ("bf16", {"label_flip_rate": 0.01}, {"label_flip_rate": 0.5}),
]
BAD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("fp32", {"max_logit_difference": 2e-3}, {}, "logits differ from PyTorch's by 0.002, limit 0.001"),
    ("fp32", {}, {"max_logit_difference": 0.5}, "logits differ from PyTorch's by 0.5, limit 0.001"),
    ("fp32", {"max_logit_difference": float("nan")}, {}, "by nan, limit 0.001"),
    ("int8", {"label_flip_rate": 0.011}, {}, "label flips against PyTorch fp32 0.011, limit 0.01"),
    ("bf16", {"label_flip_rate": 0.02}, {}, "label flips against PyTorch fp32 0.02, limit 0.01"),
    ("int8", {"accuracy": 0.894}, {}, "accuracy lost against PyTorch fp32 0.006, limit 0.005"),
]


@pytest.mark.parametrize(("precision", "alone", "batched"), GOOD)
def test_the_gate_lets_through(precision: str, alone: dict[str, Any], batched: dict[str, Any]) -> None:
    found = measured(**alone)
    assert parity.check(found, measured(**batched), precision, GateSettings(), "b") == found


@pytest.mark.parametrize(("precision", "alone", "batched", "message"), BAD)
def test_the_gate_refuses_and_says_why(
    precision: str, alone: dict[str, Any], batched: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParityError) as raised:
        parity.check(measured(**alone), measured(**batched), precision, GateSettings(), "onnx-x")
    assert str(raised.value).startswith("build onnx-x: ")
    assert str(raised.value).endswith(f"{message}; it is not published")


def test_looser_limits_stand_in_the_manifest_with_their_reason() -> None:
    gate = GateSettings(max_label_flip_rate=0.05, reason="two of forty texts are too few to tell")
    found = parity.check(measured(label_flip_rate=0.05), measured(), "int8", gate, "onnx-int8")
    assert found.limit_note == gate.reason
    with pytest.raises(ParityError, match=r"limit 0\.001"):
        strict = GateSettings(max_label_flip_rate=0.001)
        parity.check(measured(label_flip_rate=0.01), measured(), "int8", strict, "onnx-int8")
