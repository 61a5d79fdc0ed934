from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from app import artifact
from app.artifact import CascadeManifest
from compression import classifier, cli, ladder
from compression.ladder import Asked, Rung, Step, climb
from tests.compression.finished import Finished, cheap_baseline
from tests.compression.tiny import first_head_of, two_headed

GOOD, BAD = np.array([0.0, 1.0], np.float32), np.array([1.0, 0.0], np.float32)


def test_a_step_is_judged_on_the_texts_it_answers() -> None:
    texts, labels = ["good", "bad", "good", "bad"], np.array([1, 0, 0, 0])
    steps = [
        Step("all", lambda text: GOOD if text == "good" else BAD),
        Step("both cores", lambda _: BAD, instances=2, retention=0.9),
        Step("random", lambda _: BAD, judged=False, texts=2),
    ]
    told: list[str] = []

    one, two, three = climb(steps, texts, labels, 2, told.append)

    assert (one.accuracy, two.accuracy, three.accuracy) == (0.75, 0.75, None)
    assert (one.retention, two.retention) == (None, 0.9)
    assert [line.split(":")[0] for line in told] == ["all", "both cores", "random"]


def test_a_part_of_the_texts_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("compression.ladder.time.perf_counter", lambda: now[0])

    def slow(_: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        now[0] += 2.0
        return BAD

    (rung,) = climb([Step("slow", slow, texts=5)], ["text"] * 50, np.zeros(50, np.int64), 1, print)

    assert rung.seconds == pytest.approx(100.0)


def test_the_table_says_what_each_step_gains_and_what_all_do() -> None:
    from rich.console import Console

    console = Console(width=160, record=True)
    rungs = [Rung("base", 100.0, None, None), Rung("student", 25.0, 0.9, None), Rung("int8", 5.0, 0.81, 0.99)]
    console.print(ladder.table(rungs))
    text = console.export_text()
    (line,) = [line for line in text.splitlines() if "int8" in line]
    for cell in ("5.00", "5.00x", "20.0x", "81.0%", "90.0%", "99.0%"):
        assert cell in line


def asked(finished: Finished, *names: str) -> list[str]:
    (teacher,) = (finished.request.work / "stages").glob("teacher-*")
    flags = ["benchmark", "ladder", "--teacher", str(teacher), "--data", finished.request.data[0]]
    flags += ["--models", str(finished.request.repository), "--texts", "20", "--rounds", "1"]
    return [*flags, "--max-tokens", "16", "--versions", *names]


def test_the_whole_ladder(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ladder, "PADDED_TEXTS", 2)
    monkeypatch.setattr(ladder, "BERT_TOKENS", 64)
    with cheap_baseline():
        code = cli.main([*asked(finished, "whole", "small"), "--json", str(tmp_path / "ladder.json")])

    assert code == 0
    rungs = json.loads((tmp_path / "ladder.json").read_text())
    assert len(rungs) == 7
    assert all(rung["seconds"] > 0 for rung in rungs)
    assert [rung["accuracy"] is None for rung in rungs] == [True, True, *[False] * 5]
    assert rungs[2]["accuracy"] == rungs[3]["accuracy"], "the graph answers as the model it was made of"
    assert "small" in capsys.readouterr().out


def test_a_cascade_asks_the_next_tier_where_the_first_is_not_sure(finished: Finished, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(finished.request.repository, models)
    flags = ["--models", str(models), "--tier", "small", "--tier", "whole", "--name", "both"]
    assert cli.main(["cascade", *flags, "--data", finished.request.data[0], "--retention", "0.9"]) == 0
    manifest = artifact.read_any(models / "both" / "1")
    assert isinstance(manifest, CascadeManifest)
    sure = manifest.model_copy(
        update={"tiers": (manifest.tiers[0].model_copy(update={"threshold": 0.0}), manifest.tiers[1])}
    )
    never = manifest.model_copy(
        update={"tiers": (manifest.tiers[0].model_copy(update={"threshold": 1.0}), manifest.tiers[1])}
    )
    text = "the film was dull and the cast long"

    def alone(name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        folder = models / name / "1"
        return ladder._opened(folder, artifact.read(folder), 1, 1)(text)

    assert np.array_equal(ladder._cascade(models, sure, 1).answer(text), alone("small"))
    assert np.array_equal(ladder._cascade(models, never, 1).answer(text), alone("whole"))


def test_of_several_heads_the_first_one_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "BERT_TOKENS", 64)
    both, answers = two_headed(), {}
    for name, model in (("both", both), ("first", first_head_of(both))):
        classifier.save(model, tmp_path / name)
        wanted = Asked(tmp_path, tmp_path / name, "", (), 1, 1, 16)
        with cheap_baseline():
            for step in ladder.steps(wanted, 1, tmp_path):
                answers[name, step.name] = step.answer("the film was dull")
    for step_name in ("student, PyTorch fp32", "graph, ONNX Runtime fp32"):
        assert answers["both", step_name].shape == (2,)
        assert np.allclose(answers["both", step_name], answers["first", step_name], atol=1e-4)
