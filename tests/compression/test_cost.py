from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from app import artifact
from app.errors import CompressionError
from app.hardware import cpu_features, cpu_model, usable_cores
from compression import baseline, cost, model_card, ngram, peak_memory
from compression.builds import CandidateBuild, read
from tests.compression.exported import Export
from tests.compression.finished import Finished, cheap_baseline, moved, small_bert
from tests.compression.tiny import made_up_reviews


def test_the_baseline_is_bert_base() -> None:
    with torch.device("meta"):  # the shapes without the memory
        model = baseline.bert_base()
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_483_778
    assert baseline.size_bytes(model) == model_card._BASELINE_BYTES == 437_935_112


def test_a_predictor_runs_the_model_on_so_many_threads() -> None:
    model = small_bert()
    input_ids = np.random.default_rng(0).integers(5, 100, (2, 9))
    found = baseline.predictor(model, 1)(input_ids, np.ones_like(input_ids))
    assert torch.get_num_threads() == 1
    with torch.no_grad():
        expected = model(torch.from_numpy(input_ids)).logits
    assert isinstance(found, torch.Tensor)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("max_tokens", "lengths"), [(16, [16]), (100, [32]), (512, [32, 128, 256, 512])])
def test_lengths_up_to_what_the_model_reads(
    max_tokens: int, lengths: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Engine:
        def logits(self, input_ids: object, attention_mask: object) -> None:
            pass

        def close(self) -> None:
            pass

    build = CandidateBuild("onnx-int8", "onnx", "int8", "model.onnx", (), tmp_path)
    opened = cost.Opened(build, tmp_path / "model.onnx", Engine())  # type: ignore[arg-type]
    monkeypatch.setattr(cost, "usable_cores", lambda: 2)
    monkeypatch.setattr(cost, "load_engine", lambda *_: Engine())
    with cheap_baseline():
        found = cost.measure([opened], max_tokens)
    expected = [("onnx-int8", 2), (baseline.NAME, 2), ("onnx-int8", 1)]
    assert [(each.build, each.threads) for each in found] == expected
    for each in found:
        assert [point.tokens for point in each.latency] == lengths
        assert each.cpu == cpu_model()


def test_memory_is_measured_in_a_process_of_its_own(exported: Export) -> None:
    path = exported("bert", False).path
    peak = peak_memory.measure("onnx", path, tokens=12, threads=1)
    assert 20e6 < peak < 500e6  # without torch and this process in it


def test_memory_of_the_linear_model(tmp_path: Path) -> None:
    texts, labels = zip(*made_up_reviews()[:100], strict=True)
    ngram.fit(texts, labels, buckets=1 << 10).save(tmp_path / "ngram.npy")
    assert 20e6 < peak_memory.measure(peak_memory.NGRAM, tmp_path / "ngram.npy", tokens=12, threads=1) < 1e9


def test_memory_that_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"memory could not be measured: .*absent\.onnx"):
        peak_memory.measure("onnx", tmp_path / "absent.onnx", tokens=12, threads=1)


def test_a_build_is_described_beside_its_file(tmp_path: Path) -> None:
    build = CandidateBuild("onnx-int8", "onnx", "int8", "model.onnx", ("vnni",), tmp_path / "model")
    build.write(tmp_path)
    assert read(tmp_path) == build


def test_the_baseline_is_found_wherever_it_stands(finished: Finished) -> None:
    costs = finished.manifest("small").cost
    found = cost.of_baseline(reversed(costs))
    assert found is not None
    assert found.build == baseline.NAME
    assert cost.of_baseline(costs[:1]) is None


def test_a_published_version_is_measured_where_it_runs(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = moved(finished, tmp_path).repository / "small" / "1"
    before = artifact.read(folder)
    elsewhere = before.cost[0].model_copy(update={"cpu": "another", "measured_on": "2001-01-01"})
    with_other = before.model_copy(update={"cost": (elsewhere,)})
    (folder / artifact.MANIFEST_FILE).write_text(with_other.model_dump_json(), encoding="utf-8")
    with cheap_baseline():
        assert cost.main([str(folder)]) == 0
    after = artifact.read(folder)
    artifact.verify(folder, after)
    assert after.model_copy(update={"cost": ()}) == before.model_copy(update={"cost": ()})
    assert after.cost[-1] == elsewhere
    runnable = [build.name for build in before.builds if set(build.needs) <= cpu_features()]
    on_one = runnable if usable_cores() > 1 else []
    assert [each.build for each in after.cost[:-1]] == [*runnable, baseline.NAME, *on_one]
    assert f"onnx-fp32, {usable_cores()} threads: 16 tokens" in capsys.readouterr().out
    with cheap_baseline():
        cost.add_measurement(folder)
    assert len(artifact.read(folder).cost) == len(after.cost)


def test_passes_of_one_thread_are_measured_by_themselves(finished: Finished, tmp_path: Path) -> None:
    folder = moved(finished, tmp_path).repository / "small" / "1"
    before = artifact.read(folder)
    kept = tuple(each for each in before.cost if each.threads != 1)
    (folder / artifact.MANIFEST_FILE).write_text(
        before.model_copy(update={"cost": kept}).model_dump_json(), encoding="utf-8"
    )
    assert cost.main([str(folder), "--one-core"]) == 0
    after = artifact.read(folder)
    runnable = [build.name for build in before.builds if set(build.needs) <= cpu_features()]
    assert [(each.build, each.threads) for each in after.cost[len(kept) :]] == [(n, 1) for n in runnable]
    assert after.cost[: len(kept)] == kept
    assert after.identity == before.identity


def test_what_is_no_version_cannot_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.main([str(tmp_path)]) == 1
    assert "manifest.json cannot be read" in capsys.readouterr().err
