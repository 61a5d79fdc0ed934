from __future__ import annotations

import json
from pathlib import Path

import pytest

from compression import classifier
from compression.quantization import survey
from tests.compression.tiny import first_head_of, tiny_classifier, two_headed, write_data


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


def test_labels_are_those_of_the_first_head(tmp_path: Path) -> None:
    """However loud a further head is, the model is judged as its first head alone would be."""
    data, found = str(write_data(tmp_path / "data")), {}
    both = two_headed()
    for name, model in (("both", both), ("first", first_head_of(both))):
        classifier.save(model, tmp_path / name)
        arguments = ["--model", str(tmp_path / name), "--data", data, "--texts", "60", "--max-tokens", "16"]
        arguments += ["--threads", "1", "--rounds", "1", "--only", "fp32", "--only", "static min-max"]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(survey, "LENGTHS", (16,))
            assert survey.main([*arguments, "--json", str(tmp_path / f"{name}.json")]) == 0
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    for ours, expected in zip(found["both"], found["first"], strict=True):
        assert 0.2 < ours["accuracy"] < 0.8
        if ours["name"] == "fp32":
            assert ours["accuracy"] == expected["accuracy"]
            assert ours["flip_rate"] == ours["flip_rate_in_company"] == 0
