"""Vocabulary rows: the pieces that the texts use stay, and the rest leaves embedding and tokenizer together.

A word whose piece is lost falls back to smaller pieces, so that rows become a little longer and nothing
becomes unreadable. A compressed model of a few layers is mostly its embedding table: 30,522 rows of 384 are
11.7 MB in int8.
Source: Abdaoui, Pradel, Sigel 2020, Load What You Need: Smaller Versions of Multilingual BERT.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from app.artifact import TOKENIZER_FILE
from app.errors import RecipeError, UnsupportedModelError
from compression.classifier import Classifier
from compression.corpus import Corpus
from compression.pruning import tokenizer_file
from compression.pruning.tokenizer_file import Document

# How often each id stands in texts: a number, or a share of all tokens.
Counts = npt.NDArray[np.int64] | npt.NDArray[np.float64]

# Written by transformers beside tokenizer.json, with the old ids.
_STALE_FILES = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")


def piece_counts(corpora: Iterable[Corpus], vocabulary: int) -> npt.NDArray[np.int64]:
    """How often each id stands in the texts, whole and untruncated. Shape: (vocabulary,)."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for corpus in corpora:
        ids = corpus.ids[corpus.offsets[0] : corpus.offsets[-1]]
        counts += np.bincount(ids, minlength=vocabulary)[:vocabulary]
    return counts


def evenly_weighted(counts: Sequence[Counts]) -> npt.NDArray[np.float64]:
    """Shares of all tokens when every data set counts the same, however large. Shape: (vocabulary,)."""
    return np.asarray(np.mean([each / each.sum() for each in counts], axis=0))


def ranked(
    document: Document, counts: Counts, characters: Literal["all", "seen"] = "all", also: Iterable[int] = ()
) -> tuple[list[int], int]:
    """All ids, the least dispensable first, and how many of them cannot be dropped.

    First come special tokens and single characters (`seen`: those of pieces that occur in the texts), then
    pieces by frequency, each behind those it is merged from: any longer beginning is a working vocabulary.
    """
    seen = tokenizer_file.characters(document, np.flatnonzero(counts).tolist())
    wanted = None if characters == "all" else seen | {chr(code) for code in range(33, 127)}
    order = dict.fromkeys(sorted(tokenizer_file.special_ids(document) | set(also)))
    order |= dict.fromkeys(sorted(tokenizer_file.character_ids(document, wanted)))
    needed, made_of = len(order), tokenizer_file.components(document)
    known = sorted(tokenizer_file.vocabulary(document).values(), key=lambda index: -float(counts[index]))
    for index in known:
        for part in _with_components(index, made_of):
            order.setdefault(part)
    return list(order), needed


def choose(ranking: Sequence[int], needed: int, counts: Counts, rows: int | float) -> list[int]:
    """The ids to keep, ascending: so many `rows`, or, below one, enough for that share of all tokens.

    Raises:
        RecipeError: fewer rows than text needs to stay readable, or as many as there are.
    """
    if isinstance(rows, float):
        covered = np.cumsum(counts[list(ranking)]) / counts.sum()
        rows = max(needed, int(np.searchsorted(covered, rows) + 1))
    if rows < needed:
        raise RecipeError(
            f"{rows} vocabulary rows asked for; special tokens and single characters alone are {needed}"
        )
    if rows >= len(counts):
        raise RecipeError(f"{rows} vocabulary rows asked for; the model has {len(counts)}, none would go")
    return sorted(ranking[:rows])


def coverage(counts: Counts, kept: Sequence[int]) -> float:
    """Share of all tokens that are pieces which stay."""
    return float(counts[list(kept)].sum() / counts.sum())


def keep_rows(classifier: Classifier, kept: Sequence[int]) -> Classifier:
    """A copy with the kept rows of the embedding alone, and a tokenizer that knows no others.

    Raises:
        UnsupportedModelError: the tokenizer is neither WordPiece nor BPE, or RoBERTa's padding id would
            change, by which it counts positions.
    """
    smaller = tokenizer_file.keep(document_of(classifier.tokenizer), kept)
    new_id = tokenizer_file.renumbered(kept)
    model = copy.deepcopy(classifier.model)
    if model.config.model_type == "roberta" and new_id[classifier.pad_token_id] != classifier.pad_token_id:
        raise UnsupportedModelError(
            "RoBERTa counts positions from its padding id, which must not change; "
            f"a piece before id {classifier.pad_token_id} would be dropped"
        )
    _keep_embeddings(model, sorted(kept))
    for name in _special_settings(model):
        setattr(model.config, name, new_id[getattr(model.config, name)])
    return Classifier(model, _rebuilt(classifier.tokenizer, smaller, new_id))


def configured_ids(model: PreTrainedModel) -> set[int]:
    """Ids that the configuration names, padding among them."""
    return {getattr(model.config, name) for name in _special_settings(model)}


def document_of(tokenizer: PreTrainedTokenizerBase) -> Document:
    """The tokenizer as its file has it."""
    return cast(Document, json.loads(tokenizer.backend_tokenizer.to_str()))


@torch.no_grad()
def _keep_embeddings(model: PreTrainedModel, kept: Sequence[int]) -> None:
    table = cast(nn.Embedding, model.get_input_embeddings())
    padding = None if table.padding_idx is None else list(kept).index(table.padding_idx)
    smaller = nn.Embedding(len(kept), table.embedding_dim, padding_idx=padding).to(table.weight)
    smaller.weight.copy_(table.weight[list(kept)])
    model.set_input_embeddings(smaller)
    model.config.vocab_size = len(kept)


def _with_components(index: int, made_of: Mapping[int, tuple[int, int]]) -> Iterator[int]:
    """A piece behind everything it is merged from."""
    for part in made_of.get(index, ()):
        yield from _with_components(part, made_of)
    yield index


def _special_settings(model: PreTrainedModel) -> list[str]:
    settings = model.config.to_dict()
    return [name for name, value in settings.items() if name.endswith("_token_id") and isinstance(value, int)]


def _rebuilt(
    tokenizer: PreTrainedTokenizerBase, document: Document, new_id: dict[int, int]
) -> PreTrainedTokenizerBase:
    """A tokenizer of the same class and settings around another tokenizer.json."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer.save_pretrained(folder)
        for name in _STALE_FILES:
            (folder / name).unlink(missing_ok=True)
        (folder / TOKENIZER_FILE).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        settings_file = folder / "tokenizer_config.json"
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        if "added_tokens_decoder" in settings:  # transformers 4 repeats the added tokens here
            decoder = settings["added_tokens_decoder"]
            settings["added_tokens_decoder"] = {
                str(new_id[int(old)]): token for old, token in decoder.items()
            }
            settings_file.write_text(json.dumps(settings), encoding="utf-8")
        rebuilt: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    rebuilt.backend_tokenizer.no_truncation()
    rebuilt.backend_tokenizer.no_padding()
    return rebuilt
