"""Pairs of sentences, each minimally edited to the opposite sentiment: what counting words cannot answer.

Both sides of a pair share almost all of their words, so a model that only weighs words gets few pairs right,
however well it does on long reviews. A pair counts when both of its sides are right; guessing gets a quarter.
The pairs are our own, `evaluation_data/pairs.jsonl`; nothing may be trained or chosen on them.
Source: Kaushik, Hovy, Lipton 2020, Learning the Difference that Makes a Difference (counterfactual edits);
Gardner et al. 2020, Evaluating Models' Local Decision Boundaries via Contrast Sets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from app.errors import DataError
from compression import data, ngram
from compression.benchmark import published_folders
from compression.cascade.answering import open_served
from compression.data import DataSettings
from compression.evaluation import accuracy_interval

OVERALL = "all"
_WIDTH = 170
# Texts to whether each is positive.
Answer = Callable[[Sequence[str]], Sequence[bool]]


@dataclass(frozen=True)
class Pair:
    """A sentence and its edit to the opposite label."""

    id: str
    category: str
    positive: str
    negative: str


@dataclass(frozen=True)
class PairScore:
    """Share of pairs with both sides right, with its interval, and of single sentences that are right: all of
    them, the positive ones, the negative ones."""

    category: str
    pairs: int
    accuracy: float
    interval_95: tuple[float, float]
    sentence_accuracy: float
    positive_accuracy: float
    negative_accuracy: float


def load(path: Path | None = None) -> tuple[Pair, ...]:
    """The pairs that come with bertpress, or those of another file of the same form.

    Raises:
        DataError: a line that is not a pair, or an id that stands twice.
    """
    if path is None:
        text = (resources.files("compression") / "evaluation_data" / "pairs.jsonl").read_text("utf-8")
    else:
        text = path.read_text(encoding="utf-8")
    pairs = tuple(_pair(line, number) for number, line in enumerate(text.splitlines(), start=1))
    if len({pair.id for pair in pairs}) != len(pairs):
        raise DataError("two pairs have the same id")
    return pairs


def score(answer: Answer, pairs: Sequence[Pair]) -> list[PairScore]:
    """Scores of each category in the order of the file, and of all pairs together at the end."""
    positive = np.asarray(answer([pair.positive for pair in pairs]), dtype=bool)
    negative = ~np.asarray(answer([pair.negative for pair in pairs]), dtype=bool)
    categories = np.asarray([pair.category for pair in pairs])
    chosen = [(name, categories == name) for name in dict.fromkeys(categories.tolist())]
    chosen.append((OVERALL, np.ones(len(pairs), dtype=bool)))
    return [_score(name, positive[rows], negative[rows]) for name, rows in chosen]


def positive_label(labels: Sequence[str]) -> int:
    """Which logit speaks for the positive side.

    Raises:
        DataError: the labels are not those of two sentiments.
    """
    names = [label.lower() for label in labels]
    if len(names) == 2:
        for index, name in enumerate(names):
            if name.startswith("pos") and names[1 - index].startswith("neg"):
                return index
    raise DataError(f"pairs are positive and negative; the model's labels are {', '.join(labels)}")


def published(folder: Path) -> Answer:
    """A published version or cascade as it is served, one text at a time.

    Raises:
        DataError: its labels are not those of two sentiments.
        CompressionError: none of its builds runs here.
    """
    served = open_served(folder)
    wanted = positive_label(served.manifest.labels)
    return lambda texts: [bool(served.probabilities(text).argmax() == wanted) for text in texts]


def main(models: Path, source: str | None, json_file: Path | None) -> int:
    """Score the latest version of everything published, and the linear model where there are data for it."""
    chosen = load()
    answers: dict[str, Answer] = {} if source is None else {"linear n-gram model": _linear(source)}
    for folder in published_folders(models):
        answers[f"{folder.parent.name}/{folder.name}"] = published(folder)
    scores = {name: score(answer, chosen) for name, answer in answers.items()}
    show(scores, Console(width=_WIDTH))
    if json_file is not None:
        listed = {name: [asdict(score) for score in found] for name, found in scores.items()}
        json_file.write_text(json.dumps(listed, indent=2), encoding="utf-8")
    return 0


def show(scores: dict[str, list[PairScore]], console: Console) -> None:
    """One row for each model, one column for each category."""
    categories = [score.category for score in next(iter(scores.values()))]
    table = Table(title="pairs with both sides right")
    for column in ("model", *categories, "95 % interval", "sentences", "positive", "negative"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, found in scores.items():
        overall = found[-1]
        low, high = overall.interval_95
        cells = [f"{score.accuracy:.1%}" for score in found] + [f"{low:.1%} to {high:.1%}"]
        sides = (overall.sentence_accuracy, overall.positive_accuracy, overall.negative_accuracy)
        table.add_row(name, *cells, *(f"{share:.1%}" for share in sides))
    console.print(table)


def _linear(source: str) -> Answer:
    dataset = data.load(source, DataSettings())
    wanted = positive_label(dataset.label_names)
    model = ngram.fit(dataset.train.texts, dataset.train.labels or ())
    return lambda texts: [bool(found == wanted) for found in model.predict(texts)]


def _pair(line: str, number: int) -> Pair:
    try:
        return Pair(**json.loads(line))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"line {number} is not a pair (id, category, positive, negative): {str(error)[:100]}"
        ) from error


def _score(category: str, positive: npt.NDArray[np.bool_], negative: npt.NDArray[np.bool_]) -> PairScore:
    right = float((positive & negative).mean())
    sides = float(positive.mean()), float(negative.mean())
    return PairScore(
        category, len(positive), right, accuracy_interval(right, len(positive)), sum(sides) / 2, *sides
    )
