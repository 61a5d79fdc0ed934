"""ONNX Runtime, on the CPU or on a CUDA device."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from app.engines.base import Ids, Logits, Placement
from app.errors import EngineError

_ONE_TOKEN = np.ones((1, 1), dtype=np.int64)
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxEngine:
    """A build in ONNX Runtime. Inputs it does not declare (a mask, for instance) are not sent."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session: ort.InferenceSession | None = session
        self._inputs = frozenset(node.name for node in session.get_inputs())
        self._outputs = [session.get_outputs()[0].name]
        self._on_cpu = _CUDA not in session.get_providers()
        self.description = f"onnxruntime {ort.__version__} on {'CPU' if self._on_cpu else 'CUDA'}"

    def logits(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Forward pass: (B, T) ids and mask to (B, C) float32 logits."""
        session = self._session
        if session is None:
            raise EngineError("the engine was closed")
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(input_ids)
        try:
            outputs = session.run(
                self._outputs, {name: value for name, value in feeds.items() if name in self._inputs}
            )
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise EngineError(f"onnxruntime failed on a batch of shape {input_ids.shape}: {error}") from error
        return np.asarray(outputs[0], dtype=np.float32)

    def trim(self) -> None:
        """Run a pass of one token, and give back what the arena of all sessions holds beside it."""
        if self._session is None or not self._on_cpu:
            return
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        # An output of its own would lie in the arena, and keep the part it lies in, which may be the largest.
        binding = self._session.io_binding()
        for name in self._inputs:
            binding.bind_cpu_input(name, _ONE_TOKEN)
        kept = self._session.run(self._outputs, dict.fromkeys(self._inputs, _ONE_TOKEN))
        for name, output in zip(self._outputs, kept, strict=True):
            binding.bind_output(name, "cpu", 0, output.dtype, output.shape, output.ctypes.data)
        self._session.run_with_iobinding(binding, options)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def load(path: Path, placement: Placement) -> OnnxEngine:
    """Open an ONNX file.

    Raises:
        EngineError: the file is not a graph this onnxruntime can run, or CUDA cannot be had.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = placement.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A pattern is kept for every shape seen; texts have too many shapes for that to pay.
    options.enable_mem_pattern = False
    # Idle threads must not burn the cores that the event loop and other variants need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if placement.device == "cuda":
        _load_libraries()
    if placement.device == "cpu":
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = ort.InferenceSession(path, options, providers=_providers(placement))
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise EngineError(f"onnxruntime cannot load {path}: {error}") from error
    # Without a driver or its libraries it falls back to the CPU, and the log alone says so.
    if placement.device == "cuda" and _CUDA not in session.get_providers():
        raise EngineError(
            f"onnxruntime runs {path} on {session.get_providers()}, not on CUDA; install the NVIDIA driver "
            "and the CUDA and cuDNN libraries that this onnxruntime-gpu was built for"
        )
    return OnnxEngine(session)


@cache
def _load_libraries() -> None:
    """CUDA and cuDNN from where pip installs them; else only the system's own would be found."""
    preload = getattr(ort, "preload_dlls", None)  # since 1.21
    if preload is not None:
        preload()


@cache
def _share_arena() -> None:
    """One arena for all sessions of this process, which grows by what passes need and not by doubling.

    With an arena each that doubles, texts of random lengths on two workers take a fifth more memory.
    """
    device = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    same_as_requested = {"arena_extend_strategy": 1, "initial_chunk_size_bytes": 1 << 20}
    limits = {"max_mem": 0, "max_dead_bytes_per_chunk": 1 << 20}
    ort.create_and_register_allocator(device, ort.OrtArenaCfg(same_as_requested | limits))


def _providers(placement: Placement) -> list[str | tuple[str, dict[str, str]]]:
    if placement.device == "cpu":
        return [_CPU]
    # Passes differ in shape: memory grows by what they need, not by doubling.
    return [(_CUDA, {"arena_extend_strategy": "kSameAsRequested"}), _CPU]
