from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app import artifact
from app.artifact import Manifest
from app.builds import choose_build
from app.errors import NoUsableBuildError
from tests.app.tiny import publish

VNNI_FIRST: Mapping[str, Mapping[str, Any]] = {
    "fp32": {},
    "int8-safe": {"precision": "int8"},
    "int8": {"precision": "int8", "needs": ("vnni",)},
    "ov": {"engine": "openvino", "precision": "bf16"},
    "script": {"engine": "torchscript", "precision": "fp32"},
}
ONNX = {"onnx"}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return artifact.read(publish(tmp_path, builds=VNNI_FIRST))


def test_the_fastest_build_the_cpu_can_run(manifest: Manifest) -> None:
    assert choose_build(manifest, {"vnni"}, ONNX).build.name == "int8"
    assert choose_build(manifest, set(), ONNX).build.name == "int8-safe"


def test_the_reason_tells_of_the_others(manifest: Manifest) -> None:
    reason = choose_build(manifest, set(), ONNX).reason
    assert "this CPU lacks vnni" in reason
    assert "openvino is not installed" in reason


def test_only_what_is_installed(manifest: Manifest) -> None:
    assert choose_build(manifest, set(), {"openvino"}).build.name == "ov"


def test_torchscript_needs_leave(manifest: Manifest) -> None:
    with pytest.raises(NoUsableBuildError, match="BERTPRESS_ALLOW_TORCHSCRIPT"):
        choose_build(manifest, set(), {"torchscript"})
    assert choose_build(manifest, set(), {"torchscript"}, allow_torchscript=True).build.name == "script"


def test_nothing_usable_says_why(manifest: Manifest) -> None:
    with pytest.raises(NoUsableBuildError, match="fp32: engine onnx is not installed"):
        choose_build(manifest, set(), set())


def test_a_setting_overrules(manifest: Manifest) -> None:
    assert choose_build(manifest, {"vnni"}, ONNX, wanted="fp32").build.name == "fp32"
    forced = choose_build(manifest, set(), ONNX, wanted="int8")
    assert forced.build.name == "int8"
    assert "though this CPU lacks vnni" in forced.reason


def test_a_setting_cannot_conjure(manifest: Manifest) -> None:
    with pytest.raises(NoUsableBuildError, match="has no build 'int4'"):
        choose_build(manifest, set(), ONNX, wanted="int4")
    with pytest.raises(NoUsableBuildError, match="not installed"):
        choose_build(manifest, set(), ONNX, wanted="ov")
