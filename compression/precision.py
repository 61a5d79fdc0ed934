"""Which arithmetic a training runs in."""

from __future__ import annotations

from typing import Literal

import torch

from app.errors import TrainingError
from app.hardware import cpu_features

Precision = Literal["auto", "bf16", "fp16", "fp32"]


def resolve_precision(precision: Precision) -> str:
    """The name `accelerate` gives to the wanted precision on this device.

    `auto`: bf16 where the hardware computes it (CPU with AVX512-BF16 or AMX, recent CUDA), fp16 on older
    CUDA, else fp32.

    Raises:
        TrainingError: fp16 on a CPU, where gradients cannot be scaled.
    """
    cuda = torch.cuda.is_available()
    if precision == "auto":
        if cuda:
            return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return "bf16" if "bf16" in cpu_features() else "no"
    if precision == "fp16" and not cuda:
        raise TrainingError("precision 'fp16' needs CUDA; on a CPU use 'bf16', 'fp32' or 'auto'")
    return {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}[precision]
