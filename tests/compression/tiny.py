"""Tiny random classifiers of the three families, a tokenizer for them, and made-up reviews."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
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

from app.artifact import Head, TokenizerSettings
from compression.batches import Batch, Rows
from compression.classifier import Classifier
from compression.corpus import Corpus, build
from compression.data import Split
from compression.heads import describe
from compression.pruning.structured import Kept, remove
from compression.training import TrainingSettings

FAMILIES = ("bert", "roberta", "distilbert")
LABELS = ("negative", "positive")
GOOD = ("wonderful", "moving", "brilliant", "funny", "gripping")
BAD = ("dull", "awful", "boring", "clumsy", "pointless")
_THINGS = ("film", "story", "cast", "ending", "music", "script", "plot", "hero")
_OPENINGS = ("i found the", "to me the", "everyone said the", "after an hour the", "at last a")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Three layers of four heads and 128 neurons each, left uneven; what is kept is not what stands first.
UNEVEN = Kept(
    heads=[[1], [0, 2, 3], [1, 3]],
    neurons=[list(range(0, 128, 4)), list(range(5, 101)), list(range(64, 128))],
)


def made_up_reviews() -> list[tuple[str, int]]:
    """1,600 different short texts with the label of their one telling word, shuffled."""
    words = [(word, 1) for word in GOOD] + [(word, 0) for word in BAD]
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


def tiny_model(
    family: str = "bert",
    layers: int = 3,
    labels: Sequence[str] = LABELS,
    seed: int = 0,
    hidden_size: int = 32,
) -> PreTrainedModel:
    """A random classifier of the family with four heads, in eval mode."""
    torch.manual_seed(seed)
    # A vocabulary larger than the positions: the graph optimizer tells the tables apart by their size.
    shared: dict[str, Any] = {
        "vocab_size": 160,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "attn_implementation": "eager",
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    bert_like: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    model: PreTrainedModel
    if family == "distilbert":
        config = DistilBertConfig(dim=hidden_size, n_layers=layers, n_heads=4, hidden_dim=128, **shared)
        model = DistilBertForSequenceClassification(config)
    elif family == "roberta":
        model = RobertaForSequenceClassification(RobertaConfig(**bert_like, **shared))
    else:
        model = BertForSequenceClassification(BertConfig(**bert_like, **shared))
    loud(model)
    model.train(False)
    return model


def loud(model: PreTrainedModel) -> None:
    """Larger weights and biases that are not zero: a part that is lost must show in the logits."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name and "layer_norm" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def tiny_classifier(family: str = "bert", layers: int = 3, labels: Sequence[str] = LABELS) -> Classifier:
    """A tiny model with the tokenizer of the made-up reviews."""
    return Classifier(tiny_model(family, layers, labels), tiny_tokenizer())


def two_headed() -> Classifier:
    """A tiny model with a second head whose logits are far above the first one's."""
    made = tiny_classifier(labels=("negative", "positive", "1", "2", "3"))
    heads = (Head(name="label", labels=LABELS), Head(name="rating", labels=("1", "2", "3")))
    describe(made.model.config, heads)
    with torch.no_grad():
        made.model.get_parameter("classifier.bias")[2:] += 1000.0
    return made


def first_head_of(both: Classifier) -> Classifier:
    """The same model with its first head alone."""
    made = tiny_classifier()
    weights = both.model.state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][: len(LABELS)]
    made.model.load_state_dict(weights)
    return made


def uneven_classifier(family: str = "bert") -> Classifier:
    """A tiny model pruned to another shape in every layer."""
    classifier = tiny_classifier(family)
    remove(classifier.model, UNEVEN)
    return classifier


def text_settings(max_tokens: int = 16) -> TokenizerSettings:
    return TokenizerSettings(
        max_tokens=max_tokens, truncation="head", head_tokens=max_tokens - 1, pad_token_id=0
    )


def corpus_of(reviews: Sequence[tuple[str, int]], folder: Path, labelled: bool = True) -> Corpus:
    """Made-up reviews as token ids; the cache lies in `folder`."""
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    texts, labels = zip(*reviews, strict=True)
    split = Split(tuple(texts), tuple(labels) if labelled else None)
    return build(split, folder / "tokenizer" / "tokenizer.json", text_settings(), folder / "tokens")


def rows_of(count: int, folder: Path, start: int = 0) -> Rows:
    """So many made-up reviews as training rows."""
    return Rows(corpus_of(made_up_reviews()[start : start + count], folder))


def training(**overrides: Any) -> TrainingSettings:
    """Quick settings: fp32, no dropout, one epoch of 16 rows a step."""
    plain: dict[str, Any] = {
        "epochs": 1,
        "rows_per_step": 16,
        "learning_rate": 2e-3,
        "precision": "fp32",
        "evaluations_per_epoch": 1,
        "micro_batch_tokens": 4096,
    }
    return TrainingSettings(**{**plain, **overrides})


def random_batch(rows: int = 4, longest: int = 12, seed: int = 0) -> Batch:
    """Random ids of unequal lengths, padded, with labels."""
    random_numbers = np.random.default_rng(seed)
    lengths = random_numbers.integers(3, longest + 1, rows)
    lengths[0] = longest
    input_ids = random_numbers.integers(5, 160, (rows, longest))
    mask = np.arange(longest)[None, :] < lengths[:, None]
    return Batch(
        torch.from_numpy(input_ids * mask),
        torch.from_numpy(mask.astype(np.int64)),
        torch.from_numpy(random_numbers.integers(0, 2, rows)),
        torch.arange(rows),
    )


@torch.no_grad()
def logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The model's answers in eval mode. Shape: (B, C)."""
    model.eval()
    answer: torch.Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return answer


def write_data(folder: Path) -> Path:
    """480 made-up reviews to train on, 160 to test on, 160 without labels."""
    folder.mkdir()
    reviews = made_up_reviews()
    parts = {"train": reviews[:480], "test": reviews[480:640], "unsupervised": reviews[640:800]}
    for name, rows in parts.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
