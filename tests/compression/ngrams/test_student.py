from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from compression.batches import Batch
from compression.ngrams import graph
from compression.ngrams.hashing import FIRST, PAIR, SECOND, THIRD, buckets_within
from compression.ngrams.student import TABLES, NgramForSequenceClassification, columns_of, is_ngrams
from tests.compression.exported import answers
from tests.compression.ngrams.tiny import SHAPE, tiny_ngrams
from tests.compression.tiny import logits, random_batch, tiny_model


def slow_logits(model: NgramForSequenceClassification, ids: list[int]) -> list[float]:
    """The obvious way: one n-gram after the other, in whole numbers."""
    unigrams, bigrams, trigrams = (model.get_buffer(name).tolist() for name in TABLES)
    scores = []
    for column in range(model.bias.numel()):
        totals = [0, 0, 0]
        for position, token in enumerate(ids):
            totals[0] += unigrams[token][column]
            if position >= 1:
                before = ids[position - 1]
                pair = (before * FIRST + token * SECOND) % SHAPE.bigram_buckets
                totals[1] += bigrams[pair][column]
            if position >= 2:
                first, second = ids[position - 2], ids[position - 1]
                pair = (first * FIRST + second * SECOND) % SHAPE.trigram_buckets
                totals[2] += trigrams[(pair * PAIR + token * THIRD) % SHAPE.trigram_buckets][column]
        scale = model.scales.tolist()
        total = sum(t * s for t, s in zip(totals, scale, strict=True))
        scores.append(total / math.sqrt(len(ids)) + float(model.bias[column]))
    return [-0.5 * scores[0], 0.5 * scores[0]] if len(scores) == 1 else scores


def single(ids: list[int]) -> Batch:
    input_ids = torch.tensor([ids])
    return Batch(input_ids, torch.ones_like(input_ids), torch.zeros(1), torch.arange(1))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_score_is_the_sum_of_the_rows_of_all_ngrams(classes: int) -> None:
    model = tiny_ngrams(classes)
    batch = random_batch(rows=6, longest=12)
    found = logits(model, batch)
    assert found.shape == (6, classes)
    for row, mask, answer in zip(batch.input_ids, batch.attention_mask, found, strict=True):
        ids = row[: int(mask.sum())].tolist()
        assert answer.tolist() == pytest.approx(slow_logits(model, ids), abs=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_texts(length: int, tmp_path: Path) -> None:
    model = tiny_ngrams()
    graph.write(model, tmp_path / "model.onnx")
    batch = single([2, 77, 3][:length])
    expected = logits(model, batch)
    assert expected[0].tolist() == pytest.approx(slow_logits(model, [2, 77, 3][:length]), abs=1e-5)
    assert np.array_equal(answers(tmp_path / "model.onnx", batch), expected.numpy())


@pytest.mark.parametrize("classes", [2, 3])
def test_the_graph_answers_to_the_bit(classes: int, tmp_path: Path) -> None:
    model = tiny_ngrams(classes)
    graph.write(model, tmp_path / "model.onnx")
    for seed in range(5):
        batch = random_batch(rows=9, longest=40, seed=seed)
        assert np.array_equal(answers(tmp_path / "model.onnx", batch), logits(model, batch).numpy())


def test_company_and_padding_change_nothing(tmp_path: Path) -> None:
    model = tiny_ngrams()
    graph.write(model, tmp_path / "model.onnx")
    batch = random_batch(rows=9, longest=40)
    together = answers(tmp_path / "model.onnx", batch)
    for row in range(9):
        length = int(batch.attention_mask[row].sum())
        alone = answers(tmp_path / "model.onnx", single(batch.input_ids[row, :length].tolist()))
        assert np.array_equal(alone[0], together[row])


def test_every_length_has_its_share_to_the_bit(tmp_path: Path) -> None:
    shape = type(SHAPE)(61, 89, max_tokens=590)
    model = tiny_ngrams(shape=shape)
    graph.write(model, tmp_path / "model.onnx")
    input_ids = torch.randint(0, 160, (600, 600), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(600)[None, :] <= torch.arange(600)[:, None]).long()
    batch = Batch(input_ids, mask, torch.zeros(600), torch.arange(600))
    assert np.array_equal(answers(tmp_path / "model.onnx", batch), logits(model, batch).numpy())


def test_large_ids_and_tables_do_not_overflow(tmp_path: Path) -> None:
    shape = type(SHAPE)(buckets_within(1 << 21), buckets_within(1 << 22), max_tokens=8)
    model = tiny_ngrams(shape=shape)
    ids = [159, 158, 159, 157]
    pair = (ids[0] * FIRST + ids[1] * SECOND) % shape.trigram_buckets
    trigrams = model.get_buffer("trigrams")
    trigrams.zero_()
    trigrams[(pair * PAIR + ids[2] * THIRD) % shape.trigram_buckets] = 100
    without = logits(model, single(ids[1:]))
    graph.write(model, tmp_path / "model.onnx")
    found = answers(tmp_path / "model.onnx", single(ids))
    assert np.array_equal(found, logits(model, single(ids)).numpy())
    assert not np.allclose(found, without.numpy())
    # Of any vocabulary and any table the products stay below 2^63.
    assert (1 << 20) * (FIRST + SECOND) < 1 << 63
    assert (1 << 28) * PAIR + (1 << 20) * THIRD < 1 << 63


def test_saved_and_loaded_it_answers_the_same(tmp_path: Path) -> None:
    model = tiny_ngrams()
    model.save_pretrained(tmp_path)
    loaded = NgramForSequenceClassification.from_pretrained(tmp_path)
    batch = random_batch()
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    assert is_ngrams(loaded.config)
    assert loaded.unigrams.dtype == torch.int8


def test_its_configuration_opens_as_a_berts(tmp_path: Path) -> None:
    tiny_ngrams().save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.model_type == "bert"
    assert config.id2label == {0: "negative", 1: "positive"}
    assert not is_ngrams(tiny_model().config)


def test_without_a_mask_every_token_counts() -> None:
    model, batch = tiny_ngrams(), single([2, 50, 60, 3])
    assert torch.equal(model(batch.input_ids).logits, logits(model, batch))


def test_its_shapes_for_the_manifest() -> None:
    described = tiny_ngrams(3).describe()
    assert (described.family, described.layers, described.hidden_size) == ("ngrams", 0, 3)
    assert described.vocabulary == 160
    assert described.parameters == 3 * (160 + 61 + 89) + 3 + 3
    assert columns_of(2) == 1


@pytest.mark.parametrize(("rows", "prime"), [(2, 2), (10, 7), (97, 97), (1 << 20, 1048573)])
def test_buckets_are_a_prime(rows: int, prime: int) -> None:
    assert buckets_within(rows) == prime
