"""A whole run of the pipeline on tiny models: from a backbone to two published versions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from app.artifact import Manifest
from compression import baseline, peak_memory, pipeline
from compression.data import DataSettings
from compression.pipeline import Outcome, Request
from compression.recipe import Recipe, parse, with_torchscript
from compression.training import Report, silent
from tests.compression.tiny import loud, tiny_tokenizer, write_data

# Of the eight heads of two layers five are kept, so the layers must end uneven.
RECIPE = """
name = "tiny"

[text]
max_tokens = 16
truncation = "head+tail"

[teacher]
epochs = 3
learning_rate = 2e-3
rows_per_step = 16
precision = "fp32"

[[stages]]
name = "student"
kind = "student"
inputs = ["teacher"]
layers = 2

[[stages]]
name = "distilled"
kind = "distil"
inputs = ["student", "teacher"]

[stages.distillation]
hidden_weight = 0.5
unlabelled_rows = -1

[stages.training]
epochs = 1
learning_rate = 2e-3
precision = "fp32"

[[stages]]
name = "pruned"
kind = "prune"
inputs = ["distilled", "teacher"]
heads = 0.4
ffn = 0.5
importance_rows = 64

[stages.training]
epochs = 0.5
learning_rate = 1e-3
precision = "fp32"

[[stages]]
name = "small-onnx"
kind = "export"
inputs = ["pruned"]

[[stages]]
name = "small-reduced"
kind = "quantize"
inputs = ["small-onnx"]

[[stages]]
name = "small-int8"
kind = "quantize"
inputs = ["small-onnx"]
reduced_range = false

[[stages]]
name = "small"
kind = "publish"
inputs = ["small-reduced", "small-int8", "small-onnx"]
model = "small"
description = "Two layers, pruned."

[stages.gate]
max_label_flip_rate = 0.2
max_accuracy_loss = 0.2
reason = "the texts are made up and few"

[[stages]]
name = "whole-onnx"
kind = "export"
inputs = ["teacher"]

[[stages]]
name = "whole"
kind = "publish"
inputs = ["whole-onnx"]
model = "whole"
"""


@dataclass(frozen=True)
class Finished:
    """What was asked for, and what came of it."""

    request: Request
    outcome: Outcome

    def manifest(self, model: str) -> Manifest:
        return next(version.manifest for version in self.outcome.published if version.manifest.name == model)

    def folder(self, model: str, version: int = 1) -> Path:
        return self.request.repository / model / str(version)


def recipe(**replaced: str) -> Recipe:
    """The tiny recipe; `replaced` maps stage names to lines put behind their `inputs`."""
    body = RECIPE
    for stage, line in replaced.items():
        name = stage.replace("_", "-")
        start = body.index(f'name = "{name}"')
        end = body.index("\n", body.index("inputs = ", start))
        body = f"{body[:end]}\n{line}{body[end:]}"
    return with_torchscript(parse(body, "tiny"))


def backbone(folder: Path) -> Path:
    """A tiny BERT encoder without a classification layer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=160,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    encoder = BertModel(config)
    loud(encoder)
    encoder.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def request(root: Path, **overrides: Any) -> Request:
    """A run from a backbone on made-up reviews, everything of it below `root`."""
    plain: dict[str, Any] = {
        "recipe": recipe(),
        "data": (str(root / "reviews"),),
        "data_settings": DataSettings(),
        "unlabelled": None,
        "teacher": None,
        "backbone": str(root / "backbone"),
        "repository": root / "models",
        "work": root / "work",
    }
    return Request(**{**plain, **overrides})


def finish(root: Path) -> Finished:
    """Carry the run out."""
    backbone(root / "backbone")
    write_data(root / "reviews")
    with cheap_baseline():
        asked = request(root)
        return Finished(asked, run(asked))


def run(asked: Request) -> Outcome:
    return pipeline.run(asked, quiet)


def quiet(_title: str) -> Report:
    return silent


@contextmanager
def cheap_baseline() -> Iterator[None]:
    """A small stand-in for BERT-base, and no processes to measure memory in."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(baseline, "bert_base", small_bert)
        patched.setattr(peak_memory, "measure", lambda *_: 123_000_000)
        yield


def small_bert() -> BertForSequenceClassification:
    """Reads 512 tokens, as BERT-base does."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=160, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    model = BertForSequenceClassification(config)
    model.train(False)
    return model


def moved(finished: Finished, root: Path, **overrides: Any) -> Request:
    """The same request on a copy of what the run left, to be changed at will."""
    shutil.copytree(finished.request.work, root / "work")
    shutil.copytree(finished.request.repository, root / "models")
    return replace(finished.request, work=root / "work", repository=root / "models", **overrides)
