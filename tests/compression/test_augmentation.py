from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from app.errors import DataError, UnsupportedModelError
from compression import augmentation
from compression.augmentation import neighbours, varied
from compression.classifier import Classifier, save
from compression.cli import main
from tests.compression.tiny import write_data

NEAR = {"good": ["great", "bad"], "film": ["movie"], "fast": ["quick"]}
TEXTS = ("A good film .", "The service was fast and good .", "Nothing to replace here .")


def words(text: str) -> set[str]:
    return set(text.lower().split())


def obvious_neighbours(table: torch.Tensor, words: list[str], ids: list[int]) -> dict[str, list[str]]:
    """One pair of words after the other."""
    mean = table.mean(0)
    found: dict[str, list[str]] = {}
    for word, row in zip(words, ids, strict=True):
        near = []
        for other, other_row in zip(words, ids, strict=True):
            cosine = float(torch.cosine_similarity(table[row] - mean, table[other_row] - mean, dim=0))
            if other != word and cosine >= 0.42:
                near.append((-cosine, other))
        if near:
            found[word] = [other for _, other in sorted(near)][:10]
    return found


def test_neighbours_are_those_of_a_slow_search(tiny: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_ROWS_AT_ONCE", 7)
    near = neighbours(tiny.model, tiny.tokenizer)
    usable = sorted(
        (piece, index)
        for piece, index in tiny.tokenizer.get_vocab().items()
        if len(piece) > 2
        and piece.isalpha()
        and piece.islower()
        and piece not in {"the", "was", "and", "not"}
    )
    table = tiny.model.get_input_embeddings().get_parameter("weight").detach()
    slow = obvious_neighbours(table, [word for word, _ in usable], [index for _, index in usable])
    assert near
    for word, others in near.items():
        assert others == slow[word]


def test_a_table_without_neighbours_is_refused(tiny: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_NEAR", 1.1)
    with pytest.raises(UnsupportedModelError, match="name a pretrained model"):
        neighbours(tiny.model, tiny.tokenizer)


def test_words_give_way_to_their_neighbours_and_keep_their_capitals() -> None:
    found = list(varied(["Good film"], NEAR, 20, joined=0, seed=3))
    assert found
    allowed = {"Good", "Great", "Bad", "film", "movie"}
    assert all(set(text.split()) <= allowed for text in found)
    assert any("movie" in text for text in found)
    assert any(text.startswith(("Great", "Bad")) for text in found)


def test_every_variant_is_new_and_none_is_one_of_the_texts() -> None:
    found = list(varied(TEXTS, NEAR, 5))
    assert len(found) == len(set(found))
    assert not set(found) & set(TEXTS)


def test_the_same_seed_gives_the_same_variants() -> None:
    assert list(varied(TEXTS, NEAR, 4)) == list(varied(TEXTS, NEAR, 4))
    assert list(varied(TEXTS, NEAR, 4)) != list(varied(TEXTS, NEAR, 4, seed=1))


def test_as_many_as_were_asked_for_where_there_are_so_many() -> None:
    assert len(list(varied(["one good fast film with many other words in it"], NEAR, 6, joined=0))) == 6
    # No word of it has a neighbour, and leaving out its one word leaves nothing.
    assert list(varied(["unknown"], NEAR, 6, joined=0)) == []


def test_joined_variants_hold_two_texts() -> None:
    found = list(varied(TEXTS, NEAR, 6, joined=1))
    assert found
    assert all(len(words(text)) > 4 for text in found)
    assert any(words("service") <= words(text) and words("film") & words(text) for text in found)


@pytest.mark.parametrize(
    ("texts", "copies", "joined", "message"),
    [
        ((), 1, 0.1, "0 texts and 1 copies"),
        (TEXTS, 0, 0.1, "3 texts and 0 copies"),
        (TEXTS, 1, 1.5, "joined is 1.5, which is no share"),
    ],
)
def test_nothing_to_do_is_said(texts: tuple[str, ...], copies: int, joined: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        varied(texts, NEAR, copies, joined=joined)


@pytest.fixture
def pretrained(tiny: Classifier, tmp_path: Path) -> Path:
    folder = tmp_path / "pretrained"
    save(tiny, folder)
    return folder


def test_the_command_writes_what_distill_reads(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "reviews")
    file = tmp_path / "more.jsonl"
    command = ["augment", "--model", str(pretrained), "--data", str(data), "--copies", "2"]
    assert main([*command, "--output", str(file)]) == 0
    texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
    unlabelled = [json.loads(line)["text"] for line in (data / "unsupervised.jsonl").read_text().splitlines()]
    test = {json.loads(line)["text"] for line in (data / "test.jsonl").read_text().splitlines()}
    said = capsys.readouterr().out
    assert f"and {len(texts) - int(said.split()[1].replace(',', '')):,} texts without labels" in said
    assert texts[-1] in unlabelled
    assert len(texts) > len(unlabelled)
    assert not test & set(texts)


def test_a_file_that_stands_is_kept(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text("mine", encoding="utf-8")
    data = write_data(tmp_path / "reviews")
    assert main(["augment", "--model", str(pretrained), "--data", str(data), "--output", str(file)]) == 1
    assert "name a new file" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "mine"


def test_without_a_short_text_it_says_what_to_do(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "reviews")
    command = ["augment", "--model", str(pretrained), "--data", str(data), "--longest", "1"]
    assert main([*command, "--output", str(tmp_path / "more.jsonl")]) == 1
    assert "raise --longest" in capsys.readouterr().err
