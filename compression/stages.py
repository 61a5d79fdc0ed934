"""What each kind of stage does with its inputs. Each writes its result into its own folder, and nothing else.

A folder of a model stage holds the model as `classifier.save` writes it; a folder of a build stage holds one
file and its `build.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from app.artifact import TokenizerSettings
from compression import builds, classifier, export, graph
from compression.architecture import head_size, layer_shapes
from compression.batches import Rows
from compression.builds import CandidateBuild
from compression.classifier import Classifier
from compression.corpus import Corpus
from compression.data import Dataset
from compression.distillation.objective import DistillationObjective
from compression.distillation.teacher_logits import teacher_logits
from compression.evaluation import batches
from compression.pruning import structured
from compression.quantization import dynamic
from compression.recipe import (
    DistillationSettings,
    DistilStage,
    ExportStage,
    PruneStage,
    QuantizeStage,
    Recipe,
    StudentStage,
)
from compression.students import keep_layers
from compression.teacher import true_labels
from compression.training import Report, TrainingSettings, train


@dataclass(frozen=True)
class Corpora:
    """The data set as token ids."""

    train: Corpus
    validation: Corpus
    test: Corpus | None
    unlabelled: Corpus | None


@dataclass(frozen=True)
class Input:
    """What an earlier stage left: its folder, and a key that identifies what is in it."""

    folder: Path
    key: str


@dataclass(frozen=True)
class Context:
    """What every stage of a run may read."""

    recipe: Recipe
    dataset: Dataset
    corpora: Corpora
    text: TokenizerSettings
    teacher: Input
    teacher_source: str
    repository: Path
    work: Path
    report: Callable[[str], Report]


def finetune(backbone: str, settings: TrainingSettings, context: Context, folder: Path) -> None:
    """Fine-tune a backbone on the true labels."""
    model = classifier.load(backbone, label_names=context.dataset.label_names)
    rows, validation = Rows(context.corpora.train), Rows(context.corpora.validation)
    report = context.report("fine-tuning the teacher")
    train(model.model, true_labels, rows, validation, settings, folder / "training", report)
    classifier.save(model, folder)


def make_student(stage: StudentStage, inputs: Sequence[Input], _: Context, folder: Path) -> None:
    """Keep some layers."""
    classifier.save(keep_layers(classifier.load(str(inputs[0].folder)), stage.layers), folder)


def distil(stage: DistilStage, inputs: Sequence[Input], context: Context, folder: Path) -> None:
    """Train the first input to answer as the second."""
    student = classifier.load(str(inputs[0].folder))
    _distil(student, inputs[1], stage.distillation, stage.training, context, folder, stage.name)
    classifier.save(student, folder)


def prune(stage: PruneStage, inputs: Sequence[Input], context: Context, folder: Path) -> None:
    """Remove heads and FFN neurons in steps, each followed by distillation; each step is kept on disk."""
    model = classifier.load(str(inputs[0].folder))
    shapes = layer_shapes(model.model)
    heads, neurons = sum(shape.heads for shape in shapes), sum(shape.ffn_width for shape in shapes)
    for step in range(1, stage.steps + 1):
        step_folder = folder / f"step-{step}"
        if not (step_folder / classifier.WEIGHTS_FILE).is_file():
            share = step / stage.steps
            kept = (round(heads * (1 - stage.heads * share)), round(neurons * (1 - stage.ffn * share)))
            _remove_least_important(model, kept, stage.importance_rows, context)
            title = f"{stage.name} {step}/{stage.steps}"
            _distil(model, inputs[1], stage.distillation, stage.training, context, step_folder, title)
            classifier.save(model, step_folder)
        model = classifier.load(str(step_folder))
    classifier.save(model, folder)


def export_model(stage: ExportStage, inputs: Sequence[Input], _: Context, folder: Path) -> None:
    """Write the model as a build in fp32."""
    source = inputs[0].folder
    model = classifier.load(str(source)).model
    if stage.format == "torchscript":
        export.to_torchscript(model, folder / "model.torchscript.pt")
        CandidateBuild("torchscript-fp32", "torchscript", "fp32", "model.torchscript.pt", (), source).write(
            folder
        )
        return
    export.to_onnx(model, folder / "unfused.onnx", stage.opset)
    unfused, fused = folder / "unfused.onnx", folder / "model.onnx"
    graph.fuse(unfused, fused, layer_shapes(model), model.config.hidden_size, head_size(model))
    unfused.unlink()
    CandidateBuild("onnx-fp32", "onnx", "fp32", "model.onnx", (), source).write(folder)


def quantize(stage: QuantizeStage, inputs: Sequence[Input], _: Context, folder: Path) -> None:
    """Write the build with int8 weights."""
    source = builds.read(inputs[0].folder)
    dynamic.quantize(
        inputs[0].folder / source.file,
        folder / "model.onnx",
        reduced_range=stage.reduced_range,
        keep_fp32=stage.keep_fp32,
    )
    name, needs = ("onnx-int8-reduced", ()) if stage.reduced_range else ("onnx-int8", ("vnni",))
    CandidateBuild(name, "onnx", "int8", "model.onnx", needs, source.model_folder).write(folder)


def _distil(
    student: Classifier,
    teacher: Input,
    distillation: DistillationSettings,
    training: TrainingSettings,
    context: Context,
    folder: Path,
    title: str,
) -> None:
    rows = Rows(*_training_corpora(context, distillation.unlabelled_rows))
    taught_by = classifier.load(str(teacher.folder)).model
    nn.Module.to(taught_by, _device())
    report = context.report(f"{title}: teacher's logits")
    classes, cache = len(student.labels), context.work / "logits"
    logits = teacher_logits(taught_by, teacher.key, rows, classes, cache, training.precision, report)
    layers = (len(layer_shapes(student.model)), len(layer_shapes(taught_by)))
    objective = DistillationObjective(distillation, logits, taught_by, layers)
    validation = Rows(context.corpora.validation)
    train(student.model, objective, rows, validation, training, folder / "training", context.report(title))


def _device() -> str:
    """Where the teacher answers: beside the student, which accelerate puts there."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _training_corpora(context: Context, unlabelled_rows: int) -> list[Corpus]:
    corpora = [context.corpora.train]
    if unlabelled_rows and context.corpora.unlabelled is not None:
        wanted = len(context.corpora.unlabelled) if unlabelled_rows < 0 else unlabelled_rows
        corpora.append(context.corpora.unlabelled.first(wanted))
    return corpora


def _remove_least_important(model: Classifier, kept: tuple[int, int], rows: int, context: Context) -> None:
    labelled = Rows(context.corpora.train)
    sample = batches(labelled, context.corpora.train.take(rows), tokens=2048)
    scores = structured.importance(model.model, true_labels, sample)
    structured.remove(model.model, structured.choose(scores, *kept))
