from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from app.engines import load_engine
from compression import shortcuts
from compression.shortcuts import WHOLE, factors, write
from tests.compression.tiny import logits, random_batch, tiny_model


def test_every_graph_leaves_out_what_its_name_says(tmp_path: Path) -> None:
    model, batch = tiny_model(), random_batch(rows=4)
    graphs = write(model, tmp_path)
    answers = {
        name: load_engine("onnx", path, 1).logits(batch.input_ids.numpy(), batch.attention_mask.numpy())
        for name, path in graphs.items()
    }
    whole = logits(model, batch).numpy()
    same = {name for name, found in answers.items() if np.abs(found - whole).max() < 1e-4}
    assert same == {WHOLE, "could have left"}
    assert len(graphs) == 3 + len(shortcuts.KEPT)


def test_factors_are_of_the_whole_model_at_the_same_length(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Engine:
        """Takes so many seconds a token."""

        def __init__(self, _: str, path: Path, __: int) -> None:
            self.seconds = float(path.name)

        def logits(self, input_ids: npt.NDArray[np.int64], _: npt.NDArray[np.int64]) -> None:
            now[0] += self.seconds * input_ids.shape[1] + (1.0 if self.seconds == 3.0 else 0.0)

    monkeypatch.setattr(shortcuts, "load_engine", Engine)
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    found = factors({WHOLE: Path("3.0"), "half": Path("1.0")}, (1, 4), rounds=2)
    assert found == {WHOLE: [1.0, 1.0], "half": pytest.approx([4.0, 13 / 4])}
