"""A tiny n-gram student with random tables."""

from __future__ import annotations

import torch
from transformers import BertConfig

from compression.ngrams.student import TABLES, NgramForSequenceClassification, NgramShape, make_config

SHAPE = NgramShape(bigram_buckets=61, trigram_buckets=89, max_tokens=40)


def tiny_ngrams(classes: int = 2, shape: NgramShape = SHAPE, seed: int = 0) -> NgramForSequenceClassification:
    labels = ("negative", "positive") if classes == 2 else tuple(f"class-{index}" for index in range(classes))
    config = make_config(BertConfig(vocab_size=160, pad_token_id=0), labels, shape)
    model = NgramForSequenceClassification(config)
    generator = torch.Generator().manual_seed(seed)
    for name in TABLES:
        table = getattr(model, name)
        table.copy_(torch.randint(-127, 128, table.shape, generator=generator))
    with torch.no_grad():
        model.scales.copy_(torch.tensor([0.013, 0.0071, 0.0029]))
        model.bias.copy_(torch.randn(model.bias.shape, generator=generator))
    model.train(False)
    return model
