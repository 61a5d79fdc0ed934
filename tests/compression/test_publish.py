from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, AutoTokenizer

from app import artifact
from app.engines import load_engine
from app.hardware import usable_cores
from app.tokenizer import Tokenizer
from compression import classifier, model_card, publish
from compression import quality as judging
from compression.architecture import describe
from compression.data import DataSettings
from compression.evaluation import accuracy_interval
from compression.publish import PROBE_TEXTS
from tests.compression.finished import Finished, cheap_baseline, moved, run

MODELS = ("small", "whole")


@pytest.mark.parametrize("model", MODELS)
def test_a_version_reads_and_verifies(model: str, finished: Finished) -> None:
    folder = finished.folder(model)
    manifest = artifact.read(folder)
    artifact.verify(folder, manifest)
    assert manifest == finished.manifest(model)
    stored = {entry.file for entry in manifest.stored_files} | {artifact.MANIFEST_FILE}
    assert {path.name for path in folder.iterdir()} == stored
    assert {"config.json", "tokenizer.json", "README.md"} <= stored


@pytest.mark.parametrize("model", MODELS)
def test_every_build_gives_its_probes(model: str, finished: Finished) -> None:
    folder, manifest = finished.folder(model), finished.manifest(model)
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, manifest.tokenizer)
    assert [probe.text for probe in manifest.probes] == list(PROBE_TEXTS)
    for build in manifest.builds:
        engine = load_engine(build.engine, folder / build.file, 1)
        for probe in manifest.probes:
            input_ids = tokenizer.encode(probe.text).input_ids[None, :]
            logits = engine.logits(input_ids, np.ones_like(input_ids))[0]
            assert np.abs(logits - probe.logits[build.name]).max() <= build.probe_tolerance


def test_the_builds_are_those_of_the_recipe(finished: Finished) -> None:
    builds = {build.name: build for build in finished.manifest("small").builds}
    assert list(builds) == ["onnx-int8-reduced", "onnx-int8", "onnx-fp32", "torchscript-fp32"]
    assert [build.needs for build in builds.values()] == [(), ("vnni",), (), ()]
    assert [build.precision for build in builds.values()] == ["int8", "int8", "fp32", "fp32"]
    assert len({build.file for build in builds.values()}) == 4
    for name in ("onnx-fp32", "torchscript-fp32"):
        assert builds[name].batch_invariant
        assert builds[name].parity is not None
        parity = builds[name].parity
        assert parity is not None
        assert parity.max_logit_difference < 1e-3
        assert parity.label_flip_rate == 0
    for build in builds.values():
        assert build.batch_variance is not None
        assert build.batch_variance.texts == len(finished.outcome.datasets[0].validation)
        assert build.parity is not None
        assert build.parity.limit_note == "the texts are made up and few"
        assert build.parity.dataset == "reviews validation"
    assert builds["onnx-int8"].bytes < builds["onnx-fp32"].bytes


def test_the_manifest_states_the_uneven_shapes(finished: Finished) -> None:
    shape = finished.manifest("small").architecture
    assert (shape.family, shape.layers, shape.hidden_size, shape.vocabulary) == ("bert", 2, 32, 160)
    assert shape.attention_heads[0] != shape.attention_heads[1]
    assert sum(shape.attention_heads) == 5
    assert all(width % 32 == 0 for width in shape.ffn_width)
    assert 64 <= sum(shape.ffn_width) < 256
    stage = next((finished.request.work / "stages").glob("pruned-*"))
    assert describe(classifier.load(str(stage)).model) == shape
    described = json.loads((finished.folder("small") / "config.json").read_text())
    pairs = zip(shape.attention_heads, shape.ffn_width, strict=True)
    assert described[classifier.SHAPES_KEY] == [list(pair) for pair in pairs]
    assert finished.manifest("whole").architecture.attention_heads == (4, 4, 4)


def test_quality_is_judged_on_the_test_part(finished: Finished) -> None:
    quality = finished.manifest("small").quality[0]
    assert (quality.dataset, quality.split, quality.n) == ("reviews", "test", 160)
    assert quality.build == "onnx-int8-reduced"
    assert quality.accuracy_interval_95 == pytest.approx(accuracy_interval(quality.accuracy, 160))
    assert quality.teacher_accuracy is not None
    assert quality.teacher_accuracy > 0.9
    assert quality.retention == pytest.approx(quality.accuracy / quality.teacher_accuracy)
    for whole in finished.manifest("whole").quality:
        assert whole.accuracy == whole.teacher_accuracy
        assert (whole.retention, whole.label_flip_rate) == (1.0, 0.0)


def test_every_build_is_judged_with_an_interval_beside_the_teacher(finished: Finished) -> None:
    manifest = finished.manifest("small")
    assert [quality.build for quality in manifest.quality] == [build.name for build in manifest.builds]
    for quality in manifest.quality:
        assert quality.accuracy_interval_95 == pytest.approx(accuracy_interval(quality.accuracy, quality.n))
        assert quality.teacher_accuracy == manifest.quality[0].teacher_accuracy
        assert None not in (quality.label_flip_rate, quality.mcnemar_p, quality.f1, quality.calibration_error)
        assert f"| {quality.build} | {quality.accuracy:.2%} |" in model_card.text(manifest)


@pytest.mark.parametrize("number", range(4))
def test_quality_is_what_the_build_answers(number: int, finished: Finished) -> None:
    """The slow way: every text through the artifact alone."""
    folder, manifest = finished.folder("small"), finished.manifest("small")
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, manifest.tokenizer)
    build = manifest.builds[number]
    engine = load_engine(build.engine, folder / build.file, 1)
    test = finished.outcome.datasets[0].test
    assert test is not None
    right = 0
    for text, label in zip(test.texts, test.labels or (), strict=True):
        input_ids = tokenizer.encode(text).input_ids[None, :]
        right += int(engine.logits(input_ids, np.ones_like(input_ids))[0].argmax() == label)
    assert manifest.quality[number].accuracy == pytest.approx(right / 160, abs=0.01)


def test_cost_stands_beside_the_baseline_with_its_machine(finished: Finished) -> None:
    manifest = finished.manifest("small")
    builds, cores = [build.name for build in manifest.builds], usable_cores()
    # Every build was measured, in the same run; and again with one thread a pass.
    on_all = [(name, cores) for name in (*builds, "BERT-base, PyTorch fp32")]
    on_one = [(name, 1) for name in builds] if cores > 1 else []
    assert [(cost.build, cost.threads) for cost in manifest.cost] == [*on_all, *on_one]
    assert builds[0] == "onnx-int8-reduced"
    ours, baseline = manifest.cost[0], manifest.cost[len(builds)]
    for cost in manifest.cost:
        assert [point.tokens for point in cost.latency] == [16]
        assert all(point.rows == 1 and 0 < point.median_ms <= point.p90_ms for point in cost.latency)
        assert cost.cpu
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", cost.measured_on)
        assert cost.peak_resident_bytes == 123_000_000
    assert ours.runtime.startswith("onnxruntime ")
    assert baseline.runtime.startswith("torch ")


def test_provenance_is_enough_and_names_no_path(finished: Finished) -> None:
    for model in MODELS:
        origin = finished.manifest(model).provenance
        assert (origin.teacher, origin.recipe, origin.data) == ("backbone", "tiny", "reviews")
        assert origin.recipe_sha256 == finished.request.recipe.sha256
        assert origin.data_fingerprint == finished.outcome.datasets[0].fingerprint
        assert {"torch", "transformers", "onnxruntime"} <= set(origin.libraries)
        assert origin.code_revision is None or re.fullmatch("[0-9a-f]{12}", origin.code_revision)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", origin.created_at)
        for name in ("manifest.json", "README.md", "config.json", "tokenizer_config.json"):
            body = (finished.folder(model) / name).read_text(encoding="utf-8")
            assert str(finished.request.work.parent) not in body, name


@pytest.mark.parametrize("model", MODELS)
def test_transformers_opens_the_folder_as_it_is(model: str, finished: Finished) -> None:
    folder = finished.folder(model)
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "bert"
    assert config.id2label == {0: "negative", 1: "positive"}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == 16
    text = "i found the film dull"
    ours = Tokenizer(folder / artifact.TOKENIZER_FILE, finished.manifest(model).tokenizer)
    assert tokenizer(text)["input_ids"] == ours.encode(text).input_ids.tolist()


def test_the_tokenizer_cuts_as_the_recipe_says(finished: Finished) -> None:
    settings = finished.manifest("small").tokenizer
    assert (settings.max_tokens, settings.truncation, settings.head_tokens) == (16, "head+tail", 4)


def test_the_card_tells_what_the_manifest_says(finished: Finished) -> None:
    manifest = finished.manifest("small")
    card = (finished.folder("small") / "README.md").read_text(encoding="utf-8")
    assert card == model_card.text(manifest)
    for said in (
        "# small, version 1",
        "Two layers, pruned.",
        "Labels: negative, positive.",
        f"attention heads per layer {', '.join(map(str, manifest.architecture.attention_heads))}",
        f"{manifest.quality[0].accuracy:.2%}",
        f"{manifest.quality[0].teacher_accuracy:.2%}",
        "BERT-base, PyTorch fp32",
        "| 16 tokens |",
        "123 MB",
        "any CPU",
        "vnni",
        f"code {manifest.provenance.code_revision or 'not from a checkout'}",
    ):
        assert said in card, said
    for line in card.splitlines():
        assert "None" not in line


def tables(card: str) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in card.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_the_cards_tables_are_whole(finished: Finished) -> None:
    found = tables((finished.folder("small") / "README.md").read_text(encoding="utf-8"))
    assert len(found) == 3
    for table in found:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table


def test_a_card_without_cost_and_teacher(finished: Finished) -> None:
    manifest = finished.manifest("small")
    bare = manifest.quality[0].model_copy(
        update={"teacher_accuracy": None, "retention": None, "label_flip_rate": None}
    )
    card = model_card.text(manifest.model_copy(update={"cost": (), "quality": (bare,)}))
    assert "Not measured." in card
    assert "| - | - | - |" in card


def test_nothing_of_a_publication_is_left_behind(finished: Finished) -> None:
    for folder in (finished.request.work / "stages").iterdir():
        assert not (folder / "files").exists()
    assert list(finished.request.repository.rglob(".*")) == []


def test_runs_that_publish_at_once_take_different_numbers(finished: Finished, tmp_path: Path) -> None:
    folder, manifest = finished.folder("whole"), finished.manifest("whole")
    draft = manifest.model_copy(update={"files": tuple(f for f in manifest.files if f.file != "README.md")})
    written: list[Path] = []

    def publish_one(number: int) -> None:
        stage = tmp_path / f"stage-{number}"
        stage.mkdir()
        sources = {stored.file: folder / stored.file for stored in draft.stored_files}
        written.append(publish.write(draft, sources, tmp_path / "models", stage))

    threads = [threading.Thread(target=publish_one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in written) == ["1", "2", "3", "4", "5", "6"]
    for path in written:
        artifact.verify(path, artifact.read(path))


def test_the_first_build_is_calibrated_and_assessed(finished: Finished) -> None:
    manifest = finished.manifest("small")
    quality = manifest.quality[0]
    (stage,) = (finished.request.work / "stages").glob("small-[0-9a-f]*")
    found = json.loads((stage / "assessment-reviews.json").read_text())
    assert found["calibration"]["temperature"] == manifest.calibration_temperature != 1.0
    assert (found["name"], found["n"]) == (quality.build, quality.n)
    assert found["accuracy"]["value"] == quality.accuracy
    assert found["agreement"]["label_flip_rate"]["value"] == quality.label_flip_rate
    assert (found["f1"]["value"], found["auc"]["value"]) == (quality.f1, quality.auc)
    assert found["calibration"]["error"] == quality.calibration_error
    assert found["agreement"]["mcnemar"]["p_value"] == quality.mcnemar_p
    assert sum(map(sum, found["confusion"])) == quality.n


def test_further_builds_are_judged_on_a_sample_and_ratings_apart(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same work folder and data with one column more, which nothing learns: nothing is trained again."""
    monkeypatch.setattr(judging, "FURTHER_ROWS", 40)
    source = shutil.copytree(finished.request.data[0], tmp_path / "reviews")
    for path in (source / "train.jsonl", source / "test.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        graded = [row | {"rating": 1 + 3 * (len(row["text"]) % 4)} for row in rows]
        path.write_text("\n".join(map(json.dumps, graded)), encoding="utf-8")
    asked = moved(
        finished, tmp_path, data=(str(source),), data_settings=DataSettings(slice_columns=("rating",))
    )
    shutil.rmtree(asked.repository)  # so that it is published again
    stages = asked.work / "stages"
    trained = {path: path.stat().st_mtime_ns for path in stages.glob("distilled-*/stage.json")}
    with cheap_baseline():
        outcome = run(asked)
    assert {path: path.stat().st_mtime_ns for path in stages.glob("distilled-*/stage.json")} == trained
    manifest = next(each.manifest for each in outcome.published if each.manifest.name == "small")
    assert [found.n for found in manifest.quality] == [160, 40, 40, 40]
    (stage,) = stages.glob("small-[0-9a-f]*[0-9a-f]")
    for build in manifest.builds:
        first = build is manifest.builds[0]
        file = "assessment-reviews.json" if first else f"build-{build.name}-reviews.json"
        told = {each["name"]: each for each in json.loads((stage / file).read_text())["slices"]}
        rated = [each["n"] for name, each in told.items() if name.startswith("rating ")]
        assert {name for name in told if name.startswith("rating ")} <= {f"rating {n}" for n in (1, 4, 7, 10)}
        assert sum(rated) == (160 if first else 40)
    test = outcome.datasets[0].test
    assert test is not None
    whole = json.loads((stage / "assessment-reviews.json").read_text())
    tens = sum(value == "10" for value in test.columns["rating"])
    assert next(each["n"] for each in whole["slices"] if each["name"] == "rating 10") == tens
