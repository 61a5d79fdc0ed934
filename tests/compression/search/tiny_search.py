"""A search on the tiny teacher: in this process, or as a process of its own that can be killed.

`python -m tests.compression.search.tiny_search ROOT TRIALS` searches with what `lay_out` put below ROOT.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compression.data import DataSettings
from compression.recipe import parse
from compression.search import goals, run
from compression.search.outcome import Outcome
from compression.search.recipes import Effort
from compression.search.space import Space
from compression.search.worker import Limits
from tests.compression.finished import Finished, cheap_baseline, quiet

RECIPE = """
name = "tiny"

[text]
max_tokens = 16
truncation = "head+tail"

[[stages]]
name = "student"
kind = "student"
inputs = ["teacher"]
layers = 1

[[stages]]
name = "distilled"
kind = "distil"
inputs = ["student", "teacher"]

[stages.training]
epochs = 1
learning_rate = 2e-3
precision = "fp32"

[[stages]]
name = "pruned"
kind = "prune"
inputs = ["distilled", "teacher"]
heads = 0.5
importance_rows = 64

[stages.training]
epochs = 0.5
learning_rate = 1e-3
precision = "fp32"

[[stages]]
name = "onnx"
kind = "export"
inputs = ["pruned"]

[[stages]]
name = "out"
kind = "publish"
inputs = ["onnx"]
model = "out"

[stages.gate]
max_label_flip_rate = 0.2
max_accuracy_loss = 0.2
reason = "the texts are made up and few"
"""

SPACE = Space(
    layers=(3, 2, 1),
    heads=(0.0, 0.5),
    ffn=(0.0, 0.5),
    vocabulary=(1.0,),
    embeddings=(8,),
    scheme=("static", "weight-only"),
)
CHEAP = Effort(name="cheap", rows=96, epochs=0.5, recovery=0.0, judged_rows=16)
FULL = Effort(name="full", rows=0, epochs=1.0, recovery=1.0, judged_rows=2000)


def lay_out(finished: Finished, root: Path) -> Path:
    """The trained tiny teacher and its data, below `root`."""
    trained = next((finished.request.work / "stages").glob("teacher-*"))
    shutil.copytree(trained, root / "teacher")
    shutil.copytree(finished.request.data[0], root / "reviews")
    return root


def request(root: Path, **overrides: Any) -> run.Request:
    """A search for the fastest model of some quality; few trials."""
    plain: dict[str, Any] = {
        "goals": goals.goals([], ["retention=0.5"], ["latency", "size"], ["retention"]),
        "space": SPACE,
        "recipe": parse(RECIPE, "tiny"),
        "model": "found",
        "data": (str(root / "reviews"),),
        "data_settings": DataSettings(),
        "unlabelled": None,
        "teacher": str(root / "teacher"),
        "backbone": None,
        "repository": root / "models",
        "work": root / "work",
        "limits": Limits(trials=6, budget_seconds=None),
        "cheap": CHEAP,
        "full": FULL,
    }
    return run.Request(**{**plain, **overrides})


def search(asked: run.Request) -> Outcome:
    """Carry it out with a small stand-in for BERT-base."""
    with cheap_baseline():
        return run.search(asked, quiet, print)


def main(root: Path, trials: int) -> None:
    torch.set_num_threads(1)
    asked = request(root)
    search(replace(asked, limits=Limits(trials=trials, budget_seconds=None)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
