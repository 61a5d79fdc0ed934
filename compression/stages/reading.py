"""The data of a run as one model reads them.

A model whose vocabulary was pruned has a tokenizer of its own, so the same texts are other ids to it than to
its teacher. Rows keep their numbers: what a teacher said of row 7 is about the same text.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from app import artifact
from app.artifact import TokenizerSettings
from compression import corpus
from compression.classifier import Classifier
from compression.corpus import Corpus
from compression.data import Dataset, Split
from compression.locks import exclusive
from compression.ngrams.student import is_ngrams
from compression.stages.base import Context, Corpora


def read_by(model: Classifier, context: Context) -> Context:
    """The same context with everything tokenized by this model's own tokenizer."""
    text = _text_of(model, context.text)
    corpora = tuple(corpora_of(dataset, model, text, context.work) for dataset in context.datasets)
    return replace(context, all_corpora=corpora, text=text)


def _text_of(model: Classifier, text: TokenizerSettings) -> TokenizerSettings:
    """How much of a text it reads: what the recipe says; a model without layers what it was made for."""
    if not is_ngrams(model.model.config):
        return text.model_copy(update={"pad_token_id": model.pad_token_id})
    longest = model.longest_input
    return TokenizerSettings(
        max_tokens=longest, truncation="head", head_tokens=longest - 1, pad_token_id=model.pad_token_id
    )


def corpora_of(dataset: Dataset, model: Classifier, text: TokenizerSettings, work: Path) -> Corpora:
    """All parts of a data set as token ids, from the cache where they were tokenized before."""
    vocabulary = hashlib.sha256(model.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    folder, cache = work / "tokenizers" / vocabulary[:12], work / "tokens"
    file = folder / artifact.TOKENIZER_FILE
    with exclusive(folder.with_suffix(".lock")):
        if not file.is_file():
            _save_tokenizer(model, folder)

    def tokenized(split: Split) -> Corpus:
        return corpus.build(split, file, text, cache, dataset.name)

    return Corpora(
        name=dataset.name,
        train=tokenized(dataset.train),
        validation=tokenized(dataset.validation),
        test=None if dataset.test is None else tokenized(dataset.test),
        unlabelled=None if dataset.unlabelled is None else tokenized(dataset.unlabelled),
    )


def _save_tokenizer(model: Classifier, folder: Path) -> None:
    """Where the folder stands it is whole: another process may be reading it."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    model.tokenizer.save_pretrained(partial)
    partial.rename(folder)
