from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from transformers import AlbertConfig, AlbertForSequenceClassification

from app import artifact
from app.errors import DataError, DiskFullError, ParityError, RecipeError, UnsupportedModelError
from compression import classifier, corpus, pipeline
from compression.data import fingerprint
from compression.pipeline import Outcome
from compression.recipe import parse
from compression.stages.base import Context, Input
from tests.compression import finished as tiny_run
from tests.compression.finished import Finished, cheap_baseline, moved, recipe, request, run
from tests.compression.tiny import tiny_classifier, tiny_tokenizer, write_data

STAGES = [stage.name for stage in recipe().stages]


def versions(outcome: Outcome) -> list[str]:
    return [f"{version.manifest.name}/{version.manifest.version}" for version in outcome.published]


@pytest.fixture
def only_record(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that ran; none does its work, and a publication points at version 1."""
    ran: list[str] = []

    def record(stage: Any, inputs: Sequence[Input], context: Context, folder: Path) -> Path | None:
        assert all(source.folder.is_dir() for source in inputs)
        ran.append(stage.name)
        return context.repository / stage.model / "1" if stage.kind == "publish" else None

    monkeypatch.setattr(pipeline, "_perform", record)
    return ran


def test_the_run_ends_with_two_versions(finished: Finished) -> None:
    assert versions(finished.outcome) == ["small/1", "whole/1"]
    assert finished.outcome.refused == ()
    assert finished.outcome.datasets[0].label_names == ("negative", "positive")
    assert not list(finished.request.work.rglob("unfused.onnx"))


def test_a_second_run_does_nothing(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def explode(*_: object) -> None:
        raise AssertionError("a finished stage ran again")

    monkeypatch.setattr(pipeline, "_perform", explode)
    monkeypatch.setattr(pipeline, "finetune", explode)
    monkeypatch.setattr(corpus, "Tokenizer", explode)
    again = run(moved(finished, tmp_path))
    assert versions(again) == ["small/1", "whole/1"]
    assert [v.manifest for v in again.published] == [v.manifest for v in finished.outcome.published]


# what is changed in the recipe, and the stages that follow from it
CHANGES: list[tuple[dict[str, str], list[str]]] = [
    ({"whole": 'description = "other"'}, ["whole"]),
    ({"small_int8": 'keep_fp32 = ["x"]'}, ["small-int8", "small"]),
    ({"whole_onnx": "opset = 18"}, ["whole-onnx", "whole"]),
    ({"student": ""}, []),
    ({"pruned": "steps = 1"}, ["pruned", "small-onnx", "small-reduced", "small-int8"]),
]


@pytest.mark.parametrize(("changed", "followers"), CHANGES)
def test_a_changed_stage_runs_again_with_what_follows_it(
    changed: dict[str, str],
    followers: list[str],
    finished: Finished,
    only_record: list[str],
    tmp_path: Path,
) -> None:
    asked = moved(finished, tmp_path, recipe=recipe(**changed))
    if "pruned" in changed:
        followers = [*followers, "small-torchscript", "small"]
    run(asked)
    assert only_record == followers
    only_record.clear()
    run(asked)
    assert only_record == []


def test_other_data_change_everything(
    finished: Finished, only_record: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetuned = []
    monkeypatch.setattr(pipeline, "finetune", lambda *_: finetuned.append(1))
    settings = replace(finished.request.data_settings, limit_rows=100)
    run(moved(finished, tmp_path, data_settings=settings))
    assert only_record == STAGES
    assert finetuned == [1]


def test_a_stage_under_another_name_is_not_mistaken(
    finished: Finished, only_record: list[str], tmp_path: Path
) -> None:
    body = tiny_run.RECIPE.replace('"whole-onnx"', '"renamed-onnx"')
    run(moved(finished, tmp_path, recipe=parse(body, "tiny")))
    assert "renamed-onnx" in only_record
    assert "small-onnx" not in only_record


@pytest.mark.parametrize("stopped_at", STAGES)
def test_a_stopped_run_goes_on(
    stopped_at: str,
    finished: Finished,
    only_record: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "models").mkdir()
    shutil.copytree(finished.folder("small"), tmp_path / "models" / "small" / "1")
    shutil.copytree(finished.folder("whole"), tmp_path / "models" / "whole" / "1")
    monkeypatch.setattr(pipeline, "finetune", lambda *args: classifier.save(tiny_classifier(), args[-1]))
    asked = replace(finished.request, work=tmp_path / "work", repository=tmp_path / "models")
    record = pipeline._perform

    def stop(stage: Any, *rest: Any) -> Any:
        if stage.name == stopped_at:
            raise KeyboardInterrupt
        return record(stage, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pipeline, "_perform", stop)
        run(asked)
    assert only_record == STAGES[: STAGES.index(stopped_at)]
    assert versions(run(asked)) == ["small/1", "whole/1"]
    assert only_record == STAGES


def test_a_note_cut_in_the_middle_is_no_note(
    finished: Finished, only_record: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the note that a stage is done is written, the stage is not taken for done."""
    asked = moved(finished, tmp_path, recipe=recipe(whole='description = "other"'))
    real = Path.write_text

    def cut(self: Path, text: str, **settings: Any) -> int:
        real(self, text[: len(text) // 2], **settings)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "write_text", cut)
        run(asked)
    assert only_record == ["whole"]
    run(asked)
    assert only_record == ["whole", "whole"]


def test_a_version_that_was_removed_is_published_again(finished: Finished, tmp_path: Path) -> None:
    asked = moved(finished, tmp_path)
    shutil.rmtree(tmp_path / "models" / "whole" / "1")
    with cheap_baseline():
        again = run(asked)
    assert versions(again) == ["small/1", "whole/1"]
    artifact.verify(tmp_path / "models" / "whole" / "1", artifact.read(tmp_path / "models" / "whole" / "1"))


def test_killed_after_the_version_was_written_it_is_not_published_twice(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = moved(finished, tmp_path, recipe=recipe(whole='description = "other"'))
    real = artifact.write

    def killed(*args: Any) -> Path:
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), cheap_baseline():
        patched.setattr(artifact, "write", killed)
        run(asked)
    assert artifact.versions(tmp_path / "models", "whole") == [1, 2]
    with cheap_baseline():
        again = run(asked)
    assert versions(again) == ["small/1", "whole/2"]
    assert artifact.versions(tmp_path / "models", "whole") == [1, 2]
    shutil.rmtree(tmp_path / "models" / "whole" / "2")
    with cheap_baseline():
        assert versions(run(asked)) == ["small/1", "whole/2"]


def test_a_version_of_another_run_is_not_taken_for_ours(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = moved(finished, tmp_path, recipe=recipe(whole='description = "other"'))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), cheap_baseline():
        patched.setattr(artifact, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(asked)
    theirs = shutil.copytree(finished.folder("whole"), tmp_path / "models" / "whole" / "2")
    manifest = json.loads((theirs / "manifest.json").read_text())
    (theirs / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))
    with cheap_baseline():
        assert versions(run(asked)) == ["small/1", "whole/3"]


def test_two_builds_of_one_name(finished: Finished, tmp_path: Path) -> None:
    twice = tiny_run.RECIPE.replace('inputs = ["whole-onnx"]', 'inputs = ["whole-onnx", "whole-onnx"]')
    with pytest.raises(RecipeError, match="2 builds named 'onnx-fp32' are published as one version"):
        run(moved(finished, tmp_path, recipe=parse(twice, "tiny")))


FULL: list[Exception] = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("raised", FULL)
def test_a_full_disk_is_said_in_one_line_and_nothing_is_lost(
    raised: Exception, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = moved(finished, tmp_path, recipe=recipe(pruned="steps = 1"))
    with monkeypatch.context() as patched, pytest.raises(DiskFullError) as found:
        patched.setattr(classifier, "save", lambda *_: (_ for _ in ()).throw(raised))
        run(asked)
    assert str(found.value).startswith(f"no room left on the disk of {tmp_path / 'work'}; free some, and the")
    assert "\n" not in str(found.value)
    with cheap_baseline():
        assert versions(run(asked)) == ["small/2", "whole/1"]


def test_finished_stages_keep_no_checkpoints(finished: Finished) -> None:
    stages = finished.request.work / "stages"
    assert not list(stages.rglob("checkpoint-*"))
    assert not list(stages.rglob("best.safetensors"))
    histories = [json.loads(path.read_text()) for path in stages.rglob("training/history.json")]
    assert len(histories) == 4  # teacher, distilled, pruned twice
    assert all(history["history"][-1]["validation_accuracy"] > 0 for history in histories)


def test_another_repository_gets_its_own_copies(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform = pipeline._perform

    def only_publish(stage: Any, *rest: Any) -> Path | None:
        assert stage.kind == "publish", "only the publications run again"
        return perform(stage, *rest)

    monkeypatch.setattr(pipeline, "_perform", only_publish)
    asked = replace(moved(finished, tmp_path), repository=tmp_path / "other")
    with cheap_baseline():
        again = run(asked)
    assert versions(again) == ["small/1", "whole/1"]
    for published, before in zip(again.published, finished.outcome.published, strict=True):
        assert published.folder.is_relative_to(tmp_path / "other")
        assert published.manifest.builds == before.manifest.builds
        assert published.manifest.probes == before.manifest.probes


def test_the_gate_refuses_one_version_and_the_others_are_published(
    finished: Finished, tmp_path: Path
) -> None:
    strict = recipe(whole="gate.fp32_tolerance = 1e-12")
    with cheap_baseline():
        outcome = run(moved(finished, tmp_path, recipe=strict))
    assert versions(outcome) == ["small/1"]
    (reason,) = outcome.refused
    assert reason.startswith("whole: build onnx-fp32: logits differ from PyTorch's by ")
    assert reason.endswith("limit 1e-12; it is not published")
    assert artifact.versions(tmp_path / "models", "whole") == [1]  # the one that was there
    assert not list((tmp_path / "models" / "whole").glob(".publishing-*"))


def test_what_takes_from_a_refused_stage_is_refused_as_well(
    finished: Finished, only_record: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = pipeline._perform

    def refuse(stage: Any, *rest: Any) -> Any:
        if stage.name == "small-onnx":
            raise ParityError("the exported graph has 0 fused Attention nodes")
        return record(stage, *rest)

    monkeypatch.setattr(pipeline, "_perform", refuse)
    asked = moved(finished, tmp_path, recipe=recipe(small_onnx="opset = 18"))
    outcome = run(asked)
    assert versions(outcome) == ["whole/1"]
    assert outcome.refused[0] == "small-onnx: the exported graph has 0 fused Attention nodes"
    assert [line.split(":")[0] for line in outcome.refused] == [
        "small-onnx",
        "small-reduced",
        "small-int8",
        "small",
    ]
    assert "small-onnx was refused" in outcome.refused[1]
    assert only_record == []


EXPORT_ONLY = parse(
    """
name = "plain"
text = { max_tokens = 16, truncation = "head" }
[[stages]]
name = "onnx"
kind = "export"
inputs = ["teacher"]
[[stages]]
name = "out"
kind = "publish"
inputs = ["onnx"]
model = "plain"
""",
    "plain",
)


def test_the_teachers_own_labels_are_kept(tmp_path: Path) -> None:
    labels = ("bad", "fair", "good")
    teacher = tiny_classifier("roberta", labels=labels)
    classifier.save(teacher, tmp_path / "teacher")
    (tmp_path / "reviews").mkdir()
    words = {"bad": "dull", "fair": "long", "good": "funny"}
    rows = [
        json.dumps({"text": f"the {thing} {words[label]} {index}", "label": label})
        for index, thing in enumerate(["film", "story", "cast", "plot"] * 5)
        for label in labels
    ]
    (tmp_path / "reviews" / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    asked = request(tmp_path, recipe=EXPORT_ONLY, backbone=None, teacher=str(tmp_path / "teacher"))
    with cheap_baseline():
        (published,) = run(asked).published
    manifest = published.manifest
    assert manifest.labels == labels
    assert {len(logits) for probe in manifest.probes for logits in probe.logits.values()} == {3}
    assert manifest.architecture.family == "roberta"
    (quality,) = manifest.quality
    assert (quality.split, quality.label_flip_rate) == ("validation", 0.0)
    assert quality.accuracy == quality.teacher_accuracy
    assert json.loads((published.folder / "config.json").read_text())["id2label"] == {
        "0": "bad", "1": "fair", "2": "good",
    }  # fmt: skip


def test_two_data_sets_are_judged_each_by_itself(tmp_path: Path) -> None:
    write_data(tmp_path / "reviews")
    (tmp_path / "phrases").mkdir()
    rows = [json.dumps({"text": f"a phrase {i}", "label": i % 2}) for i in range(100)]
    (tmp_path / "phrases" / "train.jsonl").write_text("\n".join(rows))
    classifier.save(tiny_classifier(), tmp_path / "teacher")
    asked = request(
        tmp_path,
        recipe=EXPORT_ONLY,
        backbone=None,
        teacher=str(tmp_path / "teacher"),
        data=(str(tmp_path / "reviews"), str(tmp_path / "phrases")),
    )
    with cheap_baseline():
        outcome = run(asked)
    manifest = outcome.published[0].manifest
    assert [(q.dataset, q.split) for q in manifest.quality] == [
        ("reviews", "test"),
        ("phrases", "validation"),
    ]
    assert [q.n for q in manifest.quality] == [160, len(outcome.datasets[1].validation)]
    parity = manifest.builds[0].parity
    assert parity is not None
    assert parity.dataset == "reviews+phrases validation"
    assert manifest.provenance.data == "reviews+phrases"
    assert manifest.provenance.data_fingerprint == fingerprint(outcome.datasets)


OWN_TEACHER = """
name = "own"
text = { max_tokens = 16, truncation = "head" }
reference = "mine"
[[stages]]
name = "adapted"
kind = "pretrain"
inputs = ["backbone"]
training = { epochs = 0.2, precision = "fp32" }
[[stages]]
name = "mine"
kind = "finetune"
inputs = ["adapted"]
training = { epochs = 3, learning_rate = 2e-3, rows_per_step = 16, precision = "fp32", label_smoothing = 0.1 }
[[stages]]
name = "onnx"
kind = "export"
inputs = ["mine"]
[[stages]]
name = "out"
kind = "publish"
inputs = ["onnx"]
model = "own"
"""


def test_a_teacher_made_by_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes `teacher`, so none is fine-tuned; what is published is compared with the stage's own."""
    write_data(tmp_path / "reviews")
    tiny_run.backbone(tmp_path / "backbone")
    monkeypatch.setattr(pipeline, "finetune", lambda *_: pytest.fail("a teacher nobody takes was trained"))
    with cheap_baseline():
        (published,) = run(request(tmp_path, recipe=parse(OWN_TEACHER, "own"))).published
    (quality,) = published.manifest.quality
    assert quality.accuracy > 0.8
    assert (quality.retention, quality.label_flip_rate) == (1.0, 0.0)
    folders = {folder.name.rpartition("-")[0] for folder in (tmp_path / "work" / "stages").iterdir()}
    assert folders == {"adapted", "mine", "onnx", "out"}


def test_a_teacher_that_answers_the_other_way_round(tmp_path: Path, finished: Finished) -> None:
    right = classifier.load(str(next((finished.request.work / "stages").glob("teacher-*"))))
    right.model.config.id2label = {0: "positive", 1: "negative"}
    for name in ("classifier.weight", "classifier.bias"):
        weight = right.model.get_parameter(name).data
        weight.copy_(weight.flip(0))
    classifier.save(right, tmp_path / "teacher")
    asked = replace(
        finished.request, teacher=str(tmp_path / "teacher"), backbone=None, work=tmp_path / "work"
    )
    with pytest.raises(DataError, match="less than chance: do its labels, positive, negative, stand in"):
        run(asked)


def test_a_label_the_teacher_does_not_know(tmp_path: Path) -> None:
    classifier.save(tiny_classifier(), tmp_path / "teacher")
    write_data(tmp_path / "reviews")
    (tmp_path / "reviews" / "test.jsonl").write_text('{"text": "odd", "label": "fair"}')
    asked = request(tmp_path, recipe=EXPORT_ONLY, backbone=None, teacher=str(tmp_path / "teacher"))
    with pytest.raises(DataError, match=r"row 1: unknown label 'fair'; expected one of negative, positive"):
        run(asked)


def test_another_family_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    config = AlbertConfig(
        vocab_size=160,
        embedding_size=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    AlbertForSequenceClassification(config).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    asked = request(tmp_path, backbone=None, teacher=str(tmp_path / "teacher"), data=("/absent",))
    with pytest.raises(
        UnsupportedModelError, match="'albert' cannot be compressed; supported: bert, distilb"
    ):
        run(asked)


def test_a_backbone_given_as_teacher_is_told_so(finished: Finished) -> None:
    asked = replace(finished.request, teacher=finished.request.backbone, backbone=None)
    with pytest.raises(UnsupportedModelError, match="pass it as --backbone and it is fine-tuned first"):
        run(asked)


def test_more_tokens_than_the_model_reads(finished: Finished, tmp_path: Path) -> None:
    longer = recipe().model_copy(
        update={"text": recipe().text.model_copy(update={"max_tokens": 65, "head_tokens": 16})}
    )
    with pytest.raises(UnsupportedModelError, match="the recipe reads 65 tokens, this model 64; lower max_t"):
        run(replace(finished.request, recipe=longer, work=tmp_path))


def test_a_students_first_answers_are_not_its_last(finished: Finished) -> None:
    """Every model stage leaves a model of its own: student, distilled, pruned twice."""
    folders = sorted((finished.request.work / "stages").iterdir())
    weights = {
        folder.name.rpartition("-")[0]: artifact.sha256(folder / classifier.WEIGHTS_FILE)
        for folder in folders
        if (folder / classifier.WEIGHTS_FILE).is_file()
    }
    assert set(weights) == {"teacher", "student", "distilled", "pruned"}
    assert len(set(weights.values())) == 4


def test_distillation_used_the_unlabelled_texts(finished: Finished) -> None:
    # One teacher in one precision: one file, a key and two logits for each text it answered.
    (cache,) = (finished.request.work / "logits").glob("logits-*.bin")
    (dataset,) = finished.outcome.datasets
    assert dataset.unlabelled is not None
    assert dataset.test is not None
    answered = len(dataset.train) + len(dataset.unlabelled) + len(dataset.test)
    assert cache.stat().st_size == answered * (16 + 2 * 4)
