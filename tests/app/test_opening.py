"""Opening a version: verified while it is read, the best build that opens, and what is known of its cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import opening
from app.engines import load_engine
from app.errors import ArtifactError, ChecksumError, EngineError, UnknownModelError
from app.hardware import Hardware
from app.opening import Opened, Opener
from app.repository import Repository
from app.settings import Settings
from app.tuning import Measured, Trial, Tuning
from app.variant import VersionKey
from tests.app.tiny import publish

KEY = VersionKey("tiny", 1)


@pytest.fixture
def make_opener(tmp_path: Path) -> Callable[..., Opener]:
    def make(cores: int = 4, features: frozenset[str] = frozenset(), **settings: Any) -> Opener:
        root = tmp_path / "models"
        machine = Hardware("Some CPU", features, cores, 1 << 34)
        tuning = Tuning(tmp_path / "tuning.json")
        return Opener(Settings(models=root, **settings), machine, Repository(root), tuning)

    return make


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def keep(opener: Opener, opened: Opened, measured: Measured) -> None:
    opener.tuning.put(opener.place(opened.choice.build), measured)


def test_a_sound_version_opens(make_opener: Callable[..., Opener], models: Path) -> None:
    publish(models)
    opened = make_opener().open(KEY)
    assert opened.choice.build.name == "onnx-fp32"
    assert opened.session.threads == 1
    assert opened.session.cost.measured == {}
    assert opened.tokenizer.encode("a great film").input_ids.size == 5
    assert opened.memory_bytes >= 0


def test_on_a_cpu_no_batch_weighs_more_pairs_of_tokens_than_the_longest_text(
    make_opener: Callable[..., Opener], models: Path
) -> None:
    publish(models)
    opened = make_opener(max_batch_rows=7).open(KEY)
    build, longest = opened.choice.build, opened.manifest.tokenizer.max_tokens
    limits = make_opener(max_batch_rows=7).limits(opened.manifest, build)
    assert (limits.max_rows, limits.max_pairs) == (7, longest**2)
    on_cuda = build.model_copy(update={"needs": ("cuda",)})
    assert make_opener().limits(opened.manifest, on_cuda).max_pairs == float("inf")


@pytest.mark.parametrize(("invariant", "step"), [(True, 8), (False, 1)])
def test_lengths_in_steps_where_padding_changes_no_answer(
    make_opener: Callable[..., Opener], models: Path, invariant: bool, step: int
) -> None:
    pytest.importorskip("openvino")
    publish(models)
    opened = make_opener().open(KEY)
    build = opened.choice.build.model_copy(update={"engine": "openvino", "batch_invariant": invariant})
    session = make_opener().open_session(opened.manifest, build, 1)
    assert session.length_step == step
    session.engine.close()
    assert opened.session.length_step == 1


@pytest.mark.parametrize("fault", ["bytes", "size", "tokenizer"])
def test_nothing_is_used_that_is_not_as_published(
    make_opener: Callable[..., Opener], models: Path, fault: str
) -> None:
    folder = publish(models)
    name = "tokenizer.json" if fault == "tokenizer" else "model.onnx"
    body = (folder / name).read_bytes()
    (folder / name).write_bytes(body[:-1] if fault == "size" else body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(ChecksumError):
        make_opener().open(KEY)


def test_a_version_that_is_not_there(make_opener: Callable[..., Opener], models: Path) -> None:
    publish(models)
    with pytest.raises(UnknownModelError):
        make_opener().open(VersionKey("tiny", 2))


def test_the_next_best_build_where_one_does_not_open(
    make_opener: Callable[..., Opener],
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish(models, builds={"best": {"precision": "int8"}, "other": {}})
    opened: list[str] = []

    def load(engine: str, path: Path, *placement: Any) -> Any:
        opened.append(engine)
        if len(opened) == 1:
            raise EngineError("no luck")
        return load_engine(engine, path, *placement)

    monkeypatch.setattr(opening, "load_engine", load)
    choice = make_opener().open(KEY).choice
    assert choice.build.name == "other"
    assert "build best does not open: no luck" in choice.reason
    assert "best of tiny does not open" in caplog.text


def test_no_build_opens(
    make_opener: Callable[..., Opener], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(models, builds={"one": {}, "two": {}})

    def load(*_: Any) -> Any:
        raise EngineError("no luck")

    monkeypatch.setattr(opening, "load_engine", load)
    with pytest.raises(ArtifactError, match=r"no build of tiny/1 opens here: .*one.*no luck.*two.*no luck"):
        make_opener().open(KEY)


def test_torchscript_is_not_read_before_its_checksum_is_known(
    make_opener: Callable[..., Opener], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(models, builds={"script": {"engine": "torchscript"}})
    (folder / "model.onnx").write_bytes(b"evil")

    def load(*_: Any) -> Any:
        raise AssertionError("it was read")

    monkeypatch.setattr(opening, "load_engine", load)
    monkeypatch.setattr(opening, "available_engines", lambda: frozenset({"torchscript"}))
    with pytest.raises(ChecksumError):
        make_opener(allow_torchscript=True).open(KEY)


def test_measured_costs_are_used(make_opener: Callable[..., Opener], models: Path) -> None:
    publish(models)
    opener = make_opener()
    keep(opener, opener.open(KEY), Measured().with_cost(1, {(1, 8): 0.5, (1, 32): 2.0, (3, 9): 1.0}))
    cost = make_opener().open(KEY).session.cost
    assert cost.measured == {(1, 8): 0.5, (1, 32): 2.0}
    assert cost(1, 16) > 0.1, "what was not measured follows"


def test_measured_threads_are_used(make_opener: Callable[..., Opener], models: Path) -> None:
    publish(models)
    opener = make_opener()
    trials = {1: Trial(100.0, 0.02), 2: Trial(100.0, 0.01), 3: Trial(900.0, 0.001)}
    keep(opener, opener.open(KEY), Measured().with_trials(trials))
    assert make_opener().open(KEY).session.threads == 2, "three threads leave a core over"
    assert make_opener(threads=4).open(KEY).session.threads == 4
    assert make_opener(sessions=4).open(KEY).session.threads == 1
    assert make_opener(cores=8).open(KEY).session.threads == 1, "nothing is known of eight cores"


def test_candidates_for_threads(make_opener: Callable[..., Opener], models: Path) -> None:
    publish(models)
    build = make_opener().open(KEY).choice.build
    gpu = build.model_copy(update={"needs": ("cuda",)})
    assert make_opener().thread_candidates(build) == [1, 2, 4]
    assert make_opener(threads=2).thread_candidates(build) == []
    assert make_opener(sessions=2).thread_candidates(build) == []
    assert make_opener().thread_candidates(gpu) == []


def test_measured_rates_decide_the_build(make_opener: Callable[..., Opener], models: Path) -> None:
    publish(models, builds={"int8": {"precision": "int8"}, "fp32": {}})
    opener = make_opener()
    assert [choice.build.name for choice in opener.rank(opener.open(KEY).manifest)] == ["int8", "fp32"]
    for build, rate in zip(opener.open(KEY).manifest.builds, (50.0, 80.0), strict=True):
        opener.tuning.put(opener.place(build), Measured().with_trials({1: Trial(rate, 0.1)}))
    choice = make_opener().open(KEY).choice
    assert choice.build.name == "fp32"
    assert "80 texts/s measured here" in choice.reason
    assert "int8: 50 texts/s" in choice.reason


def test_a_build_for_a_gpu(
    make_opener: Callable[..., Opener], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CUDA it is taken, has one pass on all cores at a time, and gets no threads of the CPU's."""
    publish(models, builds={"gpu": {"precision": "fp16", "needs": ("cuda",)}, "cpu": {"precision": "int8"}})
    asked: list[tuple[Any, ...]] = []

    def load(engine: str, path: Path, *placement: Any) -> Any:
        asked.append(placement)
        return load_engine(engine, path, 1)

    monkeypatch.setattr(opening, "load_engine", load)
    assert make_opener().open(KEY).choice.build.name == "cpu"
    monkeypatch.setattr(opening, "accelerators", lambda: frozenset({"cuda"}))
    opened = make_opener().open(KEY)
    assert opened.choice.build.name == "gpu"
    assert opened.session.threads == 4
    assert asked == [(1, "int8", 4, "cpu"), (1, "fp16", 1, "cuda")]
