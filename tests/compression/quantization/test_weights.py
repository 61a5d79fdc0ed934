from __future__ import annotations

import numpy as np
import pytest

from compression.quantization.weights import Floats, blocked, compensated, rounded


def weight(inputs: int = 24, outputs: int = 10, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32)


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (7, 63), (4, 7)])
def test_every_channel_uses_its_whole_range(bits: int, largest: int) -> None:
    quantized = rounded(weight(), bits)
    assert (np.abs(quantized.values.astype(int)).max(0) == largest).all()
    assert np.abs(quantized.restored - weight()).max() <= quantized.scale.max() / 2 + 1e-6


def test_a_channel_of_zeros_stays_zero() -> None:
    empty = weight()
    empty[:, 3] = 0
    assert not rounded(empty, 8).restored[:, 3].any()
    assert (blocked(empty, 8, 16).scales == 1).sum() == 2


def correlated_inputs(inputs: int = 24, rows: int = 400) -> Floats:
    """Inputs that move together, as a network's do."""
    generator = np.random.default_rng(1)
    return (generator.normal(size=(rows, 6)) @ generator.normal(size=(6, inputs))).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 7])
def test_compensated_rounding_changes_the_output_less(bits: int) -> None:
    inputs, exact = correlated_inputs(), weight()
    moments = inputs.T @ inputs

    def error(restored: Floats) -> float:
        return float(np.square(inputs @ (restored - exact)).mean())

    assert error(compensated(exact, bits, moments).restored) < 0.5 * error(rounded(exact, bits).restored)


def one_row_at_a_time(exact: Floats, bits: int, moments: Floats, damping: float) -> Floats:
    """GPTQ's equation 2 as it stands: the inverse is computed anew for the rows that are left."""
    left, scale = exact.astype(np.float64), rounded(exact, bits).scale
    limit = 2 ** (bits - 1) - 1
    damped = moments.astype(np.float64) + np.eye(len(moments)) * damping * np.diag(moments).mean()
    for row in range(len(left)):
        inverse = np.linalg.inv(damped[row:, row:])
        value = np.clip(np.rint(left[row] / scale), -limit, limit) * scale
        left[row + 1 :] -= np.outer(inverse[1:, 0], (left[row] - value) / inverse[0, 0])
        left[row] = value
    return left.astype(np.float32)


def test_it_is_the_papers_rule() -> None:
    inputs, exact = correlated_inputs(), weight()
    moments = inputs.T @ inputs
    expected = one_row_at_a_time(exact, 4, moments, damping=0.01)
    assert np.allclose(compensated(exact, 4, moments, damping=0.01).restored, expected, atol=1e-5)


def test_inputs_that_never_vary_do_no_harm() -> None:
    moments = np.zeros((24, 24), np.float32)
    assert np.array_equal(compensated(weight(), 8, moments).values, rounded(weight(), 8).values)


def unpacked(packed: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], bits: int) -> Floats:
    if bits == 8:
        return packed.astype(np.float32) - 128
    low, high = packed % 16, packed // 16
    return np.stack([low, high], -1).reshape(*packed.shape[:2], -1).astype(np.float32) - 8


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_stand_for_the_weight(bits: int) -> None:
    exact = weight(inputs=24)
    quantized = blocked(exact, bits, block=16)
    assert quantized.packed.shape == (10, 2, 16 * bits // 8)
    scales = quantized.scales.reshape(10, 2, 1)
    restored = (unpacked(quantized.packed, bits) * scales).reshape(10, 32)
    assert np.abs(restored[:, :24] - exact.T).max() <= scales.max() / 2 + 1e-6
    assert not restored[:, 24:].any()
