"""Peak resident memory of a fresh process that loads one model and answers once.

Run as a module, so that nothing of the trainer is in the figure:
`python -m compression.peak_memory onnx model.onnx 128 2 int8` or `... bert-base - 128 2 -` prints bytes.
What it loads is imported inside the branch that needs it, for the same reason.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from app.errors import CompressionError

BASELINE = "bert-base"
NGRAM = "ngram"
CLASSIFIER = "classifier"


def measure(engine: str, path: Path, tokens: int, threads: int, precision: str = "-") -> int:
    """Bytes a fresh process needs at its peak to load the model and answer one text of `tokens` tokens."""
    arguments = [engine, str(path), str(tokens), str(threads), precision]
    command = [sys.executable, "-m", "compression.peak_memory", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise CompressionError(f"memory could not be measured: {finished.stderr.strip()[-300:]}")
    return int(finished.stdout.split()[-1])


def _answer_once(engine: str, path: Path, tokens: int, threads: int, precision: str) -> None:
    ids = np.full((1, tokens), 7, dtype=np.int64)
    if engine == BASELINE:
        from compression.baseline import bert_base, predictor

        predictor(bert_base(), threads)(ids, np.ones_like(ids))
    elif engine == CLASSIFIER:
        from compression import classifier
        from compression.baseline import predictor

        predictor(classifier.load(str(path)).model, threads)(ids, np.ones_like(ids))
    elif engine == NGRAM:
        from compression import ngram

        ngram.load(path).predict(["word " * tokens])
    else:
        from app.engines import load_engine

        load_engine(engine, path, threads, precision).logits(ids, np.ones_like(ids))


def high_water_mark() -> int:
    """Most memory this process ever had resident (VmHWM), in bytes.

    Unlike getrusage's figure it forgets the parent's memory at exec.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise CompressionError("/proc/self/status has no VmHWM; memory can be measured on Linux only")


if __name__ == "__main__":
    _answer_once(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    print(high_water_mark())  # noqa: T201
