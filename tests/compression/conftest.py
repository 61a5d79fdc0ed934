"""A tiny random BERT, a tokenizer for it, and a few hundred made-up reviews: all a test of the suite needs."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from compression.classifier import Classifier, save

_GOOD = ("wonderful", "moving", "brilliant", "funny", "gripping")
_BAD = ("dull", "awful", "boring", "clumsy", "pointless")
_THINGS = ("film", "story", "cast", "ending", "music", "script", "plot", "hero")
_OPENINGS = ("i found the", "to me the", "everyone said the", "after an hour the", "at last a")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def made_up_reviews() -> list[tuple[str, int]]:
    """Short texts with the label of their one telling word, shuffled."""
    words = [(word, 1) for word in _GOOD] + [(word, 0) for word in _BAD]
    reviews = [
        (f"{opening} {thing} {word} and the {other} long", label)
        for opening, thing, other, (word, label) in itertools.product(_OPENINGS, _THINGS, _THINGS[:4], words)
    ]
    random.Random(0).shuffle(reviews)
    return reviews


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words of the made-up reviews, in BERT's form."""
    words = sorted({word for text, _ in made_up_reviews() for word in text.split()})
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def tiny_model(family: str = "bert", layers: int = 3) -> PreTrainedModel:
    """A random classifier of the family with hidden size 32 and four heads."""
    torch.manual_seed(0)
    # A vocabulary larger than the positions: the graph optimizer tells the tables apart by their size.
    names = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    if family == "distilbert":
        return DistilBertForSequenceClassification(
            DistilBertConfig(
                vocab_size=160, dim=32, n_layers=layers, n_heads=4, hidden_dim=128, max_position_embeddings=64, **names
            )
        )
    config, model = {
        "bert": (BertConfig, BertForSequenceClassification),
        "roberta": (RobertaConfig, RobertaForSequenceClassification),
    }[family]
    return model(
        config(
            vocab_size=160,
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
            pad_token_id=0,
            **names,
        )
    )


@pytest.fixture
def tiny() -> Classifier:
    """A tiny random BERT classifier."""
    return Classifier(tiny_model(), tiny_tokenizer())


@pytest.fixture
def teacher_folder(tiny: Classifier, tmp_path: Path) -> Path:
    """The tiny classifier as a user would have saved it."""
    folder = tmp_path / "teacher"
    save(tiny, folder)
    return folder


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """The made-up reviews as JSON lines: train, test and unsupervised."""
    folder = tmp_path / "reviews"
    folder.mkdir()
    reviews = made_up_reviews()
    parts = {"train": reviews[:480], "test": reviews[480:640], "unsupervised": reviews[640:800]}
    for name, rows in parts.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
