from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app import artifact
from app.artifact import Cost, LatencyPoint, Manifest
from app.builds import choose_build, rank_builds
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


def with_costs(
    manifest: Manifest, features: tuple[str, ...], milliseconds: Mapping[str, float], threads: int = 1
) -> Manifest:
    """The manifest with a published latency more for each of these builds."""
    costs = tuple(
        Cost(
            build=build.replace("_", "-"),
            cpu="x",
            cpu_features=features,
            threads=threads,
            runtime="x",
            latency=(LatencyPoint(rows=1, tokens=32, median_ms=ms, p90_ms=ms),),
            measured_on="2025-01-01",
        )
        for build, ms in milliseconds.items()
    )
    return manifest.model_copy(update={"cost": (*manifest.cost, *costs)})


ALL = {"fp32": 30.0, "int8_safe": 9.0, "int8": 5.0, "ov": 3.0}
BOTH = {"onnx", "openvino"}


def test_published_latencies_decide_on_a_cpu_of_the_same_kind(manifest: Manifest) -> None:
    published = with_costs(manifest, ("avx2", "vnni"), ALL)
    choice = choose_build(published, {"vnni", "avx2"}, BOTH)
    assert choice.build.name == "ov"
    assert "published latencies" in choice.reason
    assert choose_build(published, {"vnni", "avx2", "amx"}, BOTH).build.name == "int8"
    assert choose_build(published, {"vnni", "avx2", "cuda"}, BOTH).build.name == "ov"


def test_published_latencies_of_some_builds_decide_nothing(manifest: Manifest) -> None:
    del (some := dict(ALL))["fp32"]
    choice = choose_build(with_costs(manifest, ("vnni",), some), {"vnni"}, BOTH)
    assert choice.build.name == "int8"
    assert "published" not in choice.reason


def test_published_latencies_are_those_of_passes_with_so_many_threads(manifest: Manifest) -> None:
    on_two = {"fp32": 20.0, "int8_safe": 6.0, "int8": 3.0, "ov": 4.0}
    published = with_costs(with_costs(manifest, ("vnni",), ALL), ("vnni",), on_two, threads=2)
    assert rank_builds(published, {"vnni"}, BOTH, threads=1)[0].build.name == "ov"
    assert rank_builds(published, {"vnni"}, BOTH, threads=2)[0].build.name == "int8"
    # What no build was measured with is no reason to compare two numbers of threads.
    assert rank_builds(published, {"vnni"}, BOTH, threads=4)[0].build.name == "ov"
    del on_two["int8"]
    some = with_costs(with_costs(manifest, ("vnni",), ALL), ("vnni",), on_two, threads=2)
    assert rank_builds(some, {"vnni"}, BOTH, threads=2)[0].build.name == "ov"


def test_what_was_measured_here_decides_over_what_is_published(manifest: Manifest) -> None:
    published = with_costs(manifest, ("vnni",), ALL)
    rates = {"fp32": 10.0, "int8-safe": 90.0, "int8": 80.0, "ov": 70.0, "gone": 999.0}
    ranked = rank_builds(published, {"vnni"}, BOTH, rates=rates)
    assert [choice.build.name for choice in ranked] == ["int8-safe", "int8", "ov", "fp32"]
    assert "90 texts/s measured here" in ranked[0].reason
    assert "ov: 70 texts/s" in ranked[0].reason
    del rates["fp32"]
    assert rank_builds(published, {"vnni"}, BOTH, rates=rates)[0].build.name == "ov"


def test_a_gpu_comes_first_where_there_is_one(tmp_path: Path) -> None:
    manifest = artifact.read(
        publish(
            tmp_path, builds={"int8": {"precision": "int8"}, "gpu": {"precision": "fp16", "needs": ("cuda",)}}
        )
    )
    assert choose_build(manifest, {"cuda"}, ONNX).build.name == "gpu"
    choice = choose_build(manifest, set(), ONNX)
    assert choice.build.name == "int8"
    assert "bertpress[cuda]" in choice.reason
    with pytest.raises(NoUsableBuildError, match="no CUDA"):
        choose_build(manifest, set(), ONNX, wanted="gpu")


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
