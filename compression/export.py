"""A PyTorch classifier as a build in fp32, an ONNX graph or TorchScript: (ids, mask) -> logits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

INPUT_NAMES = ["input_ids", "attention_mask"]
OUTPUT_NAME = "logits"


class LogitsOnly(nn.Module):
    """A classifier without its output dictionary."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Shapes: (B, T) ids and mask to (B, C) logits."""
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def to_onnx(model: PreTrainedModel, path: Path, opset: int) -> None:
    """Write the unfused graph, batch and sequence left open.

    The TorchScript-based exporter and eager attention are what ONNX Runtime's transformer fusions recognise.
    """
    batch_axis = {0: "batch", 1: "sequence"}
    with _traceable(model) as module:
        torch.onnx.export(
            module,
            _example(model),
            str(path),
            input_names=INPUT_NAMES,
            output_names=[OUTPUT_NAME],
            dynamic_axes={"input_ids": batch_axis, "attention_mask": batch_axis, OUTPUT_NAME: {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )


def to_torchscript(model: PreTrainedModel, path: Path) -> None:
    """Write a traced module."""
    with _traceable(model) as module, torch.inference_mode():
        traced = torch.jit.trace(module, _example(model))
        torch.jit.save(torch.jit.freeze(traced), str(path))


def _example(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows, one of them padded, so that nothing about batch, length or mask is taken as constant."""
    input_ids = torch.randint(
        5, int(model.config.vocab_size), (2, 12), generator=torch.Generator().manual_seed(0)
    )
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 8:] = 0
    return input_ids, attention_mask


@contextmanager
def _traceable(model: PreTrainedModel) -> Iterator[nn.Module]:
    """The model on the CPU in eval mode. Tracing warns of values it freezes; parity checks the result."""
    module = LogitsOnly(model.cpu()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield module
