from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.numpy import load_file
from transformers import BertForSequenceClassification

from app.errors import DataError
from compression import export
from compression.classifier import Classifier, save
from compression.quantization.scheme import Quantization, quantize
from loadtests.peers import float_model
from loadtests.peers.known import PEERS
from tests.compression.exported import answers
from tests.compression.tiny import logits, random_batch, rows_of, tiny_classifier, uneven_classifier

STORED = {
    "fp32": None,
    "words in 8 bits": Quantization(method="weight-only", embeddings=8),
    "words in 4 bits": Quantization(method="weight-only", embeddings=4),
}


def publish(classifier: Classifier, folder: Path, settings: Quantization | None) -> Path:
    """What of a version's folder the float model is made of, its build in model.onnx."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # no two tensors alike, of which the exporter would keep one
        for weight in classifier.model.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=generator))
    save(classifier, folder)
    (folder / "model.safetensors").unlink()
    fp32 = folder / "fp32.onnx"
    export.to_onnx(classifier.model, fp32, opset=17)
    if settings is None:
        fp32.rename(folder / "model.onnx")
    else:
        quantize(settings, fp32, folder / "model.onnx", rows_of(64, folder / "rows"), range(32))
    return folder


@pytest.mark.parametrize("settings", STORED.values(), ids=STORED.keys())
def test_hugging_face_s_own_model_answers_from_it_as_the_build(
    settings: Quantization | None, tmp_path: Path
) -> None:
    classifier, batch = tiny_classifier("bert"), random_batch(rows=6, longest=20)
    version = publish(classifier, tmp_path / "1", settings)
    expected = torch.from_numpy(answers(version / "model.onnx", batch))

    folder = float_model.write(version, ["model.onnx"], tmp_path / "float")

    loaded = BertForSequenceClassification.from_pretrained(folder)
    assert all(weight.dtype == torch.float32 for weight in loaded.parameters())
    found = logits(loaded, batch)
    # ONNX Runtime rounds the inputs of stored products to eight bits on its own account.
    assert (found - expected).abs().max() < (1e-5 if settings is None else 0.05 * expected.std())
    assert (folder / "tokenizer.json").read_bytes() == (version / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("embeddings", [4, 8])
def test_a_build_that_rounds_its_activations_stands_for_the_same_weights(
    embeddings: Literal[4, 8], tmp_path: Path
) -> None:
    weights = []
    for method in ("static", "weight-only"):
        settings = Quantization(method=method, embeddings=embeddings, outliers=0, calibration_rows=32)
        version = publish(tiny_classifier("bert"), tmp_path / method, settings)
        folder = float_model.write(version, ["model.onnx"], tmp_path / f"{method} float")
        weights.append(load_file(folder / "model.safetensors"))

    static, stored = weights
    assert static.keys() == stored.keys()
    for name, expected in stored.items():
        np.testing.assert_allclose(static[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)


def other_graph() -> onnx.ModelProto:
    """No BERT."""
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1])]
    return helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "other", inputs, [])
    )


def test_the_first_build_that_fits_is_taken_and_others_are_refused(tmp_path: Path) -> None:
    version = publish(tiny_classifier("bert"), tmp_path / "1", None)
    onnx.save(other_graph(), version / "other.onnx")

    assert float_model.write(version, ["other.onnx", "model.onnx"], tmp_path / "float").is_dir()

    with pytest.raises(DataError, match=r"other\.onnx: no BERT .*it has no .*give --float-model DIR"):
        float_model.write(version, ["other.onnx"], tmp_path / "none")


def test_a_pruned_model_is_refused(tmp_path: Path) -> None:
    version = publish(uneven_classifier(), tmp_path / "1", None)

    with pytest.raises(DataError, match=r"layer\.0 has 8 rows of queries and 32 neurons .*it was pruned"):
        float_model.write(version, ["model.onnx"], tmp_path / "float")


def test_every_peer_has_a_setting_that_reads_it_or_says_otherwise() -> None:
    engines = {setting.engine for peer in PEERS.values() for setting in peer.documented}

    assert engines == {"transformers", "torch", "optimum, int8"}
