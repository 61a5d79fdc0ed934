"""A recipe that publishes what the machine at hand cannot run, bf16 and CUDA, of the mean of two models."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from app.errors import RecipeError
from compression import candidates, classifier, model_card
from compression.builds import CandidateBuild
from compression.judged import opened
from compression.recipe import TextSettings, parse
from compression.stages.base import Context, Input
from compression.stages.builds import CudaStage
from tests.compression.finished import Finished, cheap_baseline, request, run
from tests.compression.pruning.wordpieces import classifier_with, wordpiece_tokenizer
from tests.compression.tiny import write_data

RECIPE = """
name = "tiny"

[text]
max_tokens = 32

[[stages]]
name = "more"
kind = "finetune"
inputs = ["teacher"]

[stages.training]
epochs = 0.2
precision = "fp32"

[[stages]]
name = "mean"
kind = "average"
inputs = ["teacher", "more"]
weights = [3, 1]

[[stages]]
name = "onnx"
kind = "export"
inputs = ["mean"]

[[stages]]
name = "bf16"
kind = "openvino"
inputs = ["onnx"]
precision = "bf16"

[[stages]]
name = "gpu"
kind = "cuda"
inputs = ["onnx"]

[[stages]]
name = "out"
kind = "publish"
inputs = ["onnx", "bf16", "gpu"]
model = "small"

[stages.gate]
max_label_flip_rate = 0.2
max_accuracy_loss = 0.2
reason = "the texts are made up and few"
"""


def test_it_is_proven_by_emulation_and_its_cost_is_not_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(candidates, "cpu_features", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(candidates, "accelerators", frozenset)
    classifier.save(classifier_with(wordpiece_tokenizer()), tmp_path / "teacher")
    write_data(tmp_path / "reviews")
    asked = request(
        tmp_path, teacher=str(tmp_path / "teacher"), backbone=None, recipe=parse(RECIPE, "tiny.toml")
    )
    with cheap_baseline():
        finished = Finished(asked, run(asked))
    manifest = finished.manifest("small")
    emulated = {build.name: build.parity is not None and build.parity.emulated for build in manifest.builds}
    assert emulated == {"onnx-fp32": False, "openvino-bf16": True, "cuda-fp16": True}
    assert {build.name: build.needs for build in manifest.builds}["cuda-fp16"] == ("cuda",)
    assert {cost.build for cost in manifest.cost}.isdisjoint({"openvino-bf16", "cuda-fp16"})
    judged = opened(str(finished.folder("small")), TextSettings(), tmp_path / "judged", "openvino-bf16")
    assert judged.name == "small/1 (openvino-bf16, emulated)"
    card = model_card.text(manifest)
    assert card.count("(emulated: made on a machine that lacks what the build needs)") == 2


def test_a_gpu_build_is_made_of_fp32(tmp_path: Path) -> None:
    """Integers would be widened on a GPU, for nothing."""
    source = tmp_path / "int8"
    source.mkdir()
    CandidateBuild("onnx-int8", "onnx", "int8", "model.onnx", (), tmp_path).write(source)
    stage = CudaStage(name="gpu", kind="cuda", inputs=("int8",))
    with pytest.raises(
        RecipeError, match="stage 'gpu' takes an ONNX build in fp32, and onnx-int8 is onnx in int8"
    ):
        stage.run([Input(source, "int8")], cast(Context, None), tmp_path)
