from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compression.batches import Rows
from compression.distillation import teacher_logits as module
from compression.distillation.teacher_logits import logits_of, teacher_logits
from tests.compression.tiny import corpus_of, logits, made_up_reviews, rows_of, text_settings, tiny_model


class Counted(nn.Module):
    """Counts the rows it answers; fails after so many."""

    def __init__(self, model: nn.Module, most_rows: int = 10**9) -> None:
        super().__init__()
        self.model, self.most_rows, self.answered = model, most_rows, 0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        self.answered += len(input_ids)
        if self.answered > self.most_rows:
            raise KeyboardInterrupt
        return self.model(input_ids=input_ids, attention_mask=attention_mask)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Forty rows, twenty of them without labels, kept in chunks of sixteen."""
    monkeypatch.setattr(module, "_CHUNK_ROWS", 16)
    reviews = made_up_reviews()
    return Rows(
        corpus_of(reviews[:20], tmp_path / "data"),
        corpus_of(reviews[20:40], tmp_path / "data", labelled=False),
    )


def slow(model: nn.Module, rows: Rows) -> torch.Tensor:
    return torch.cat([logits(model, rows.batch([row])) for row in range(len(rows))])


def test_every_row_has_its_own_logits(rows: Rows, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = teacher_logits(
        tiny_model(), "key", rows, 2, tmp_path, report=lambda done, total, _: told.append((done, total))
    )
    assert torch.allclose(found, slow(tiny_model(), rows), atol=1e-5)
    assert told == [(16, 40), (32, 40), (40, 40)]


def test_the_cache_answers_a_second_time(rows: Rows, tmp_path: Path) -> None:
    first = teacher_logits(tiny_model(), "key", rows, 2, tmp_path)
    counted = Counted(tiny_model())
    assert torch.equal(teacher_logits(counted, "key", rows, 2, tmp_path), first)
    assert counted.answered == 0


def test_a_half_filled_cache_is_filled_up(rows: Rows, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        teacher_logits(Counted(tiny_model(), most_rows=32), "key", rows, 2, tmp_path)
    counted = Counted(tiny_model())
    found = teacher_logits(counted, "key", rows, 2, tmp_path)
    assert counted.answered == 8
    assert torch.allclose(found, slow(tiny_model(), rows), atol=1e-5)


def test_a_record_cut_short_is_dropped(rows: Rows, tmp_path: Path) -> None:
    first = teacher_logits(tiny_model(), "key", rows, 2, tmp_path)
    (file,) = tmp_path.glob("logits-*.bin")
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 5)
    counted = Counted(tiny_model())
    for _ in range(2):
        again = teacher_logits(counted, "key", rows, 2, tmp_path)
        assert torch.allclose(again, first, atol=1e-5)
    assert counted.answered == 1


def test_fewer_rows_are_known_and_of_more_only_the_new_are_computed(rows: Rows, tmp_path: Path) -> None:
    first = teacher_logits(tiny_model(), "key", rows, 2, tmp_path)
    counted = Counted(tiny_model())
    labelled, free = rows.corpora
    subset = teacher_logits(counted, "key", Rows(free.first(7), labelled), 2, tmp_path)
    assert torch.equal(subset, torch.cat([first[20:27], first[:20]]))
    assert counted.answered == 0
    more = Rows(corpus_of(made_up_reviews()[10:60], tmp_path / "data"))
    found = teacher_logits(counted, "key", more, 2, tmp_path)
    assert counted.answered == 20
    assert torch.equal(found[:30], first[10:40])
    assert torch.allclose(found, slow(tiny_model(), more), atol=1e-5)


def test_a_text_read_to_another_length_is_another_text(tmp_path: Path) -> None:
    rows = rows_of(20, tmp_path / "data")
    shorter = Rows(replace(rows.corpora[0], settings=text_settings(5)))
    teacher_logits(tiny_model(), "key", rows, 2, tmp_path)
    found = teacher_logits(tiny_model(), "key", shorter, 2, tmp_path)
    assert torch.allclose(found, slow(tiny_model(), shorter), atol=1e-5)


def test_another_teacher_or_another_precision_is_computed_anew(rows: Rows, tmp_path: Path) -> None:
    first = teacher_logits(tiny_model(), "one", rows, 2, tmp_path)
    other = teacher_logits(tiny_model(seed=9), "other", rows, 2, tmp_path)
    assert not torch.allclose(first, other, atol=1e-3)
    coarse = Counted(tiny_model())
    rounded = teacher_logits(coarse, "one", rows, 2, tmp_path, precision="bf16")
    assert coarse.answered == 40
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, first)
    assert torch.allclose(rounded, first, atol=0.1)


def test_dropout_is_off(rows: Rows, tmp_path: Path) -> None:
    teacher = tiny_model()
    teacher.train(True)
    found = teacher_logits(teacher, "key", rows, 2, tmp_path)
    assert torch.allclose(found, slow(tiny_model(), rows), atol=1e-5)


def test_logits_stand_in_the_order_asked_for(rows: Rows) -> None:
    chosen = [31, 2, 17, 5]
    found = logits_of(tiny_model(), rows, chosen)
    assert np.allclose(found, slow(tiny_model(), rows)[chosen].numpy(), atol=1e-5)
