"""Sentences in pairs that differ in the edit which turns their opinion round.

Reviews and phrases hold few sentences in which one word or its place decides. These do: negated, contrasted
and sarcastic ones, of films, products, restaurants, journeys and books. Added to the training data they teach
a teacher what its labels mean where words alone mislead. Some were written one by one, which gives variety;
templates give as many more as are asked for.
Source: Kaushik, Hovy, Lipton 2020, Learning the Difference that Makes a Difference with
Counterfactually-Augmented Data; Ribeiro et al. 2020, Beyond Accuracy: CheckList (templates).
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from app.errors import DataError
from compression import pairs
from compression.pairs import Pair

# Of so many pairs one is kept for validation.
_VALIDATION_EVERY = 10
_SLOT = re.compile(r"\{(\w+)\}")
# Of the words of a sentence and of one that models are judged on.
_MOST_SHARED = 0.7
# New sentences are drawn this many times before the templates are called exhausted.
_DRAWS_PER_PAIR = 50


@dataclass(frozen=True)
class Templates:
    """Pairs of sentences with slots, by kind, and what fills the slots, by domain."""

    patterns: Mapping[str, Sequence[tuple[str, str]]]
    general: Mapping[str, Sequence[str]]
    domains: Mapping[str, Mapping[str, Sequence[str]]]


def templates() -> Templates:
    """Those that come with bertpress."""
    text = (resources.files("compression") / "contrast_data" / "templates.toml").read_text("utf-8")
    read = tomllib.loads(text)
    patterns = {part["kind"]: [(good, bad) for good, bad in part["pairs"]] for part in read["patterns"]}
    return Templates(patterns, read["general"], read["domains"])


def collected() -> list[Pair]:
    """The pairs that were written one by one."""
    text = (resources.files("compression") / "contrast_data" / "collected.jsonl").read_text("utf-8")
    return [Pair(f"collected-{number}", **json.loads(line)) for number, line in enumerate(text.splitlines())]


def filled(count: int, seed: int = 0, source: Templates | None = None) -> list[Pair]:
    """So many different pairs from templates, every kind and domain alike often; the same for the same seed.

    No side of any of them is like a sentence of `compression.pairs`, on which models are judged: of the words
    of both, seven tenths at most are shared.

    Raises:
        DataError: the templates do not yield so many different pairs.
    """
    source = source or templates()
    chance = random.Random(seed)
    judged = [_words(side) for pair in pairs.load() for side in (pair.positive, pair.negative)]
    found: list[Pair] = []
    seen: set[str] = set()
    kinds, domains = list(source.patterns), list(source.domains)
    for draw in range(count * _DRAWS_PER_PAIR):
        if len(found) == count:
            return found
        kind, domain = kinds[draw % len(kinds)], domains[draw // len(kinds) % len(domains)]
        positive, negative = _pair(
            chance.choice(source.patterns[kind]), _fillings(source, source.domains[domain], chance)
        )
        sides = {_plain(positive), _plain(negative)}
        if len(sides) == 2 and not sides & seen and not any(_is_like(side, judged) for side in sides):
            seen |= sides
            found.append(Pair(f"{kind}-{domain}-{len(found)}", kind, positive, negative))
    raise DataError(
        f"the templates yield {len(found):,} different pairs and {count:,} were asked for; ask for fewer"
    )


def write(folder: Path, chosen: Sequence[Pair]) -> dict[str, int]:
    """The pairs as a data set: `train.jsonl` and `validation.jsonl`; rows of each.

    Raises:
        DataError: the folder holds something, or there are too few pairs to hold one out.
    """
    if len(chosen) < _VALIDATION_EVERY:
        raise DataError(f"{len(chosen)} pairs: at least {_VALIDATION_EVERY}, of which one is for validation")
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for index, pair in enumerate(chosen):
        rows = parts["validation" if index % _VALIDATION_EVERY == _VALIDATION_EVERY - 1 else "train"]
        about = asdict(pair)
        rows += [
            {"pair": about["id"], "category": about["category"], "text": about[side], "label": side}
            for side in ("positive", "negative")
        ]
    for name, rows in parts.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return {name: len(rows) for name, rows in parts.items()}


def _fillings(
    source: Templates, domain: Mapping[str, Sequence[str]], chance: random.Random
) -> dict[str, str]:
    """One word for each slot, the second ones others than the first."""
    filled: dict[str, str] = {}
    filled["thing"] = chance.choice(domain["things"])
    filled["aspect"], filled["aspect2"] = chance.sample(domain["aspects"], 2)
    for side in ("good", "bad"):
        # Words of the domain as often as general ones, which are more.
        words = [chance.choice(domain[side]), chance.choice(source.general[side])]
        chance.shuffle(words)
        filled[side], filled[f"{side}2"] = words if words[0] != words[1] else (words[0], "very " + words[1])
    for first, second, slots in (
        ("loved", "hated", source.general),
        ("praise", "blame", source.general),
        ("works", "fails", domain),
    ):
        index = chance.randrange(min(len(slots[first]), len(slots[second])))
        filled[first], filled[second] = slots[first][index], slots[second][index]
    return filled


def _pair(template: tuple[str, str], filled: Mapping[str, str]) -> tuple[str, str]:
    positive, negative = (_sentence(_SLOT.sub(lambda slot: filled[slot[1]], side)) for side in template)
    return positive, negative


def _sentence(text: str) -> str:
    """With the article that the next word asks for and capitals where sentences begin."""
    text = re.sub(r"\b([Aa]) (?=[aeio]|u(?!s[aei]|ni(?!n|m)))", r"\1n ", text)
    text = re.sub(r"\bi\b", "I", text)
    return re.sub(r"(^|[.?!] )([a-z])", lambda match: match[1] + match[2].upper(), text)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def _words(text: str) -> frozenset[str]:
    return frozenset(_plain(text).split())


def _is_like(text: str, others: Sequence[frozenset[str]]) -> bool:
    words = _words(text)
    return any(len(words & other) > _MOST_SHARED * len(words | other) for other in others)
