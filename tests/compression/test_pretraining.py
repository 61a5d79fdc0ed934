from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from app.artifact import Head
from app.errors import UnsupportedModelError
from compression import classifier, pretraining
from compression.batches import Rows
from compression.corpus import build
from compression.data import Split
from compression.pretraining import MaskedLanguageObjective, Masking, pieces
from compression.training import train
from tests.compression.tiny import (
    FAMILIES,
    corpus_of,
    made_up_reviews,
    random_batch,
    text_settings,
    tiny_model,
    tiny_tokenizer,
    training,
)

MASKING = Masking.by(tiny_tokenizer(), 0.15)
MASK = 4


def backbone(folder: Path, family: str = "bert") -> str:
    tiny_model(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_who_is_masked_and_by_what() -> None:
    """Fifteen in a hundred real words; of them eighty are hidden, ten replaced, ten left."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, MASKING.vocabulary, (400, 100), generator=generator)
    ids[:, 0], ids[:, 60] = 2, 3
    mask = torch.ones_like(ids)
    mask[:, 61:] = 0
    hidden, positions = MASKING.apply(ids, mask, generator)
    assert not positions[:, [0, 60]].any()
    assert not positions[:, 61:].any()
    assert torch.equal(hidden[~positions], ids[~positions])
    count = int(positions.sum())
    assert count / (400 * 59) == pytest.approx(0.15, abs=0.01)
    masked = (hidden == MASK) & positions
    changed = (hidden != ids) & ~masked
    assert int(masked.sum()) / count == pytest.approx(0.8, abs=0.02)
    assert int(changed.sum()) / count == pytest.approx(0.1, abs=0.02)


def test_random_numbers_follow_torchs_own_state_or_a_generator() -> None:
    batch = random_batch(rows=16)
    torch.manual_seed(3)
    first = MASKING.apply(batch.input_ids, batch.attention_mask)
    torch.manual_seed(3)
    again = MASKING.apply(batch.input_ids, batch.attention_mask)
    other = MASKING.apply(batch.input_ids, batch.attention_mask)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_at_chosen_positions_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = backbone(tmp_path, family)
    whole: Any = AutoModelForMaskedLM.from_pretrained(source, attn_implementation="eager")
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    batch = random_batch()
    positions = (torch.rand(batch.input_ids.shape) < 0.4) & batch.attention_mask.bool()
    with torch.no_grad():
        every = whole(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        model = pretraining.MaskedLanguageModel(whole)
        found = model(batch.input_ids, batch.attention_mask, positions)
    assert torch.allclose(found, every[positions], atol=1e-4)


class Told(torch.nn.Module):
    """Answers with scores that follow from position alone."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores, self.nothing = scores, torch.nn.Parameter(torch.zeros(1))

    def forward(self, _: torch.Tensor, __: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.positions = positions
        return self.scores[positions]


def test_the_loss_is_the_mean_over_each_rows_masked_words() -> None:
    batch = random_batch(rows=6)
    scores = torch.randn(6, 12, 160, generator=torch.Generator().manual_seed(0))
    model = Told(scores)
    torch.manual_seed(1)
    found = MaskedLanguageObjective(replace(MASKING, probability=0.3))(model, batch)
    for row in range(6):
        chosen = model.positions[row].nonzero()[:, 0].tolist()
        each = [
            float(functional.cross_entropy(scores[row, t][None], batch.input_ids[row, t][None]))
            for t in chosen
        ]
        assert float(found[row]) == pytest.approx(sum(each) / len(each) if each else 0.0, rel=1e-5)


def test_a_row_without_a_masked_word_has_no_loss() -> None:
    batch = random_batch(rows=2)
    model = Told(torch.zeros(2, 12, 160))
    found = MaskedLanguageObjective(replace(MASKING, probability=1e-9))(model, batch)
    assert found.tolist() == [0.0, 0.0]


def test_it_is_judged_on_the_same_masks_every_time(tmp_path: Path) -> None:
    rows = Rows(corpus_of(made_up_reviews()[:40], tmp_path / "data"))
    model, objective = pretraining.load(backbone(tmp_path / "backbone")), MaskedLanguageObjective(MASKING)
    first = objective.judge(model, rows, range(40))
    torch.rand(7)
    assert objective.judge(model, rows, range(40)) == first
    assert first.accuracy is None


def test_texts_are_read_whole_in_pieces_of_like_length(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    words = ["film", "story", "cast", "ending", "music", "script", "plot", "hero"]
    texts = tuple(" ".join(words[i % 8] for i in range(count)) for count in (30, 14, 15, 1, 0))
    corpus = build(Split(texts, None), tmp_path / "tokenizer.json", text_settings(16), tmp_path / "tokens")
    cut = pieces(corpus)
    assert [len(cut.row(index)) for index in range(len(cut))] == [12, 12, 12, 16, 10, 9, 3, 2]
    for row in range(len(cut)):
        assert (cut.row(row)[0], cut.row(row)[-1]) == (2, 3)
    content = [ids for row in range(3) for ids in cut.row(row)[1:-1].tolist()]
    assert content == np.asarray(corpus.ids[1 : int(corpus.offsets[1]) - 1]).tolist()
    assert cut.lengths.tolist() == [len(cut.row(index)) for index in range(len(cut))]
    assert cut.fingerprint != corpus.fingerprint
    other = build(Split(texts, None), tmp_path / "tokenizer.json", text_settings(12), tmp_path / "tokens")
    assert pieces(other).fingerprint != cut.fingerprint


def test_it_learns_the_language_and_leaves_a_backbone(tmp_path: Path) -> None:
    source = backbone(tmp_path / "source")
    model = pretraining.load(source)
    reviews = made_up_reviews()
    rows, held = (
        Rows(corpus_of(part, tmp_path / "data", labelled=False)) for part in (reviews[:600], reviews[600:760])
    )
    objective = MaskedLanguageObjective(MASKING)
    before = objective.judge(model, held, range(160))
    settings = training(epochs=3, learning_rate=3e-3)
    train(model, objective, rows, held, settings, tmp_path / "run", judge=objective.judge)
    assert objective.judge(model, held, range(160)).loss < 0.7 * before.loss
    pretraining.save_backbone(model, source, tiny_tokenizer(), tmp_path / "adapted")
    heads = (Head(name="label", labels=("a", "b")),)
    old, new = (classifier.load(str(tmp_path / name), heads=heads).model for name in ("source", "adapted"))
    query = "bert.encoder.layer.1.attention.self.query.weight"
    assert torch.equal(new.get_parameter(query), model.encoder.get_parameter(query.removeprefix("bert.")))
    assert not torch.equal(new.get_parameter(query), old.get_parameter(query))
    pooler = "bert.pooler.dense.weight"
    assert torch.equal(new.get_parameter(pooler), old.get_parameter(pooler))


def test_a_head_the_backbone_brings_is_kept(tmp_path: Path) -> None:
    whole = BertForMaskedLM(cast(BertConfig, tiny_model().config))
    whole.save_pretrained(tmp_path)
    model = pretraining.load(str(tmp_path))
    assert torch.equal(model.dense.get_parameter("weight"), whole.cls.predictions.transform.dense.weight)


def test_a_tokenizer_without_a_mask() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(UnsupportedModelError, match="has no mask token; it cannot be pretrained"):
        Masking.by(tokenizer, 0.15)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be pretrained"):
        pretraining.load(str(tmp_path / "absent"))
