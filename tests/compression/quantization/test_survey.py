from __future__ import annotations

import json
from pathlib import Path

import pytest

from compression import classifier
from compression.quantization import survey
from tests.compression.tiny import tiny_classifier, write_data


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    classifier.save(tiny_classifier(), folder)
    return folder


def test_one_line_for_every_build(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(model), "--data", str(write_data(tmp_path / "data")), "--texts", "20"]
    arguments += ["--max-tokens", "16", "--threads", "1", "--rounds", "1", "--json", str(tmp_path / "s.json")]
    arguments += ["--only", "fp32", "--only", "dynamic", "--only", "static min-max", "--only", "per token"]
    monkeypatched = (16,)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(survey, "LENGTHS", monkeypatched)
        assert survey.main(arguments) == 0
    shown = capsys.readouterr().out
    findings = {line["name"]: line for line in json.loads((tmp_path / "s.json").read_text())}
    assert {"fp32", "dynamic", "dynamic, 7-bit weights", "static min-max", "per token"} <= set(findings)
    assert all(name.split(",")[0] in shown for name in findings)
    exact = findings["fp32"]
    assert exact["flip_rate"] == exact["logit_error"] == 0
    assert all(line["latency_ms"]["1"]["16"] > 0 for line in findings.values())
    assert findings["static min-max"]["size_bytes"] < exact["size_bytes"]
    assert findings["static min-max"]["change_in_company"] < 1e-4
    assert findings["static min-max"]["logit_error"] > 0


def test_ways_differ_in_name_and_none_needs_what_it_forbids() -> None:
    ways = survey._ways()
    assert len({way.name for way in ways}) == len(ways) > 20
    for way in ways:
        if way.engine == "openvino" and way.quantization is not None:
            # OpenVINO cannot read ONNX Runtime's own operators.
            assert way.quantization.method in ("static", "weight-only")
