from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.errors import DataError, SettingsError
from loadtests.peers import corpus, labelling
from loadtests.peers.corpus import Corpus, Cut, agreed
from loadtests.peers.peer import ROOT, Launch, Setting
from tests.app.tiny import publish

CUTS = [Cut("sure", 3), Cut("undecided", 5), Cut("disputed", 7), Cut("sure too", 5)]


def test_only_texts_on_which_all_engines_are_sure_and_agree_are_kept() -> None:
    first = [("good", 0.9), ("good", 0.54), ("good", 0.9), ("bad", 0.9)]
    second = [("good", 0.9), ("good", 0.9), ("bad", 0.9), ("bad", 0.56)]

    assert agreed(CUTS, [first, second]) == Corpus(["sure", "sure too"], ["good", "bad"], 2, 4.0)


def test_engines_that_never_agree_are_not_one_model() -> None:
    with pytest.raises(DataError, match="agree on none of 1 texts"):
        agreed([Cut("text", 3)], [[("good", 0.9)], [("bad", 0.9)]])


def letters(text: str) -> list[int]:
    """A tokenizer of letters between two special tokens: where each token ends."""
    return [0, *range(1, len(text) + 1), 0]


@pytest.mark.parametrize(("most", "expected"), [(9, "abcdef"), (8, "abcdef"), (7, "abcde"), (3, "a")])
def test_a_text_is_cut_to_the_tokens_the_model_reads(most: int, expected: str) -> None:
    assert labelling.cut("abcdef", most, letters) == expected


def test_a_word_that_falls_into_more_pieces_once_it_is_cut_is_cut_again() -> None:
    """`film` is one token, and so is `fil`, but `fi` is two."""
    readings = {"a film": [0, 1, 6, 0], "a fil": [0, 1, 5, 0], "a": [0, 1, 0]}

    assert labelling.cut("a film", 3, readings.__getitem__) == "a"


def test_texts_are_labelled_by_every_build_and_cut_to_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BERTPRESS_DATA", raising=False)
    version = publish(
        tmp_path, max_tokens=16, builds={"one": {}, "two": {}, "elsewhere": {"needs": ("amx2",)}}
    )

    prepared = corpus.prepare(version, ["one"], 5, None)

    assert prepared.keys() == {"short", "long"}
    for part in prepared.values():
        assert len(part.texts) + part.left_out == 5
        assert set(part.labels) <= {"negative", "positive"}
        assert part.mean_tokens <= 16


def test_without_names_all_builds_that_can_run_here_are_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BERTPRESS_DATA", raising=False)
    builds = {"one": {}, "two": {}, "never": {"engine": "torchscript"}}
    version = publish(tmp_path, builds=builds)

    assert labelling.main([str(version), "--count", "3"]) == 0

    answer = json.loads(capsys.readouterr().out)
    assert {len(part["engines"]) for part in answer.values()} == {2}
    assert answer["short"]["engines"][0] == answer["short"]["engines"][1]


def test_a_version_that_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert labelling.main([str(tmp_path), "--count", "3"]) == 1
    assert capsys.readouterr().err.startswith("labelling: ")

    with pytest.raises(SettingsError, match=r"loadtests\.peers\.labelling failed: labelling: "):
        corpus.prepare(tmp_path, [], 3, None)


def test_what_a_peer_computes_is_what_our_engine_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier of the peers, one text at a time and in a padded batch, against `labelling`."""
    monkeypatch.delenv("BERTPRESS_DATA", raising=False)
    version = publish(tmp_path, max_tokens=16)
    labelled = labelling.label(version, 4, [], {"short": ["a great film", "bad", "boring movie", "good"]})
    texts = [text for text, _ in labelled["short"].cuts]
    order = Launch(Path(sys.executable), version, "", "model.onnx", 0, tmp_path, Setting(threads=1))
    script = (
        "import json, sys\nfrom loadtests.peers.servers.classifier import Order\n"
        "print(json.dumps(Order.read().classifier()(json.load(sys.stdin))))"
    )

    def ask(command: list[str], question: object) -> Any:
        finished = subprocess.run(
            [sys.executable, *command],
            input=json.dumps(question),
            env=order.environment(PATH=os.environ["PATH"]),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(finished.stdout)

    one_by_one = ask(["-m", "loadtests.peers.servers.bare"], {"short": texts})
    batch = ask(["-c", script], texts)

    (expected,) = labelled["short"].engines
    for answers in (one_by_one["short"], batch):
        assert [label for label, _ in answers] == [label for label, _ in expected]
        assert [score for _, score in answers] == pytest.approx([score for _, score in expected], abs=1e-5)
