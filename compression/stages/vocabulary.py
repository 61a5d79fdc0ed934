"""The stage that drops vocabulary rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from compression import classifier
from compression.pruning import vocabulary
from compression.stages.base import Context, Input, Stage
from compression.stages.reading import read_by

_REPORT_FILE = "vocabulary.json"


class VocabularyStage(Stage):
    """Keeps the pieces that the texts use most, and drops the others from the embedding and the tokenizer.

    `rows` is how many are kept or, below one, the share of all tokens that they must cover. Single
    characters always stay, so that a lost word is spelled by smaller pieces; `characters = "seen"` keeps
    only those that occur in the texts, and a word with another one is unknown. Training and unlabelled
    texts are counted, every data set with the same weight. The stage's folder has a vocabulary.json that
    states what was kept.
    """

    changes_tokenizer: ClassVar[bool] = True

    kind: Literal["vocabulary"]
    rows: Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(gt=0, lt=1)]
    characters: Literal["all", "seen"] = "all"

    def run(self, inputs: Sequence[Input], context: Context, folder: Path) -> None:
        """Count, choose, and write the smaller model."""
        model = classifier.load(str(inputs[0].folder))
        own = read_by(model, context)
        size = int(model.model.config.vocab_size)
        each = {
            part.name: vocabulary.piece_counts(
                [part.train, *([] if part.unlabelled is None else [part.unlabelled])], size
            )
            for part in own.all_corpora
        }
        shares = vocabulary.evenly_weighted(list(each.values()))
        ranking, needed = vocabulary.ranked(
            vocabulary.document_of(model.tokenizer),
            shares,
            self.characters,
            vocabulary.configured_ids(model.model),
        )
        kept = vocabulary.choose(ranking, needed, shares, self.rows)
        smaller = vocabulary.keep_rows(model, kept)
        coverage = {name: round(vocabulary.coverage(counts, kept), 5) for name, counts in each.items()}
        told = {"rows": len(kept), "of": size, "never_dropped": needed, "token_coverage": coverage}
        (folder / _REPORT_FILE).write_text(json.dumps(told, indent=2), encoding="utf-8")
        classifier.save(smaller, folder)
