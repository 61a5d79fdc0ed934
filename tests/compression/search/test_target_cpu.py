from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig, BertForSequenceClassification

from app.errors import SearchError
from compression import baseline, engine_benchmark
from compression.search import cost_table, target_cpu
from compression.search.cost_table import CostTable
from compression.search.work import BERT_BASE, Shape, shape_of, work
from tests.compression.finished import Finished, cheap_baseline
from tests.compression.tiny import tiny_model, uneven_classifier

MINI = Shape(384, (384,) * 6, (1536,) * 6)
SHAPES = (
    MINI,
    Shape(384, (384,) * 3, (1536,) * 3),
    Shape(384, (384,), (1536,)),
    Shape(384, (384,) * 6, (768,) * 6),
    Shape(384, (192,) * 6, (1536,) * 6),
    Shape(384, (192,), (384,)),
)


def _share(shape: Shape, build: str) -> float:
    """A machine whose latency is exactly of the form that is fitted."""
    slower = 2.0 if "weight-only" in build else 1.0
    constant, layers, dense, attention = work(shape, 128).terms
    return 0.002 * constant + 0.001 * layers + slower * 1e-10 * dense + 3e-10 * attention


def _table(**overrides: Any) -> dict[str, Any]:
    costs = [
        {
            "build": build,
            "hidden_size": shape.hidden_size,
            "attention": shape.attention,
            "ffn": shape.ffn,
            "tokens": 128,
            "share": _share(shape, build),
        }
        for build in ("onnx-int8-reduced", "onnx-int8-weight-only")
        for shape in SHAPES
    ]
    plain = {
        "cpu": "Another CPU",
        "features": ["avx2", "avx512", "vnni"],
        "threads": 4,
        "runtime": "onnxruntime 1.32",
        "measured_on": "2026-11-22",
        "baseline_ms": 100.0,
        "costs": costs,
    }
    return {**plain, **overrides}


def _written(folder: Path, **overrides: Any) -> str:
    path = folder / "table.json"
    path.write_text(json.dumps(_table(**overrides)))
    return str(path)


@pytest.mark.parametrize("build", ["onnx-int8-reduced", "onnx-int8-weight-only"])
def test_a_shape_that_was_not_measured_is_predicted(build: str, tmp_path: Path) -> None:
    cpu = target_cpu.target(_written(tmp_path))
    unmeasured = Shape(384, (288, 192, 384, 96), (640, 1536, 96, 800))
    found = cpu.predict(unmeasured, build, 128)
    assert found.share == pytest.approx(_share(unmeasured, build), rel=1e-6)
    assert found.build_ms == pytest.approx(100 * _share(unmeasured, build), rel=1e-6)
    assert found.source == "predicted from measurements on Another CPU, 4 threads"


def test_noise_gives_no_negative_costs(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    noisy = _table()["costs"]
    for cost in noisy:
        cost["share"] *= float(numbers.uniform(0.8, 1.25))
    cpu = target_cpu.target(_written(tmp_path, costs=noisy))
    more = [cpu.predict(Shape(384, (384,) * n, (1536,) * n), "onnx-int8-reduced", 128) for n in range(1, 7)]
    shares = [found.share for found in more]
    assert shares == sorted(shares)
    assert shares[0] > 0


def test_a_table_that_knows_too_little(tmp_path: Path) -> None:
    cpu = target_cpu.target(_written(tmp_path, costs=_table()["costs"][:6]))
    assert cpu.builds == frozenset({"onnx-int8-reduced"})
    with pytest.raises(SearchError, match="has no measurement of onnx-int8-dynamic-reduced at 128"):
        cpu.predict(MINI, "onnx-int8-dynamic-reduced", 128)
    with pytest.raises(SearchError, match="it has onnx-int8-reduced at 128 tokens"):
        cpu.predict(MINI, "onnx-int8-reduced", 64)


def test_a_named_cpu_says_that_nothing_was_measured() -> None:
    found = target_cpu.target("haswell:4").predict(MINI, "onnx-int8-reduced", 128)
    assert found.source == "estimated for haswell, 4 cores; not measured"


def test_the_roofline_knows_instructions_cores_and_work() -> None:
    def share_of(name: str, shape: Shape = MINI, build: str = "onnx-int8-reduced") -> float:
        return target_cpu.target(name).predict(shape, build, 128).build_ms

    assert share_of("sapphire-rapids") < share_of("ice-lake") < share_of("skylake") < share_of("haswell")
    assert share_of("ice-lake:4") < share_of("ice-lake")
    assert share_of("ice-lake", SHAPES[1]) < share_of("ice-lake")
    assert share_of("ice-lake") < share_of("ice-lake", build="onnx-int8-weight-only")


def test_the_roofline_by_hand() -> None:
    found = target_cpu.target("haswell:1").predict(Shape(10, (10,), (20,)), "onnx-int8-reduced", 2)
    # keys and values of two tokens; query, output and FFN of one
    dense, attention = 2 * 2 * 10 * 10 + 2 * 10 * (10 + 20), 2 * 1 * 2 * 10
    per_second = 2.5e9 * 0.5
    by_hand = dense / (per_second * 32) + attention / (per_second * 16) + 10 * (40 + 40) / 10e9 + 3e-5
    assert found.build_ms == pytest.approx(1e3 * by_hand, rel=1e-9)


def test_dense_work_is_what_the_weights_say() -> None:
    """BERT-base as PyTorch computes it: each weight of its layers once for every token."""
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=1, vocab_size=10))
    weights = sum(p.numel() for n, p in model.named_parameters() if ".layer." in n and p.ndim == 2)
    assert shape_of(model) == Shape(768, (768,), (3072,))
    assert work(BERT_BASE, 7, whole_last_layer=True).dense == 12 * 7 * weights
    assert work(BERT_BASE, 7).weights == 12 * weights


def test_the_shape_of_a_pruned_model() -> None:
    assert shape_of(uneven_classifier().model) == Shape(32, (8, 24, 16), (32, 96, 64))
    assert shape_of(tiny_model()) == Shape(32, (32,) * 3, (128,) * 3)


NAMES = {
    "pentium": "expected one of haswell, milan, skylake",
    "haswell:0": "expected one of haswell",
    "haswell:many": "with :CORES behind it if not 2",
    "missing.json": r"missing\.json cannot be read: No such file",
}


@pytest.mark.parametrize("name", NAMES)
def test_no_such_cpu(name: str) -> None:
    with pytest.raises(SearchError, match=NAMES[name]):
        target_cpu.target(name)


WRONG: dict[str, dict[str, Any]] = {
    "threads: Input should be greater than or equal to 1": {"threads": 0},
    "costs: Tuple should have at least 1 item": {"costs": []},
    "speed: Extra inputs are not permitted": {"speed": 1},
    "unknown CPU feature 'sse9'; expected some of avx2": {"features": ["sse9"]},
}


@pytest.mark.parametrize("told", WRONG)
def test_a_file_that_is_no_table(told: str, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=told):
        target_cpu.target(_written(tmp_path, **WRONG[told]))


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{")
    with pytest.raises(SearchError, match="is not valid JSON"):
        target_cpu.target(str(tmp_path / "table.json"))


def test_a_table_says_where_it_was_made(tmp_path: Path) -> None:
    cpu = target_cpu.target(_written(tmp_path))
    assert (cpu.name, cpu.cores, cpu.features) == ("Another CPU", 4, frozenset({"avx2", "avx512", "vnni"}))
    assert CostTable.model_validate(_table()) == cpu.table


def test_few_measurements_scale_the_roofline(tmp_path: Path) -> None:
    """Twice, three and four times what the roofline says: other shapes take three times what it says."""
    there = target_cpu.target("ice-lake:4")
    costs = _table()["costs"][:3]
    for factor, cost, shape in zip((2, 4, 3), costs, SHAPES, strict=False):
        cost["share"] = factor * there.predict(shape, "onnx-int8-reduced", 128).build_ms / 100
    cpu = target_cpu.target(_written(tmp_path, costs=costs))
    found = cpu.predict(SHAPES[4], "onnx-int8-reduced", 128)
    expected = there.predict(SHAPES[4], "onnx-int8-reduced", 128).build_ms
    assert found.build_ms == pytest.approx(3 * expected, rel=1e-9)
    assert found.baseline_ms == 100
    assert found.source == "a roofline scaled to 3 measurements on Another CPU, 4 threads"


def test_the_table_of_published_builds(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `benchmark engine` writes on a machine says what a build of the same shape takes there."""
    monkeypatch.setattr(cost_table, "TOKENS", 16)  # the tiny models read no more
    repository = tmp_path / "models"
    shutil.copytree(finished.folder("whole"), repository / "whole" / "1")
    with cheap_baseline():
        table = engine_benchmark.measure(repository, [8, 16], 3)
    engine_benchmark.write(table, tmp_path / "engine.json")
    cpu = target_cpu.target(str(tmp_path / "engine.json"))
    assert (cpu.name, cpu.cores, cpu.features) == (table.cpu, table.threads, frozenset(table.cpu_features))
    assert cpu.builds == frozenset({"onnx-fp32"})  # TorchScript is nothing a search makes
    (entry,) = [each for each in table.entries if each.build == "onnx-fp32"]
    assert entry.shape is not None
    found = cpu.predict(Shape(**entry.shape.model_dump()), "onnx-fp32", 16)
    assert found.build_ms == pytest.approx(entry.latency[1].median_ms)
    assert found.baseline_ms == table.entries[-1].latency[1].median_ms


ENGINE: dict[str, dict[str, Any]] = {
    "has no BERT-base, PyTorch fp32 to compare with; measure without --no-baseline": {"entries": -1},
    "was measured at 8 tokens; a search needs --tokens 128": {"tokens": 8},
    "has no ONNX build whose shape it states": {"shape": None},
    "is no cost table: entries.0.engine: Field required": {"engine": None},
}


@pytest.mark.parametrize("told", ENGINE)
def test_an_engine_table_that_lacks_something(told: str, tmp_path: Path) -> None:
    lacking = ENGINE[told]
    entries = [
        {
            "model": model,
            "build": "onnx-fp32",
            "engine": "onnx",
            "precision": "fp32",
            "size_bytes": 1,
            "peak_resident_bytes": 1,
            "latency": [{"rows": 1, "tokens": lacking.get("tokens", 128), "median_ms": 1, "p90_ms": 1}],
            "throughput": [],
            "joules_per_1000": 1,
            "watts": 1,
            "energy_source": "rapl",
            "shape": None if "shape" in lacking else {"hidden_size": 8, "attention": [8], "ffn": [8]},
        }
        for model in ("small/1", baseline.NAME)
    ]
    if "engine" in lacking:
        del entries[0]["engine"]
    table = {
        "cpu": "Another CPU",
        "cpu_features": ["avx2"],
        "threads": 4,
        "measured_on": "2026-11-22",
        "rounds": 15,
        "entries": entries[: lacking.get("entries")],
    }
    (tmp_path / "engine.json").write_text(json.dumps(table))
    with pytest.raises(SearchError, match=told):
        target_cpu.target(str(tmp_path / "engine.json"))
