from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.artifact import TOKENIZER_FILE
from app.errors import RecipeError, UnsupportedModelError
from app.tokenizer import Tokenizer
from compression import classifier, corpus, export
from compression.architecture import describe
from compression.batches import Batch
from compression.classifier import Classifier
from compression.corpus import Corpus
from compression.data import Split
from compression.pruning import tokenizer_file, vocabulary
from tests.compression.exported import answers
from tests.compression.pruning.wordpieces import (
    TEXTS,
    bpe_tokenizer,
    classifier_with,
    wordpiece_tokenizer,
)
from tests.compression.tiny import FAMILIES, logits, text_settings


@pytest.fixture
def wordy() -> Classifier:
    return classifier_with(wordpiece_tokenizer())


def corpus_with(model: Classifier, texts: tuple[str, ...], folder: Path) -> Corpus:
    folder.mkdir(exist_ok=True)
    model.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))
    return corpus.build(Split(texts, None), folder / TOKENIZER_FILE, text_settings(64), folder / "tokens")


def pruned(model: Classifier, *lost: str) -> Classifier:
    document = vocabulary.document_of(model.tokenizer)
    pieces = tokenizer_file.vocabulary(document)
    return vocabulary.keep_rows(model, sorted(set(pieces.values()) - {pieces[piece] for piece in lost}))


def answer(model: Classifier, text: str) -> torch.Tensor:
    input_ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        found: torch.Tensor = model.model(input_ids, attention_mask=torch.ones_like(input_ids)).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_of_kept_pieces_are_answered_as_before(family: str) -> None:
    whole = classifier_with(wordpiece_tokenizer(), family)
    small = pruned(whole, "film", "wonderful", "##less")
    for text in ("the story dull and the cast long", "after an hour the hero funny"):
        assert torch.equal(answer(small, text), answer(whole, text))
    assert not torch.equal(answer(small, "a wonderful film"), answer(whole, "a wonderful film"))


def test_the_copy_is_smaller_and_the_original_whole(wordy: Classifier) -> None:
    rows = wordy.model.config.vocab_size
    small = pruned(wordy, "film", "wonderful")
    # The row that no piece has goes as well.
    assert small.model.config.vocab_size == describe(small.model).vocabulary == rows - 3
    assert small.model.get_input_embeddings().weight.shape == (rows - 3, 32)
    assert len(small.tokenizer) == rows - 3
    assert wordy.model.config.vocab_size == len(wordy.tokenizer) + 1 == rows
    assert wordy.tokenizer.tokenize("film") == ["film"]
    assert small.tokenizer.tokenize("film") == ["f", "##i", "##l", "##m"]


def test_padding_keeps_its_row_of_no_gradient(wordy: Classifier) -> None:
    wordy.model.config.pad_token_id = 2  # [UNK] stands in for a padding id that moves
    table = wordy.model.get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)
    table.padding_idx = 2
    small = pruned(wordy, "[unused0]")
    assert small.pad_token_id == 1
    assert small.model.get_input_embeddings().padding_idx == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_it_answers_the_same(family: str, tmp_path: Path) -> None:
    small = pruned(classifier_with(wordpiece_tokenizer(), family), "film", "[unused0]")
    classifier.save(small, tmp_path)
    loaded = classifier.load(str(tmp_path))
    served = Tokenizer(tmp_path / TOKENIZER_FILE, text_settings(64))
    for text in (*TEXTS[:20], "an unheard of filmless thing"):
        expected = small.tokenizer(text)["input_ids"]
        assert loaded.tokenizer(text)["input_ids"] == served.encode(text).input_ids.tolist() == expected
        assert torch.equal(answer(loaded, text), answer(small, text))
    assert loaded.tokenizer.pad_token_id == small.pad_token_id == 0


def test_its_graph_answers_as_it_does(wordy: Classifier, tmp_path: Path) -> None:
    small = pruned(wordy, "film", "wonderful", "[unused0]")
    export.to_onnx(small.model, tmp_path / "model.onnx", opset=17)
    encoded = small.tokenizer(["a wonderful film", "dull"], padding=True, return_tensors="pt")
    batch = Batch(encoded["input_ids"], encoded["attention_mask"], torch.zeros(2), torch.arange(2))
    found = answers(tmp_path / "model.onnx", batch)
    assert np.abs(found - logits(small.model, batch).numpy()).max() < 1e-4


def test_pieces_are_counted_over_whole_texts(wordy: Classifier, tmp_path: Path) -> None:
    one = corpus_with(wordy, ("film film dull", "moving " * 200), tmp_path / "one")
    other = corpus_with(wordy, ("dull story", "film"), tmp_path / "other")
    pieces = tokenizer_file.vocabulary(vocabulary.document_of(wordy.tokenizer))
    counts = vocabulary.piece_counts([one, other.first(1)], wordy.model.config.vocab_size)
    assert counts[pieces["film"]] == 2
    assert counts[pieces["dull"]] == 2
    assert counts[pieces["moving"]] == 200
    assert counts[pieces["[CLS]"]] == 3
    assert counts.sum() == 2 + 1 + 200 + 2 + 2 * 3
    assert len(counts) == wordy.model.config.vocab_size


def test_the_most_used_pieces_stay(wordy: Classifier, tmp_path: Path) -> None:
    document = vocabulary.document_of(wordy.tokenizer)
    pieces = tokenizer_file.vocabulary(document)
    texts = ("film film film dull dull moving",)
    counts = vocabulary.piece_counts([corpus_with(wordy, texts, tmp_path)], wordy.model.config.vocab_size)
    ranking, needed = vocabulary.ranked(document, counts)
    assert sorted(ranking) == sorted(pieces.values())
    names = {index: piece for piece, index in pieces.items()}
    assert [names[index] for index in ranking[needed : needed + 3]] == ["film", "dull", "moving"]
    assert all(len(names[i].removeprefix("##")) == 1 or names[i][0] == "[" for i in ranking[:needed])
    kept = vocabulary.choose(ranking, needed, counts, needed + 1)
    assert kept == sorted([*ranking[:needed], pieces["film"]])
    assert vocabulary.coverage(counts, kept) == (3 + 2) / 8


@pytest.mark.parametrize(("share", "extra"), [(0.01, 0), (0.62, 1), (0.63, 2), (0.875, 2), (0.99, 3)])
def test_rows_may_follow_from_the_share_of_tokens(
    share: float, extra: int, wordy: Classifier, tmp_path: Path
) -> None:
    texts = ("film film film dull dull moving",)
    counts = vocabulary.piece_counts([corpus_with(wordy, texts, tmp_path)], wordy.model.config.vocab_size)
    ranking, needed = vocabulary.ranked(vocabulary.document_of(wordy.tokenizer), counts)
    kept = vocabulary.choose(ranking, needed, counts, share)
    assert len(kept) == needed + extra
    assert vocabulary.coverage(counts, kept) >= share


def test_a_bpe_piece_stands_behind_what_it_is_made_of(tmp_path: Path) -> None:
    model = classifier_with(bpe_tokenizer(), "roberta")
    document = vocabulary.document_of(model.tokenizer)
    counts = vocabulary.piece_counts([corpus_with(model, TEXTS, tmp_path)], model.model.config.vocab_size)
    ranking, needed = vocabulary.ranked(document, counts)
    position = {index: place for place, index in enumerate(ranking)}
    for piece, parts in tokenizer_file.components(document).items():
        assert max(position[part] for part in parts) < position[piece]
    for rows in (needed, needed + 7, needed + 40):
        small = vocabulary.keep_rows(model, vocabulary.choose(ranking, needed, counts, rows))
        assert small.model.config.vocab_size == len(small.tokenizer) == rows
        classifier.save(small, tmp_path / str(rows))
        loaded = classifier.load(str(tmp_path / str(rows)))
        for text in ("the film wonderful", "un caf\u00e9 \u4e2d"):
            ids = loaded.tokenizer(text)["input_ids"]
            assert ids == small.tokenizer(text)["input_ids"]
            assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == text
            assert torch.equal(answer(loaded, text), answer(small, text))


def test_characters_that_no_text_has_may_go(wordy: Classifier, tmp_path: Path) -> None:
    document = vocabulary.document_of(wordy.tokenizer)
    counts = vocabulary.piece_counts([corpus_with(wordy, ("dull",), tmp_path)], wordy.model.config.vocab_size)
    _, all_needed = vocabulary.ranked(document, counts)
    ranking, needed = vocabulary.ranked(document, counts, "seen")
    # The text has no Greek letters; ASCII stays even where no text has it.
    lost = {
        index
        for piece, index in document["model"]["vocab"].items()
        if piece[-1] in "αβγδεζηθικλμνξοπρστυφχψω"
    }
    assert needed == all_needed - len(lost)
    assert lost <= set(ranking[needed:])
    # Used once, a letter stays: as a beginning and as what goes on.
    counts[document["model"]["vocab"]["##α"]] = 1
    assert vocabulary.ranked(document, counts, "seen")[1] == needed + 2


def test_ids_the_configuration_names_are_never_dropped(wordy: Classifier) -> None:
    wordy.model.config.eos_token_id = 60
    counts = np.zeros(wordy.model.config.vocab_size, dtype=np.int64)
    also = vocabulary.configured_ids(wordy.model)
    assert also == {0, 60}
    ranking, needed = vocabulary.ranked(vocabulary.document_of(wordy.tokenizer), counts, also=also)
    assert {0, 60} <= set(ranking[:needed])
    small = vocabulary.keep_rows(wordy, sorted(ranking[:needed]))
    assert small.model.config.eos_token_id == sorted(ranking[:needed]).index(60)


def test_rows_must_be_fewer_and_enough(wordy: Classifier) -> None:
    rows = wordy.model.config.vocab_size
    counts = np.ones(rows, dtype=np.int64)
    ranking, needed = vocabulary.ranked(vocabulary.document_of(wordy.tokenizer), counts)
    with pytest.raises(RecipeError, match=f"{needed - 1} vocabulary rows asked for; .* alone are {needed}"):
        vocabulary.choose(ranking, needed, counts, needed - 1)
    with pytest.raises(RecipeError, match=f"{rows} vocabulary rows asked for; the model has {rows}, none"):
        vocabulary.choose(ranking, needed, counts, rows)


def test_robertas_padding_id_must_stay(tmp_path: Path) -> None:
    model = classifier_with(wordpiece_tokenizer(), "roberta")
    model.model.config.pad_token_id = 2
    with pytest.raises(UnsupportedModelError, match="before id 2 would be dropped"):
        pruned(model, "[unused0]")


def test_settings_of_transformers_4_are_renumbered(
    wordy: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeats the added tokens in tokenizer_config.json and writes vocab.txt."""
    real = type(wordy.tokenizer).save_pretrained

    def save(self: Any, folder: Path) -> None:
        real(self, folder)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        special = {
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        settings["added_tokens_decoder"] = {
            str(wordy.tokenizer.convert_tokens_to_ids(name)): {"content": name, **special}
            for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        }
        path.write_text(json.dumps(settings), encoding="utf-8")
        (folder / "vocab.txt").write_text("wrong", encoding="utf-8")

    monkeypatch.setattr(type(wordy.tokenizer), "save_pretrained", save)
    small = pruned(wordy, "[unused0]", "film")
    assert small.tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]"]) == [0, 1, 2]
    assert small.tokenizer("dull")["input_ids"][0] == 2
