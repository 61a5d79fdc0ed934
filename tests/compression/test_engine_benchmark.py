from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import DataError
from compression import cli, engine_benchmark, engine_comparison
from tests.compression.finished import Finished, cheap_baseline


def test_every_build_that_runs_here(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "engine.json"
    arguments = ["benchmark", "engine", "--models", str(finished.request.repository), "--tokens", "8", "16"]
    with cheap_baseline():
        assert cli.main([*arguments, "--rounds", "1", "--json", str(target)]) == 0
    table = engine_benchmark.read(target)
    found = [(entry.model, entry.build) for entry in table.entries]
    assert found[-1] == ("BERT-base, PyTorch fp32", "torch-fp32")
    assert ("small/1", "onnx-fp32") in found
    assert ("whole/1", "torchscript-fp32") in found
    for entry in table.entries:
        assert [point.tokens for point in entry.latency] == [8, 16]
        assert [(point.rows, point.tokens) for point in entry.throughput] == [(16, 8), (16, 16)]
        assert min(point.rows_per_second for point in entry.throughput) > 0
        assert entry.peak_resident_bytes == 123_000_000
        assert entry.joules_per_1000 > 0
        assert entry.energy_source in ("rapl", "estimate")
    assert f"{table.threads} threads" in capsys.readouterr().out


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        engine_benchmark.read(tmp_path / "nothing.json")
    (tmp_path / "other.json").write_text('{"cpu": "x"}')
    with pytest.raises(DataError, match="is not a table of `bertpress benchmark engine`: cpu_features"):
        engine_benchmark.read(tmp_path / "other.json")


def entry(model: str, build: str, ms: dict[int, float], source: str = "rapl") -> dict[str, Any]:
    return {
        "model": model,
        "build": build,
        "engine": "onnx",
        "precision": "int8",
        "size_bytes": 14_600_000,
        "peak_resident_bytes": 108_000_000,
        "latency": [
            {"rows": 1, "tokens": tokens, "median_ms": taken, "p90_ms": 2 * taken}
            for tokens, taken in ms.items()
        ],
        "throughput": [
            {"rows": 16, "tokens": tokens, "rows_per_second": 500 / taken} for tokens, taken in ms.items()
        ],
        "joules_per_1000": 91.0,
        "watts": 7.0,
        "energy_source": source,
    }


def written(path: Path, cpu: str, *entries: dict[str, Any]) -> Path:
    table = {
        "cpu": cpu,
        "cpu_features": ["avx2"],
        "threads": 2,
        "measured_on": "2026-11-22",
        "rounds": 15,
        "entries": entries,
    }
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


BASE = "BERT-base, PyTorch fp32"


def test_compare_reads_what_was_written(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What this machine wrote, beside what another one did, with lengths and builds of its own."""
    here, there, page = tmp_path / "here.json", tmp_path / "there.json", tmp_path / "compared.md"
    arguments = ["benchmark", "engine", "--models", str(finished.request.repository), "--tokens", "8"]
    with cheap_baseline():
        assert cli.main([*arguments, "--rounds", "1", "--json", str(here)]) == 0
    written(
        there,
        "Another CPU",
        entry("small/1", "onnx-fp32", {8: 2.0, 16: 5.0}, "estimate"),
        entry("gone/1", "onnx-fp32", {8: 3.0}),
        entry(BASE, "torch-fp32", {8: 30.0, 16: 60.0}),
    )
    capsys.readouterr()
    assert cli.main(["compare", str(here), str(there), "--markdown", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["cpu"] for each in told][1] == "Another CPU"
    lines = [line.strip("| ").split(" | ") for line in page.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == [
        "build", "in", "size", "8 tokens", "16 tokens", "16 x 8", "16 x 16", "peak memory", "energy per 1,000"
    ]  # fmt: skip
    of_small = [line for line in lines if line[0] == "small/1 onnx-fp32"]
    assert [line[1] for line in of_small] == ["A", "B"]
    table = engine_benchmark.read(here)
    ours = next(each for each in table.entries if (each.model, each.build) == ("small/1", "onnx-fp32"))
    base = table.entries[-1].latency[0].median_ms
    assert of_small[0][3] == f"{ours.latency[0].median_ms:.2f} ({base / ours.latency[0].median_ms:.1f}x)"
    assert of_small[0][4] == "-"
    assert of_small[1][2:] == [
        "14.6 MB", "2.00 (15.0x)", "5.00 (12.0x)", "250/s", "100/s", "108 MB", "~91.0 J"
    ]  # fmt: skip
    assert [line[1] for line in lines if line[0] == "gone/1 onnx-fp32"] == ["B"]
    assert "B: Another CPU (avx2), 2 threads, not stated, 2026-11-22" in page.read_text(encoding="utf-8")


def test_a_table_without_the_baseline_has_no_ratios(tmp_path: Path) -> None:
    path = written(tmp_path / "alone.json", "A CPU", entry("small/1", "onnx-fp32", {8: 2.0}))
    (row,) = engine_comparison.rows([engine_benchmark.read(path)])
    assert row[3] == "2.00"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a --teacher or a --backbone, and --data, to compare recipes; or tables"),
        (["--teacher", "t"], "give a --teacher or a --backbone, and --data"),
        (["here.json", "--teacher", "t"], "here.json is a table to be shown"),
        (["missing.json"], "missing.json cannot be read"),
    ],
)
def test_neither_recipes_nor_tables(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", *arguments]) == 1
    assert told in capsys.readouterr().err


def test_the_shape_of_every_build_is_stated(finished: Finished) -> None:
    with cheap_baseline():
        table = engine_benchmark.measure(finished.request.repository, [8], 1)
    for each in table.entries[:-1]:
        assert each.shape is not None
        stated = finished.manifest(each.model.partition("/")[0]).architecture
        assert each.shape.attention == tuple(8 * heads for heads in stated.attention_heads)
        assert (each.shape.hidden_size, each.shape.ffn) == (32, stated.ffn_width)
    assert table.entries[-1].shape is None
