"""A model from elsewhere as a student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.errors import CompressionError
from compression import classifier
from compression.pipeline import Request
from compression.recipe import parse
from tests.compression.finished import cheap_baseline, request, run
from tests.compression.tiny import tiny_classifier, write_data

RECIPE = """
name = "tiny"

[text]
max_tokens = 32

[[stages]]
name = "own"
kind = "given"
inputs = ["teacher"]
model = {model}

[[stages]]
name = "own-onnx"
kind = "export"
inputs = ["own"]

[[stages]]
name = "published"
kind = "publish"
inputs = ["own-onnx"]
model = "own"
"""


def saved(folder: Path, **fields: Any) -> Path:
    classifier.save(tiny_classifier(**fields), folder)
    return folder


def asked_for(tmp_path: Path, given: Path) -> Request:
    write_data(tmp_path / "reviews")
    recipe = parse(RECIPE.format(model=json.dumps(str(given))), "tiny")
    teacher = saved(tmp_path / "teacher", layers=3)
    return request(tmp_path, recipe=recipe, teacher=str(teacher), backbone=None)


def test_the_run_goes_on_with_the_model_it_is_given(tmp_path: Path) -> None:
    given = saved(tmp_path / "given", layers=1)
    asked = asked_for(tmp_path, given)
    with cheap_baseline():
        run(asked)
        run(asked)
    (folder,) = (tmp_path / "work" / "stages").glob("own-?[!n]*")
    assert classifier.load(str(folder)).model.config.num_hidden_layers == 1

    shutil.rmtree(given)
    saved(given, layers=2)
    with cheap_baseline():
        run(asked)
    assert len(list((tmp_path / "work" / "stages").glob("own-?[!n]*"))) == 2, "what is in the folder counts"


def test_other_labels_are_refused(tmp_path: Path) -> None:
    given = saved(tmp_path / "given", labels=("bad", "good"))
    with pytest.raises(CompressionError, match=r"the labels of .* are bad, good, those of its teacher"):
        run(asked_for(tmp_path, given))
