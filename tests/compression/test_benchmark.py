from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.artifact import TokenizerSettings
from app.errors import ArtifactError
from app.tokenizer import Tokenizer
from compression import benchmark, measurement
from compression.benchmark import Contender, measure
from tests.compression.finished import Finished, cheap_baseline
from tests.compression.tiny import tiny_tokenizer


def test_all_models_take_turns_on_each_text(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answered = 0.0, []
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def contender(name: str, seconds_per_word: float) -> Contender:
        def answer(text: str) -> None:
            nonlocal now
            answered.append(name)
            now += seconds_per_word * len(text.split())

        return Contender(name, answer, size_bytes=10, peak_bytes=20, accuracy="-")

    lines = measure([contender("slow", 0.5), contender("fast", 0.125)], ["a b", "a b c d"], rounds=3)
    assert [line.name for line in lines] == ["slow", "fast"]
    assert lines[0].latency_ms == {length: (length - 2) * 500.0 for length in (32, 128, 512)}
    assert lines[1].latency_ms[128] * 4 == lines[0].latency_ms[128]
    assert (lines[0].reviews_per_second, lines[1].reviews_per_second) == (2 / 3, 8 / 3)
    assert answered[::2] == ["slow"] * (len(answered) // 2)


@pytest.mark.parametrize("tokens", [16, 32, 512])
def test_a_made_up_text_has_exactly_so_many_tokens(tokens: int, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    settings = TokenizerSettings(max_tokens=1024, truncation="head", head_tokens=1023, pad_token_id=0)
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", settings)
    assert len(tokenizer.encode(benchmark._text_of(tokens)).input_ids) == tokens


@pytest.mark.parametrize("with_data", [True, False])
def test_the_whole_command(
    with_data: bool, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = finished.request.data[0] if with_data else None
    with cheap_baseline():
        code = benchmark.main(finished.request.repository, source, 1, 4, tmp_path / "figures.json")
    assert code == 0
    lines = json.loads((tmp_path / "figures.json").read_text())
    names = [line["name"] for line in lines]
    linear = ["linear n-gram model"] if with_data else []
    versions = ["small/1 (onnx-int8-reduced)", "whole/1 (onnx-fp32)"]
    assert names == ["BERT-base, PyTorch fp32", *linear, *versions]
    for line in lines:
        assert set(line["latency_ms"]) == {"32", "128", "512"}
        assert min(line["latency_ms"].values()) > 0
        assert line["reviews_per_second"] > 0
        assert line["energy"]["joules_per_1000"] > 0
        assert line["energy"]["source"] in ("rapl", "estimate")
    printed = capsys.readouterr().out
    assert "reviews/s over 4 reviews" in printed
    assert "Energy per 1,000 predictions and watts under load: " in printed
    assert f"{finished.manifest('small').quality[0].accuracy:.2%}" in printed
    if with_data:
        assert float(lines[1]["accuracy"].split("%")[0]) > 80


def test_a_repository_without_versions(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no published version; run `bertpress compress` first"):
        benchmark.main(tmp_path, None, 1, 1, None)


def test_made_up_reviews_are_as_long_as_real_ones() -> None:
    words = [len(text.split()) for text in benchmark.sample(None, 200)]
    assert 14 <= min(words) < 100
    assert 500 < max(words) <= 998
    assert 150 < sorted(words)[100] < 300


def test_warm_up_is_not_counted() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    assert len(measurement.interleaved({"a": call}, rounds=2)["a"]) == 2
    assert calls == 2 + measurement._WARMUP
