from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import DataError
from compression import cli, engine_benchmark
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
