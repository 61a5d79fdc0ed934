from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compression.batches import Rows
from compression.classifier import Classifier
from compression.evaluation import batches
from compression.export import to_onnx
from compression.quantization import aware, embeddings, weights
from compression.quantization.aware import FakeQuantizedLinear, fake_quantize, fake_quantized
from compression.quantization.scheme import Quantization, quantize
from compression.teacher import true_labels
from compression.training import train
from tests.compression.exported import answers
from tests.compression.tiny import FAMILIES, logits, random_batch, rows_of, tiny_classifier, training

NONE = torch.zeros(6, dtype=torch.bool)
COARSE = Quantization(method="weight-only", weight_bits=4, embeddings=4)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return rows_of(64, tmp_path)


def test_values_become_multiples_of_the_step_within_the_range() -> None:
    values = torch.tensor([[-3.0, -1.0, 0.0, 0.1234, 2.0, 9.0]])
    low, high = torch.tensor(-1.0), torch.tensor(2.0)
    found = fake_quantize(values, low, high, NONE)
    step = 3 / 255
    steps = found / step
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert torch.allclose(found[0, 1:5], values[0, 1:5], atol=step)
    assert float(found[0, 0]) == pytest.approx(-1, abs=step)
    assert float(found[0, 5]) == pytest.approx(2, abs=step)
    assert float(found[0, 2]) == 0


def test_outlier_columns_carry_what_sticks_out() -> None:
    values = torch.tensor([[-3.0, -1.0, 0.0, 0.1234, 2.0, 9.0]])
    carried = torch.tensor([True, False, False, False, False, True])
    found = fake_quantize(values, torch.tensor(-1.0), torch.tensor(2.0), carried)
    assert torch.allclose(found, values, atol=3 / 255)


def test_the_gradient_passes_within_the_range_and_stops_outside() -> None:
    values = torch.tensor([[-3.0, -0.9, 0.0, 0.1234, 1.9, 9.0]], requires_grad=True)
    fake_quantize(values, torch.tensor(-1.0), torch.tensor(2.0), NONE).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize("bits", [8, 7, 4])
def test_weights_are_rounded_as_the_build_will_have_them(bits: int) -> None:
    exact = torch.randn(10, 24)
    expected = weights.rounded(exact.numpy().T, bits).restored.T
    assert np.allclose(aware.fake_quantize_weight(exact, bits).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_tables_are_rounded_as_the_build_will_have_them(bits: int) -> None:
    exact = torch.randn(30, 128)
    values, scale = embeddings.eight_bits(exact.numpy())
    expected = values * scale if bits == 8 else embeddings.four_bits(exact.numpy()).restored
    found = aware.fake_quantize_rows(exact, bits).numpy()
    # The build keeps four-bit scales in half precision, which sends a few values the other way.
    assert np.mean(np.abs(found - expected) < (1e-5 if bits == 8 else 5e-3)) > 0.98


@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_the_build_computes(family: str, rows: Rows, tmp_path: Path) -> None:
    classifier = tiny_classifier(family)
    settings = Quantization(embeddings=32, keep_fp32=("head.dense",))
    to_onnx(classifier.model, tmp_path / "model.onnx", opset=17)
    quantize(settings, tmp_path / "model.onnx", tmp_path / "int8.onnx", rows, range(64))
    with fake_quantized(classifier.model, settings, batches(rows, range(64), tokens=1)):
        found = [
            (logits(classifier.model, batch).numpy(), answers(tmp_path / "int8.onnx", batch))
            for batch in (rows.batch([row]) for row in range(20))
        ]
    exact = [answers(tmp_path / "model.onnx", rows.batch([row])) for row in range(20)]
    near = np.mean([np.abs(faked - built) for faked, built in found])
    far = np.mean([np.abs(plain - built) for plain, (_, built) in zip(exact, found, strict=True)])
    # Of the last layer the build sees one position alone, and has its ranges from there.
    assert near < 0.7 * far


def test_afterwards_the_model_is_what_it_was(rows: Rows) -> None:
    model = tiny_classifier().model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = logits(model, random_batch())
    with fake_quantized(model, Quantization(), batches(rows, range(8))):
        assert sum(isinstance(part, FakeQuantizedLinear) for part in model.modules()) == 3 * 6
        assert not torch.equal(logits(model, random_batch()), expected)
    assert not any(isinstance(part, FakeQuantizedLinear) for part in model.modules())
    assert model.state_dict().keys() == before.keys()
    assert torch.equal(logits(model, random_batch()), expected)


def test_it_is_put_back_when_something_fails(rows: Rows) -> None:
    model = tiny_classifier().model
    with pytest.raises(RuntimeError), fake_quantized(model, Quantization(), batches(rows, range(8))):
        raise RuntimeError
    assert not any(isinstance(part, FakeQuantizedLinear) for part in model.modules())


def test_ranges_follow_what_training_shows_and_ignore_padding(rows: Rows) -> None:
    model = tiny_classifier().model
    with fake_quantized(model, Quantization(outliers=0), batches(rows, range(8))):
        part = next(part for part in model.modules() if isinstance(part, FakeQuantizedLinear))
        values = torch.zeros(2, 3, 32)
        values[0, 0, 5], values[1, 2, 7] = 100.0, -500.0  # the second is padding
        mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
        part._padding.remember(model, (), {"attention_mask": mask})
        before = float(part.high)
        part.train(True)
        part(values)
        assert float(part.high) == pytest.approx(before + 0.01 * (100 - before), rel=1e-4)
        assert float(part.low) > -10
        part.train(False)
        part(values)
        assert float(part.high) < 2 * before + 2


@torch.no_grad()
def four_bit_loss(classifier: Classifier, rows: Rows) -> float:
    """Loss of the model with four-bit weights, on the rows it was trained on."""
    with fake_quantized(classifier.model, COARSE, batches(rows, range(16))):
        classifier.model.train(False)
        losses = [true_labels(classifier.model, batch) for batch in batches(rows, range(len(rows)))]
    return float(torch.cat(losses).mean())


def test_training_with_it_makes_the_model_bear_it(tmp_path: Path) -> None:
    plain, prepared, rows = tiny_classifier(), tiny_classifier(), rows_of(256, tmp_path)
    settings = training(epochs=4)
    train(plain.model, true_labels, rows, rows, settings, tmp_path / "plain")
    with fake_quantized(prepared.model, COARSE, batches(rows, range(16))):
        train(prepared.model, true_labels, rows, rows, settings, tmp_path / "aware")
    assert four_bit_loss(prepared, rows) < 0.95 * four_bit_loss(plain, rows)
