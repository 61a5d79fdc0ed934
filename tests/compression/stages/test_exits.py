"""Early exit as stages: trained, quantized, branched, held to the gate and published."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from app.errors import RecipeError
from compression import classifier
from compression.recipe import parse
from compression.stages.exits import REPORT_FILE
from tests.compression.finished import cheap_baseline, request, run
from tests.compression.tiny import tiny_classifier, write_data

RECIPE = """
name = "tiny"

[text]
max_tokens = 16

[teacher]
epochs = 1

[[stages]]
name = "leaving"
kind = "exits"
inputs = ["teacher"]
after = [1, 2]
agreement = 0.9

[stages.training]
epochs = 2
learning_rate = 5e-3
precision = "fp32"

[[stages]]
name = "onnx"
kind = "export"
inputs = ["leaving"]

[[stages]]
name = "int8"
kind = "quantize"
inputs = ["onnx"]

[[stages]]
name = "branched"
kind = "branch"
inputs = ["int8"]

[[stages]]
name = "branched-fp32"
kind = "branch"
inputs = ["onnx"]

[[stages]]
name = "out"
kind = "publish"
inputs = ["branched", "branched-fp32"]
model = "leaving"

[stages.gate]
max_label_flip_rate = 0.3
max_accuracy_loss = 0.3
reason = "the texts are made up and few"
"""


@pytest.mark.parametrize("rule", ["confidence", "patience"])
def test_a_version_that_leaves_early_is_published(rule: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    before = tiny_classifier()
    classifier.save(before, tmp_path / "teacher")
    write_data(tmp_path / "reviews")
    recipe = parse(RECIPE.replace("agreement", f'rule = "{rule}"\nagreement'), "tiny")
    asked = request(tmp_path, teacher=str(tmp_path / "teacher"), backbone=None, recipe=recipe)
    with cheap_baseline():
        outcome = run(asked)
    assert outcome.refused == ()
    (version,) = outcome.published
    assert [build.precision for build in version.manifest.builds] == ["int8", "fp32"]
    for build in version.manifest.builds:
        nodes = onnx.load(version.folder / build.file).graph.node
        assert [node.op_type for node in nodes].count("If") == 1
    stage = next((asked.work / "stages").glob("leaving-*"))
    told = json.loads((stage / REPORT_FILE).read_text(encoding="utf-8"))
    assert told["after"] == [1, 2]
    assert sum(told["share_leaving"]) > 0
    assert told["patience"] == (1 if rule == "patience" else None)
    after = classifier.load(str(stage)).model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.model.state_dict().items())


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        ("after = [1, 2]", "after = []", "after"),
        ("after = [1, 2]", "after = [0]", "after"),
        ("agreement = 0.9", "agreement = 1.1", "agreement"),
        ("after = [1, 2]", 'after = [1]\nrule = "patience"', "name two in 'after'"),
        ("agreement = 0.9", 'rule = "hope"', "rule"),
        ('inputs = ["int8"]', 'inputs = ["leaving"]', "takes a build"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(line: str, instead: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(RECIPE.replace(line, instead), "tiny")
