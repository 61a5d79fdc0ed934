"""The texts of a benchmark, and the label each of them must get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import DataError, SettingsError
from loadtests.peers.peer import ROOT, Launch
from loadtests.peers.servers.classifier import Prediction

# Nearer to the boundary than this, another version of a runtime may see it the other way.
LEAST_SCORE = 0.55


@dataclass(frozen=True)
class Corpus:
    """Texts, and the label on which all engines of a table agree.

    `left_out` counts the texts on which an engine was undecided or disagreed with another.
    """

    texts: list[str]
    labels: list[str]
    left_out: int
    mean_tokens: float


@dataclass(frozen=True)
class Cut:
    """A text, cut to what the model reads, and its length in tokens."""

    text: str
    tokens: int


def agreed(cuts: Sequence[Cut], engines: Sequence[Sequence[Prediction]]) -> Corpus:
    """Keep the texts to which every engine gives the same label with at least LEAST_SCORE.

    Raises:
        DataError: none is left.
    """
    kept = [
        (cut, answers[0][0])
        for cut, *answers in zip(cuts, *engines, strict=True)
        if len({label for label, _ in answers}) == 1 and min(score for _, score in answers) >= LEAST_SCORE
    ]
    if not kept:
        raise DataError(f"the engines agree on none of {len(cuts)} texts; is the same model behind all?")
    return Corpus(
        texts=[cut.text for cut, _ in kept],
        labels=[label for _, label in kept],
        left_out=len(cuts) - len(kept),
        mean_tokens=sum(cut.tokens for cut, _ in kept) / len(kept),
    )


def prepare(model: Path, builds: Sequence[str], count: int, floating: Launch | None) -> dict[str, Corpus]:
    """At most `count` short and long texts each, with the label that all of the engines give.

    The engines are the named builds of a version and, where given, the float model of `floating`, run in
    that peer's environment. All of it happens in other processes: an engine in this one would share memory
    with our service, and make it look smaller than the others.

    Raises:
        SettingsError: an engine could not be run; with its words.
    """
    flags = [str(model), "--count", str(count), "--builds", *builds]
    prepared = _ask([sys.executable, "-m", "loadtests.peers.labelling", *flags], None, os.environ)
    answers = {length: part["engines"] for length, part in prepared.items()}
    if floating is not None:
        texts = {length: [text for text, _ in part["cuts"]] for length, part in prepared.items()}
        command = [str(floating.python), "-m", "loadtests.peers.servers.bare"]
        for length, predictions in _ask(command, texts, floating.environment()).items():
            answers[length].append(predictions)
    return {
        length: agreed([Cut(text, tokens) for text, tokens in part["cuts"]], answers[length])
        for length, part in prepared.items()
    }


def _ask(command: list[str], question: object, environment: Mapping[str, str]) -> dict[str, Any]:
    finished = subprocess.run(
        command,
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=dict(environment),
    )
    if finished.returncode != 0:
        raise SettingsError(f"{' '.join(command[:3])} failed: {finished.stderr.strip()[-600:]}")
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer
