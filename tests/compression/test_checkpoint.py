"""A training that was killed, and its checkpoints judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.errors import CompressionError
from compression import api, checkpoint, classifier
from compression.architecture import layer_shapes
from compression.cli import main
from compression.distillation.teacher_logits import logits_of
from compression.run_folder import BEST_FILE
from compression.training import Report
from tests.compression.finished import Finished
from tests.compression.tiny import rows_of, tiny_classifier, uneven_classifier

SETTINGS = {
    "training": {
        "epochs": 1,
        "learning_rate": 2e-3,
        "precision": "fp32",
        "checkpoint_seconds": 0,
        "evaluations_per_epoch": 4,
    }
}


class KilledError(BaseException):
    """Nothing in the product catches this, as nothing catches SIGKILL."""


@pytest.fixture(scope="module")
def killed(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fine-tuning that was killed in the middle."""
    work = tmp_path_factory.mktemp("killed")

    def report(_title: str) -> Report:
        def told(done: int, _total: int, _note: str) -> None:
            if done == 10:
                raise KilledError

        return told

    with pytest.raises(KilledError):
        api.train(
            str(finished.request.backbone),
            work / "out",
            SETTINGS,
            data=finished.request.data[0],
            text={"max_tokens": 16},
            work=work,
            report=report,
        )
    (folder,) = work.glob("stages/finetune-*/training")
    return folder


def evaluated(model: Path, finished: Finished, work: Path) -> float:
    (found,) = api.evaluate(model, data=finished.request.data[0], text={"max_tokens": 16}, work=work)
    return found.accuracy.value


def by_hand(weights: Path, killed: Path, finished: Finished, tmp_path: Path) -> float:
    """The accuracy of a backbone with a head, the weights put in one by one."""
    model = classifier.load(str(finished.request.backbone), heads=tiny_classifier().heads)
    model.model.load_state_dict(load_file(weights))
    rows = rows_of(160, tmp_path / "tokens", start=480)
    answers = logits_of(model.model, rows, range(160))
    return float((answers.argmax(-1) == rows.labels).mean())


def test_every_checkpoint_and_the_best_weights_can_be_judged(
    killed: Path, finished: Finished, tmp_path: Path
) -> None:
    checkpoints = sorted(killed.glob("checkpoint-*"))
    assert len(checkpoints) == 2
    for place, weights in (
        *((path, path / classifier.WEIGHTS_FILE) for path in checkpoints),
        (killed, killed / BEST_FILE),
    ):
        expected = by_hand(weights, killed, finished, tmp_path)
        assert evaluated(place, finished, tmp_path / "work") == pytest.approx(expected)


def test_the_command_names_the_checkpoint(
    killed: Path, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = max(killed.glob("checkpoint-*"))
    asked = ["evaluate", "--model", str(place), "--data", finished.request.data[0], "--max-tokens", "16"]
    assert main([*asked, "--work", str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["n"]) == (str(place), 160)
    assert main([*asked, "--work", str(tmp_path), "--build", "onnx-fp32"]) == 1
    assert "is no published version and has no builds" in capsys.readouterr().err


def test_uneven_shapes_are_described(tmp_path: Path) -> None:
    pruned = uneven_classifier()
    checkpoint.describe(pruned, tmp_path / "training")
    weights = tmp_path / "training" / "checkpoint-0000-00000001"
    classifier.save(pruned, weights)
    for left in weights.iterdir():
        if left.name != classifier.WEIGHTS_FILE:
            left.unlink()
    found = checkpoint.weights_of(weights)
    assert found is not None
    again = classifier.load(str(checkpoint.lay_out(found, tmp_path / "laid-out")))
    assert layer_shapes(again.model) == layer_shapes(pruned.model)
    ours, theirs = again.model.state_dict(), pruned.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    checkpoint.describe(tiny_classifier(layers=2), tmp_path / "training")
    classifier.save(tiny_classifier(), tmp_path / "training" / "checkpoint-0000-00000001")
    found = checkpoint.weights_of(tmp_path / "training" / "checkpoint-0000-00000001")
    assert found is not None
    with pytest.raises(CompressionError, match=r"does not hold the model its config\.json"):
        classifier.load(str(checkpoint.lay_out(found, tmp_path / "laid-out")))


def test_a_finished_stage_keeps_none_of_it(finished: Finished) -> None:
    trainings = list(finished.request.work.rglob("training"))
    assert trainings
    for training in trainings:
        assert {path.name for path in training.iterdir()} <= {
            "history.json", "metrics.jsonl", "run.json"
        }  # fmt: skip
        assert checkpoint.weights_of(training) is None
