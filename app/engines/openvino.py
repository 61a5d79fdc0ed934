"""OpenVINO on the CPU: reads its own IR, and ONNX graphs of standard operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino.passes import ConstantFolding, Manager

from app.engines.base import Ids, Logits
from app.errors import EngineError


class OpenVinoEngine:
    """A compiled model; each call runs its own infer request, so threads do not share one."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._inputs = frozenset(port.any_name for port in compiled.inputs)

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Forward pass: (B, T) ids and mask to (B, C) float32 logits."""
        if self._compiled is None:
            raise EngineError("the engine was closed")
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(input_ids)
        try:
            request = self._compiled.create_infer_request()
            outputs = request.infer({name: value for name, value in feeds.items() if name in self._inputs})
        except RuntimeError as error:
            raise EngineError(f"openvino failed on a batch of shape {input_ids.shape}: {error}") from error
        return np.array(outputs[0], dtype=np.float32)

    def close(self) -> None:
        """Drop the compiled model."""
        self._compiled = None


# Precision of a build -> what its floats are computed in. A build in int8 leaves that to the CPU.
_FLOATS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def load(path: Path, threads: int, precision: str | None = None) -> OpenVinoEngine:
    """Compile a model for the CPU on `threads` threads.

    Weights that are stored as integers are expanded once where the build computes in floats.

    Raises:
        EngineError: the file is not a graph this OpenVINO can run.
    """
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    try:
        core = ov.Core()
        model = core.read_model(path)
        if precision in _FLOATS:
            options["INFERENCE_PRECISION_HINT"] = _FLOATS[precision]
            expansion = Manager()
            expansion.register_pass(ConstantFolding())
            expansion.run_passes(model)
        return OpenVinoEngine(core.compile_model(model, "CPU", options))
    except RuntimeError as error:
        raise EngineError(f"openvino cannot load {path}: {error}") from error
