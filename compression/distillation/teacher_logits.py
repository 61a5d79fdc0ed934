"""A teacher's logits on every training row, computed once and kept on disk.

They are kept per text, as the teacher reads it: a second distillation on fewer, more or other rows computes
only what no earlier one did. Answers are appended in chunks, so a stopped run computes only what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compression.batches import Rows, by_token_budget
from compression.locks import exclusive
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
    name = hashlib.sha256(f"{teacher_key} {dtype}".encode()).hexdigest()[:24]
    known = _Known(cache / f"logits-{name}.bin", classes)
    device = next(teacher.parameters()).device.type
    result = np.empty((len(rows), classes), dtype=np.float32)
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = range(start, min(start + _CHUNK_ROWS, len(rows)))
        keys = [_key(rows.row(row)) for row in chunk]
        missing = [row for row, key in zip(chunk, keys, strict=True) if key not in known]
        if missing:
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                found = logits_of(teacher, rows, missing)
            known.add([keys[row - start] for row in missing], found)
        result[chunk.start : chunk.stop] = [known[key] for key in keys]
        report(chunk.stop, len(rows), "rows")
    return torch.from_numpy(result)


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


class _Known:
    """Answers by the key of their text, in memory and at the end of a file.

    The file is records of a key and its logits. A record cut short by a kill is dropped on the next start.
    """

    def __init__(self, path: Path, classes: int) -> None:
        self._record = np.dtype([("key", "u1", 16), ("logits", "<f4", classes)])
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_suffix(".lock")  # another process may be adding to the file
        with exclusive(self._lock):
            path.touch()
            whole = path.stat().st_size // self._record.itemsize * self._record.itemsize
            if whole < path.stat().st_size:
                with path.open("r+b") as stream:
                    stream.truncate(whole)
            stored: Any = np.fromfile(path, dtype=self._record)
        self._logits: dict[bytes, npt.NDArray[np.float32]] = {
            row["key"].tobytes(): row["logits"] for row in stored
        }

    def __contains__(self, key: bytes) -> bool:
        return key in self._logits

    def __getitem__(self, key: bytes) -> npt.NDArray[np.float32]:
        return self._logits[key]

    def add(self, keys: Sequence[bytes], logits: npt.NDArray[np.float32]) -> None:
        """Remember the answers, and keep them."""
        records = np.empty(len(keys), dtype=self._record)
        records["key"] = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), 16)
        records["logits"] = logits
        with exclusive(self._lock), self._path.open("ab") as stream:
            stream.write(records.tobytes())
        self._logits |= dict(zip(keys, logits, strict=True))


def _key(ids: npt.NDArray[np.int64]) -> bytes:
    """What a text is known by: a digest of the ids the teacher reads."""
    return hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
