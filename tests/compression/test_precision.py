from __future__ import annotations

import pytest
import torch

from app.errors import TrainingError
from compression import precision
from compression.precision import Precision, resolve_precision


@pytest.mark.parametrize(
    ("wanted", "features", "found"),
    [
        ("auto", {"avx2", "bf16"}, "bf16"),
        ("auto", {"avx2"}, "no"),
        ("bf16", {"avx2"}, "bf16"),
        ("fp32", {"bf16"}, "no"),
    ],
)
def test_on_a_cpu(wanted: Precision, features: set[str], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset(features))
    assert resolve_precision(wanted) == found


def test_fp16_needs_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"'fp16' needs CUDA; on a CPU use 'bf16', 'fp32' or 'auto'"):
        resolve_precision("fp16")


@pytest.mark.parametrize(
    ("wanted", "has_bf16", "found"),
    [("auto", True, "bf16"), ("auto", False, "fp16"), ("fp16", True, "fp16"), ("fp32", True, "no")],
)
def test_on_cuda(wanted: Precision, has_bf16: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert resolve_precision(wanted) == found
