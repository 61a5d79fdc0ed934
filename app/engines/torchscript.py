"""TorchScript on the CPU. Opened only when a setting allows it: the format can carry code."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from app.engines.base import Ids, Logits, Placement
from app.errors import EngineError


class TorchScriptEngine:
    """A traced module that maps (input_ids, attention_mask) to logits."""

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self._module: torch.jit.ScriptModule | None = module
        self.description = f"torch {torch.__version__} on CPU"

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Forward pass: (B, T) ids and mask to (B, C) float32 logits."""
        module = self._module
        if module is None:
            raise EngineError("the engine was closed")
        try:
            with torch.inference_mode():
                output = module(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        except RuntimeError as error:
            raise EngineError(f"torch failed on a batch of shape {input_ids.shape}: {error}") from error
        return np.asarray(output.float().numpy(), dtype=np.float32)

    def close(self) -> None:
        """Drop the module."""
        self._module = None


def load(path: Path, placement: Placement) -> TorchScriptEngine:
    """Open a TorchScript file; torch's thread count is one for the whole process.

    Raises:
        EngineError: the file is not a TorchScript module.
    """
    # torch.export, which it advises, makes files that cannot be opened without the code that made them.
    warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
    torch.set_num_threads(placement.threads)
    try:
        return TorchScriptEngine(torch.jit.load(path, map_location="cpu").eval())
    except (RuntimeError, ValueError, OSError) as error:
        raise EngineError(f"torch cannot load {path}: {error}") from error
