"""Tokenizers that can fall back: WordPiece and byte-level BPE over the made-up reviews."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from compression.classifier import Classifier
from tests.compression.tiny import loud, made_up_reviews, tiny_model

TEXTS = tuple(text for text, _ in made_up_reviews())
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NAMES = {"pad_token": 0, "unk_token": 1, "cls_token": 2, "sep_token": 3, "mask_token": 4}


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """Characters, some endings and whole words; a placeholder stands between the special tokens."""
    words = {word for text in TEXTS for word in text.split()}
    # More letters than the reviews have: the id of a latency measurement may be as large as 99.
    letters = sorted({letter for word in words for letter in word} | set("αβγδεζηθικλμνξοπρστυφχψω"))
    pieces = ["[PAD]", "[unused0]", *_SPECIAL[1:], *letters, *(f"##{letter}" for letter in letters)]
    pieces += ["##ing", "##ful", "mov", "##less", *sorted(words - set(letters))]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, pieces.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{name: _SPECIAL[index] for name, index in _NAMES.items()}
    )


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """RoBERTa's form, trained on the made-up reviews."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[*special, "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def classifier_with(tokenizer: PreTrainedTokenizerFast, family: str = "bert") -> Classifier:
    """A tiny model whose embedding has a row for every piece, and one that no piece has."""
    config = tiny_model(family).config
    config.vocab_size, config.pad_token_id = len(tokenizer) + 1, tokenizer.pad_token_id
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    )
    loud(model)
    model.train(False)
    return Classifier(model, tokenizer)
