from __future__ import annotations

import torch
from transformers import BertConfig

from app.artifact import Head
from compression.batches import Batch
from compression.heads import describe, heads_of, labels_of, slices
from tests.compression.tiny import random_batch

TWO = (Head(name="label", labels=("no", "yes")), Head(name="rating", labels=("1", "2", "3")))


def test_a_plain_classifier_has_one_head() -> None:
    config = BertConfig(id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    assert heads_of(config) == (Head(name="label", labels=("no", "yes")),)


def test_heads_are_described_and_read_again() -> None:
    config = BertConfig()
    describe(config, TWO)
    assert config.num_labels == 5
    assert config.id2label == {0: "no", 1: "yes", 2: "rating:1", 3: "rating:2", 4: "rating:3"}
    again = BertConfig.from_dict(config.to_dict())
    assert heads_of(again) == TWO
    assert slices(TWO) == [slice(0, 2), slice(2, 5)]


def test_one_head_is_written_as_hugging_face_does() -> None:
    config = BertConfig()
    describe(config, TWO[:1])
    assert not any("bertpress" in name for name in config.to_dict())
    assert heads_of(config) == TWO[:1]


def test_labels_of_a_head() -> None:
    plain = random_batch()
    rated = Batch(
        plain.input_ids, plain.attention_mask, plain.labels, plain.rows, torch.tensor([[2], [-1], [0], [1]])
    )
    assert torch.equal(labels_of(rated, 0), plain.labels)
    assert labels_of(rated, 1).tolist() == [2, -1, 0, 1]
    assert labels_of(plain, 1).tolist() == [-1] * 4
