"""A file of texts without labels: variants of what a run may learn from, and the data's own unlabelled texts.

A run reads one file of unlabelled texts, in place of those that the data bring: so both are in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import DataError
from compression import augmentation, classifier
from compression.data import DataSettings, load_all


@dataclass(frozen=True)
class Written:
    """What a file holds: variants, of how many texts, and unlabelled texts as they were."""

    variants: int
    varied: int
    unlabelled: int


def write(
    file: Path,
    model: str,
    sources: Sequence[str],
    settings: DataSettings,
    unlabelled: str | None = None,
    *,
    copies: int,
    joined: float,
    longest: int,
    seed: int,
) -> Written:
    """Vary the training texts of at most `longest` words; what is held out is read only to be left alone.

    Raises:
        DataError: the file exists, the data cannot be used, or none of their texts is short enough.
        UnsupportedModelError: the model's word table has no neighbours.
    """
    if file.exists():
        raise DataError(f"{file} exists; name a new file")
    datasets = load_all(sources, settings, unlabelled)
    chosen = [text for dataset in datasets for text in dataset.train.texts if len(text.split()) <= longest]
    if not chosen:
        raise DataError(f"no training text has at most {longest} words; raise --longest")
    held_out = {
        text
        for dataset in datasets
        for split in (dataset.validation, dataset.test)
        if split is not None
        for text in split.texts
    }
    # Backbone or classifier: only its word table is looked at.
    pretrained = classifier.load(model, heads=datasets[0].heads, any_family=True)
    near = augmentation.neighbours(pretrained.model, pretrained.tokenizer)
    variants = [
        text
        for text in augmentation.varied(chosen, near, copies, joined=joined, seed=seed)
        if text not in held_out
    ]
    own = [
        text for dataset in datasets if dataset.unlabelled is not None for text in dataset.unlabelled.texts
    ]
    lines = "".join(
        json.dumps({settings.text_column: text}, ensure_ascii=False) + "\n" for text in (*variants, *own)
    )
    file.write_text(lines, encoding="utf-8")
    return Written(len(variants), len(chosen), len(own))
