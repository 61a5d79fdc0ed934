"""A teacher's logits on every training row, computed once and kept on disk.

The file is filled in chunks and starts out as NaN, so a stopped run computes only what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compression.batches import Rows, by_token_budget
from compression.precision import Precision, resolve_precision
from compression.training import Report, silent

_CHUNK_ROWS = 512
_BATCH_TOKENS = 2048
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def teacher_logits(
    teacher: nn.Module,
    teacher_key: str,
    rows: Rows,
    classes: int,
    cache: Path,
    precision: Precision = "fp32",
    report: Report = silent,
) -> torch.Tensor:
    """Logits of shape (N, C), from the cache where they stand there. `teacher_key` identifies the weights.

    A student may learn from logits of lower precision; what a build is judged by is fp32.
    """
    dtype = _AUTOCAST.get(resolve_precision(precision))
    key = hashlib.sha256(f"{teacher_key} {rows.fingerprint} {dtype}".encode()).hexdigest()[:24]
    path = cache / f"logits-{key}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.full((len(rows), classes), np.nan, dtype=np.float32))
        partial.replace(path)
    device = next(teacher.parameters()).device.type
    stored = np.lib.format.open_memmap(path, mode="r+")
    for start in range(0, len(rows), _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, len(rows))
        if np.isnan(stored[start:stop]).any():
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                stored[start:stop] = logits_of(teacher, rows, range(start, stop))
            stored.flush()
        report(stop, len(rows), "rows")
    return torch.from_numpy(np.array(stored))


@torch.inference_mode()
def logits_of(model: nn.Module, rows: Rows, chosen: Sequence[int]) -> npt.NDArray[np.float32]:
    """A model's logits on the chosen rows, in their order. Shape: (N, C)."""
    model.eval()
    device = next(model.parameters()).device
    position = {row: index for index, row in enumerate(chosen)}
    parts, order = [], []
    for group in by_token_budget(chosen, rows.lengths, _BATCH_TOKENS):
        batch = rows.batch(group).to(device)
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        parts.append(logits.float().cpu().numpy())
        order += [position[row] for row in group]
    result = np.concatenate(parts)
    result[order] = result.copy()
    return result
