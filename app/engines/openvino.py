"""OpenVINO on the CPU: reads its own IR, and ONNX graphs of standard operators."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino.passes import ConstantFolding, Manager

from app.engines.base import Ids, Logits, Placement
from app.errors import EngineError

# Kernels kept for shapes met before. As it comes OpenVINO keeps 5,000, and 417 shapes of texts took 690 MB.
_KEPT_SHAPES = "64"


class OpenVinoEngine:
    """A compiled model with a stream for each pass that may run at once."""

    # Kernels are made for every shape: with lengths in steps of 8 most are there already.
    length_step = 8

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._inputs = frozenset(port.any_name for port in compiled.inputs)
        # Each holds its buffers, so there are as many as passes ever ran at once.
        self._idle_requests: deque[Any] = deque()
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        streams = compiled.get_property("NUM_STREAMS")
        self.description = f"openvino {ov.__version__.split('-')[0]} at {precision}, {streams} streams"

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Forward pass: (B, T) ids and mask to (B, C) float32 logits."""
        compiled = self._compiled
        if compiled is None:
            raise EngineError("the engine was closed")
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(input_ids)
        try:
            request = self._idle_requests.pop() if self._idle_requests else compiled.create_infer_request()
            outputs = request.infer({name: value for name, value in feeds.items() if name in self._inputs})
            logits = np.array(outputs[0], dtype=np.float32)
        except RuntimeError as error:
            raise EngineError(f"openvino failed on a batch of shape {input_ids.shape}: {error}") from error
        self._idle_requests.append(request)
        return logits

    def close(self) -> None:
        """Drop the compiled model and its requests."""
        self._compiled = None
        self._idle_requests.clear()


# Precision of a build -> what its floats are computed in. A build in int8 leaves that to the CPU.
_FLOATS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def load(path: Path, placement: Placement) -> OpenVinoEngine:
    """Compile a model for the CPU.

    Weights that are stored as integers are expanded once where the build computes in floats.

    Raises:
        EngineError: the file is not a graph this OpenVINO can run.
    """
    options: dict[str, Any] = {
        # The hint LATENCY makes a single stream, on which passes wait for one another.
        "NUM_STREAMS": placement.passes,
        "INFERENCE_NUM_THREADS": placement.threads * placement.passes,
        # The first streams of two models would be pinned to the same core.
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_SHAPES,
    }
    try:
        core = ov.Core()
        core.set_property({"ENABLE_MMAP": True})
        model = core.read_model(path)
        if placement.precision in _FLOATS:
            options["INFERENCE_PRECISION_HINT"] = _FLOATS[placement.precision]
            expansion = Manager()
            expansion.register_pass(ConstantFolding())
            expansion.run_passes(model)
        return OpenVinoEngine(core.compile_model(model, "CPU", options))
    except RuntimeError as error:
        raise EngineError(f"openvino cannot load {path}: {error}") from error
