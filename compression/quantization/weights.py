"""Weights as small integers: one scale per output channel, or one per block of a channel.

Symmetric, so that a weight's zero is the integer zero. Of eight bits the values are -127 to 127, of seven
-63 to 63 (right on CPUs without VNNI, see `dynamic`), of four -7 to 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QuantizedWeight:
    """Shapes: values (K, N) int8; scale (N,)."""

    values: npt.NDArray[np.int8]
    scale: Floats

    @property
    def restored(self) -> Floats:
        """The weight these integers stand for. Shape: (K, N)."""
        return self.values * self.scale


def largest(bits: int) -> int:
    """The largest integer of a signed weight of so many bits."""
    return int(2 ** (bits - 1) - 1)


def channel_scales(weight: Floats, bits: int) -> Floats:
    """The scale of each output channel. Shapes: (K, N) to (N,)."""
    scale = np.abs(weight).max(0) / largest(bits)
    return np.where(scale == 0, 1, scale).astype(np.float32)


def rounded(weight: Floats, bits: int) -> QuantizedWeight:
    """Every weight to the nearest integer of its channel."""
    scale = channel_scales(weight, bits)
    return QuantizedWeight(np.rint(weight / scale).astype(np.int8), scale)


def compensated(weight: Floats, bits: int, second_moments: Floats, damping: float = 0.01) -> QuantizedWeight:
    """Rounding whose errors make up for each other on inputs like those of the calibration.

    Input by input: the error of one row of the weight is spread over the rows not yet rounded, in the way
    that changes the layer's output least. `second_moments` is the sum of x x^T over inputs x, shape (K, K).

    Source: Frantar et al. 2022, GPTQ, equations 2 and 3 and the Cholesky form of section 3.3.
    """
    scale, limit = channel_scales(weight, bits), largest(bits)
    left = weight.astype(np.float64)
    values = np.empty(weight.shape, np.int8)
    spread = _inverse_cholesky(second_moments, damping)
    for row in range(len(left)):
        values[row] = np.clip(np.rint(left[row] / scale), -limit, limit)
        error = (left[row] - values[row] * scale) / spread[row, row]
        left[row + 1 :] -= np.outer(spread[row, row + 1 :], error)
    return QuantizedWeight(values, scale)


def _inverse_cholesky(second_moments: Floats, damping: float) -> npt.NDArray[Any]:
    """Upper Cholesky factor of the inverse, damped so that inputs that never vary do no harm."""
    moments = second_moments.astype(np.float64)
    moments[np.diag_indices_from(moments)] += max(damping * float(np.diag(moments).mean()), 1e-12)
    return np.linalg.cholesky(np.linalg.inv(moments)).T


@dataclass(frozen=True)
class BlockedWeight:
    """Blocks along the input, as ONNX Runtime's MatMulNBits takes them.

    Shapes: packed (N, blocks, block bytes) uint8; scales (N * blocks,).
    """

    packed: npt.NDArray[np.uint8]
    scales: Floats


def blocked(weight: Floats, bits: int, block: int) -> BlockedWeight:
    """Quantize blocks of `block` inputs of each output channel; the last is filled up with zeros.

    Source: ONNX Runtime, ContribOperators.md, com.microsoft.MatMulNBits.
    """
    inputs, outputs = weight.shape
    blocks = -(-inputs // block)
    filled = np.zeros((blocks * block, outputs), np.float32)
    filled[:inputs] = weight
    parts = filled.T.reshape(outputs, blocks, block)
    scales = np.abs(parts).max(-1, keepdims=True) / largest(bits)
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    values = (np.rint(parts / scales) + 2 ** (bits - 1)).astype(np.uint8)
    if bits == 4:
        values = values[..., 0::2] | (values[..., 1::2] << 4)
    return BlockedWeight(values, scales.reshape(-1))
