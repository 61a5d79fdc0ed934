"""The same classifier for every peer: text in, label and score out.

The environment variable BENCH_PEER says in JSON which engine, model and setting (see `loadtests.peers.peer`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

VARIABLE = "BENCH_PEER"
Prediction = tuple[str, float]


class Classifier(Protocol):
    """Anything that gives every text a label and its probability."""

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction per text, in order."""
        ...


@dataclass(frozen=True)
class Order:
    """What the benchmark asked this server to be."""

    port: int
    engine: str
    model: str
    build: str
    workers: int
    threads: int
    batch: int
    wait_ms: int
    options: tuple[str, ...]

    @classmethod
    def read(cls) -> Order:
        """The order in this process's environment."""
        fields = json.loads(os.environ[VARIABLE])
        return cls(**{**fields, "options": tuple(fields["options"])})

    def classifier(self) -> Classifier:
        """A fresh one; its libraries are imported here, in the process that uses them."""
        if self.engine == "onnx":
            return OnnxClassifier(Path(self.model), self.build, self.threads)
        return PipelineClassifier(self.model, self.threads)


class OnnxClassifier:
    """An artifact's ONNX build in onnxruntime, with its own tokenizer.json. Batches are padded."""

    def __init__(self, folder: Path, build: str, threads: int) -> None:
        import onnxruntime as ort
        from tokenizers import Tokenizer

        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self._labels: list[str] = manifest["heads"][0]["labels"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.enable_padding(pad_id=manifest["tokenizer"]["pad_token_id"])
        # faster since it finds no offsets; older versions do not have it
        self._encode = getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # As in bertpress: where a server and its engine share two cores, spinning takes them from the server.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(folder / build, options, providers=["CPUExecutionProvider"])
        self._inputs = [node.name for node in self._session.get_inputs()]

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction per text, in order; all of them in one forward pass."""
        import numpy as np

        encodings = self._encode(list(texts))
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (logits,) = self._session.run(["logits"], {name: feeds[name] for name in self._inputs})
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
        best = probabilities.argmax(axis=-1)
        return [
            (self._labels[index], float(row[index])) for index, row in zip(best, probabilities, strict=True)
        ]


class PipelineClassifier:
    """transformers' pipeline, as its documents show it; `threads` 0 leaves their number to PyTorch."""

    def __init__(self, folder: str, threads: int) -> None:
        import torch
        from transformers import pipeline

        if threads:
            torch.set_num_threads(threads)
        self._pipeline: Any = pipeline("text-classification", model=folder)

    def __call__(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction per text, in order; more than one are a padded batch."""
        answers = self._pipeline(list(texts), batch_size=len(texts), truncation=True)
        return [(answer["label"], float(answer["score"])) for answer in answers]
