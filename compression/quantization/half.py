"""A graph in fp16, for GPUs: weights and arithmetic in half precision, ids in and fp32 logits out as before.

Products of fp16 numbers are added up in fp32 by the tensor cores, and ONNX Runtime normalizes layers in fp32.
Source: Micikevicius et al. 2018, Mixed Precision Training (its storage of weights and activations).
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16


def convert(source: Path, target: Path) -> Path:
    """Write a graph of fp32 floats in fp16; returns its path. Weights are stored in the new file."""
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
    return target
