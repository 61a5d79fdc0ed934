"""Hugging Face Optimum, and the suite on transformers 4.57, in an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from app import artifact
from compression import api, builds, classifier, single_stage
from tests.compression.tiny import tiny_classifier, write_data
from tests.system.conftest import ROOT, SHIPPED_MODELS

pytestmark = pytest.mark.system
CLIENT = Path(__file__).with_name("optimum_client.py")
STANDARD_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
# What transformers itself is asked for: loading, saving, shapes of layers, training, graphs, tokenizers.
ON_OLDER_TRANSFORMERS = (
    "architecture",
    "classifier",
    "export",
    "graph",
    "students",
    "teacher",
    "optimizer",
)


@pytest.fixture(scope="module")
def optimum_python() -> str:
    """The interpreter that `make .venv-optimum/.installed` makes, or the one that OPTIMUM_PYTHON names."""
    path = Path(os.environ.get("OPTIMUM_PYTHON", ROOT / ".venv-optimum" / "bin" / "python"))
    assert path.exists(), "Optimum is not installed; make .venv-optimum/.installed"
    return str(path)


def shipped() -> list[Path]:
    """The newest version of every shipped model."""
    names = artifact.model_names(SHIPPED_MODELS)
    return [SHIPPED_MODELS / name / str(artifact.versions(SHIPPED_MODELS, name)[-1]) for name in names]


def ask(python: str, folder: Path, texts: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [python, str(CLIENT), str(folder), *texts], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def opens_as_it_is(folder: Path) -> bool:
    """Whether the file that Optimum looks for is there, and asks for nothing but the standard inputs."""
    path = folder / "model.onnx"
    if not path.is_file():
        return False
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {node.name for node in session.get_inputs()} <= STANDARD_INPUTS


def test_shipped_versions_open_in_optimum_with_the_same_logits(optimum_python: str) -> None:
    opened = [folder for folder in shipped() if opens_as_it_is(folder)]
    assert opened
    for folder in opened:
        manifest = artifact.read(folder)
        build = next(build for build in manifest.builds if build.file == "model.onnx")
        probes = [probe for probe in manifest.probes if len(probe.text) < 200]
        found = ask(optimum_python, folder, [probe.text for probe in probes])
        assert found["transformers"].startswith("4.57.")
        for probe, logits in zip(probes, found["logits"], strict=True):
            assert logits == pytest.approx(probe.logits[build.name], abs=build.probe_tolerance)


def test_optimum_exports_under_the_parity_gate(optimum_python: str, tmp_path: Path) -> None:
    tiny = tmp_path / "teacher"
    classifier.save(tiny_classifier(), tiny)
    build = api.export(
        tiny,
        tmp_path / "build",
        {"python": optimum_python, "quantization": "none"},
        exporter="optimum",
        data=write_data(tmp_path / "reviews"),
        text={"max_tokens": 16},
        work=tmp_path / "work",
    )
    assert builds.read(build).name == "optimum-fp32"
    assert single_stage.told(build)["parity"]["max_logit_difference"] < 1e-3


def test_the_suite_runs_on_transformers_4_57(optimum_python: str) -> None:
    files = [f"tests/compression/test_{name}.py" for name in ON_OLDER_TRANSFORMERS]
    done = subprocess.run(
        [optimum_python, "-m", "pytest", *files], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
