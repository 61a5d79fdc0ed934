"""Texts cut to the model's length and the labels that bare engines give: one JSON object on standard output.

`python -m loadtests.peers.labelling VERSION_FOLDER --count N [--builds NAME ...]`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
from tokenizers import Tokenizer

from app import artifact
from app.artifact import Manifest
from app.builds import refusal
from app.engines import Engine, available_engines, load_engine
from app.errors import BertpressError
from app.hardware import detect
from loadtests import texts

SEED = 0
THREADS = 2


@dataclass(frozen=True)
class Labelled:
    """Texts with their length in tokens, and for each engine the label and score of every text."""

    cuts: list[tuple[str, int]]
    engines: list[list[tuple[str, float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is known of short and of long texts."""
    options = _parser().parse_args(arguments)
    try:
        labelled = label(options.model, options.count, options.builds, texts.sentences_and_reviews())
    except BertpressError as error:
        print(f"labelling: {error}", file=sys.stderr)
        return 1
    print(json.dumps({length: asdict(part) for length, part in labelled.items()}))
    return 0


def label(
    folder: Path, count: int, builds: Sequence[str], candidates: dict[str, list[str]]
) -> dict[str, Labelled]:
    """Cut and label a sample of the candidates, with the named builds or all that can run here."""
    manifest = artifact.read(folder)
    tokenizer = Tokenizer.from_file(str(folder / artifact.TOKENIZER_FILE))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    engines = _engines(folder, manifest, builds)
    labelled = {}
    for length, all_texts in candidates.items():
        sample = Random(SEED).sample(all_texts, min(count, len(all_texts)))
        whole = [
            cut(text, manifest.tokenizer.max_tokens, lambda text: ends(tokenizer, text)) for text in sample
        ]
        rows = [tokenizer.encode(text).ids for text in whole]
        labelled[length] = Labelled(
            cuts=[(text, len(row)) for text, row in zip(whole, rows, strict=True)],
            engines=[[predict(engine, row, manifest.labels) for row in rows] for engine in engines],
        )
    return labelled


def cut(text: str, most_tokens: int, ends: Callable[[str], list[int]]) -> str:
    """The longest beginning of a text that is read as at most `most_tokens` tokens, special ones included.

    `ends` gives for each token of a text the character where it ends, special ones included.
    """
    positions = ends(text)
    while len(positions) > most_tokens:
        # A word cut in two may be read as more pieces than before: then it is cut again.
        most_tokens_of_text = most_tokens - 2
        text = text[: positions[most_tokens_of_text]]
        positions = ends(text)
    return text


def ends(tokenizer: Tokenizer, text: str) -> list[int]:
    """The character at which each token ends."""
    return [end for _, end in tokenizer.encode(text).offsets]


def predict(engine: Engine, row: Sequence[int], labels: Sequence[str]) -> tuple[str, float]:
    """The label of one unpadded text, and its probability."""
    input_ids = np.asarray([row], dtype=np.int64)
    logits = engine.logits(input_ids, np.ones_like(input_ids))[0, : len(labels)]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = int(probabilities.argmax())
    return labels[best], float(probabilities[best])


def _engines(folder: Path, manifest: Manifest, names: Sequence[str]) -> list[Engine]:
    features, installed = detect().features, available_engines()
    chosen = [
        build
        for build in manifest.builds
        if (build.name in names if names else refusal(build, features, installed, False) is None)
    ]
    return [load_engine(build.engine, folder / build.file, THREADS) for build in chosen]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.peers.labelling", description=__doc__)
    parser.add_argument("model", type=Path, help="a version's folder")
    parser.add_argument("--count", type=int, required=True, help="at most so many texts of either length")
    parser.add_argument("--builds", nargs="*", default=[], help="all that can run here when absent")
    return parser


if __name__ == "__main__":
    sys.exit(main())
