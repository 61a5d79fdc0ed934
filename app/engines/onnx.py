"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from app.engines.base import Ids, Logits
from app.errors import EngineError


class OnnxEngine:
    """A build in ONNX Runtime. Inputs it does not declare (a mask, for instance) are not sent."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session: ort.InferenceSession | None = session
        self._inputs = frozenset(node.name for node in session.get_inputs())
        self._outputs = [session.get_outputs()[0].name]

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Forward pass: (B, T) ids and mask to (B, C) float32 logits."""
        if self._session is None:
            raise EngineError("the engine was closed")
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(input_ids)
        try:
            outputs = self._session.run(
                self._outputs, {name: value for name, value in feeds.items() if name in self._inputs}
            )
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise EngineError(f"onnxruntime failed on a batch of shape {input_ids.shape}: {error}") from error
        return np.asarray(outputs[0], dtype=np.float32)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def load(path: Path, threads: int, _precision: str | None = None) -> OnnxEngine:
    """Open an ONNX file on `threads` intra-op threads.

    Raises:
        EngineError: the file is not a graph this onnxruntime can run.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads must not burn the cores that the event loop and other variants need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return OnnxEngine(ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise EngineError(f"onnxruntime cannot load {path}: {error}") from error
