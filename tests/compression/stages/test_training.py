from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import CompressionError
from compression import classifier, pipeline
from compression.distillation import ngram_teacher
from compression.distillation.objective import DistillationSettings
from compression.stages.base import Context, Input
from compression.stages.teachers import LinearTeacherStage
from compression.stages.training import DistilStage, objective_of
from compression.training import silent
from tests.compression.finished import Finished
from tests.compression.tiny import tiny_classifier, training

TITLE = "distilled"


@pytest.fixture
def context(finished: Finished, tmp_path: Path) -> Context:
    """The context the finished run had with the teacher it trained, and an empty work folder."""
    trained = next((finished.request.work / "stages").glob("teacher-*"))
    prepared = pipeline._prepare(finished.request, lambda _: silent)
    return replace(prepared, work=tmp_path, teacher=Input(trained, "teacher"))


@pytest.fixture
def linear(context: Context, tmp_path: Path) -> Input:
    folder = tmp_path / "linear"
    folder.mkdir()
    LinearTeacherStage(name="words", kind="linear-teacher", parts=2).run([], context, folder)
    return Input(folder, "linear")


def test_a_linear_teacher_is_fitted_on_the_training_texts(context: Context, linear: Input) -> None:
    validation = context.validation_rows()
    found = ngram_teacher.load(linear.folder)
    assert len(found.models) == 2
    right = (found.logits(validation.texts).argmax(-1) == validation.labels).mean()
    assert float(right) > 0.9


def test_the_soft_labels_are_the_mean_of_all_teachers(context: Context, linear: Input) -> None:
    student = tiny_classifier()
    settings = DistillationSettings(teacher_weights=(3.0, 1.0), temperature=2.0, unlabelled_rows=10)
    teachers = [context.teacher, linear]
    objective = objective_of(student, teachers, settings, "fp32", context, TITLE)
    assert objective.teacher_logits is not None
    rows = context.training_rows(10)
    alone = [
        objective_of(student, [one], replace_weights(settings), "fp32", context, TITLE).teacher_logits
        for one in teachers
    ]
    assert alone[0] is not None
    assert alone[1] is not None
    assert objective.teacher_logits.shape == (len(rows), 2)
    expected = (3 * (alone[0] / 2).softmax(-1) + (alone[1] / 2).softmax(-1)) / 4
    assert torch.allclose((objective.teacher_logits / 2).softmax(-1), expected, atol=1e-5)
    words = torch.from_numpy(ngram_teacher.load(linear.folder).logits(rows.texts))
    assert torch.allclose(alone[1].softmax(-1), words.softmax(-1), atol=1e-5)


def replace_weights(settings: DistillationSettings) -> DistillationSettings:
    return settings.model_copy(update={"teacher_weights": ()})


def test_a_stage_of_two_teachers(context: Context, linear: Input, tmp_path: Path) -> None:
    classifier.save(tiny_classifier(layers=1), tmp_path / "student")
    stage = DistilStage(
        name=TITLE, kind="distil", inputs=("student", "teacher", "words"), training=training(epochs=2)
    )
    stage.run([Input(tmp_path / "student", "s"), context.teacher, linear], context, tmp_path / "out")
    student = classifier.load(str(tmp_path / "out"))
    rows = context.validation_rows().batch(range(len(context.validation_rows())))
    with torch.no_grad():
        answers = student.model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    assert float((answers.argmax(-1) == rows.labels).float().mean()) > 0.8


def test_two_phases(context: Context, tmp_path: Path) -> None:
    """The first teaches the layers and leaves the classifier as it was, the second the labels."""
    classifier.save(tiny_classifier(layers=2), tmp_path / "student")
    settings: dict[str, Any] = {"soft_weight": 0, "hard_weight": 0, "tinybert": {}}
    first = DistilStage(
        name=TITLE,
        kind="distil",
        inputs=("student", "teacher"),
        distillation=DistillationSettings.model_validate(settings),
        training=training(epochs=1, weight_decay=0.0),
    )
    first.run([Input(tmp_path / "student", "s"), context.teacher], context, tmp_path / "out")
    before, after = (classifier.load(str(tmp_path / name)).model for name in ("student", "out"))
    assert torch.equal(before.get_parameter("classifier.weight"), after.get_parameter("classifier.weight"))
    assert not torch.equal(
        before.get_parameter("bert.encoder.layer.0.attention.self.query.weight"),
        after.get_parameter("bert.encoder.layer.0.attention.self.query.weight"),
    )
    assert not (context.work / "logits").exists()  # nobody asked the teacher for its answers


def test_a_teacher_of_other_labels(context: Context, tmp_path: Path) -> None:
    classifier.save(tiny_classifier(labels=("bad", "good")), tmp_path / "teacher")
    said = "the student's labels are negative, positive, those of its teacher bad, good"
    with pytest.raises(CompressionError, match=said):
        objective_of(
            tiny_classifier(),
            [Input(tmp_path / "teacher", "t")],
            DistillationSettings(),
            "fp32",
            context,
            TITLE,
        )
