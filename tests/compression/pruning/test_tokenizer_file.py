from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from app.errors import UnsupportedModelError
from compression.pruning import tokenizer_file
from compression.pruning.tokenizer_file import Document
from compression.pruning.vocabulary import document_of
from tests.compression.pruning.wordpieces import TEXTS, bpe_tokenizer, wordpiece_tokenizer

UNHEARD = ["unmoving scriptless films", "a wonderfully longer heroine", "dull", "ggg"]


def wordpiece() -> Document:
    return document_of(wordpiece_tokenizer())


def bpe() -> Document:
    return document_of(bpe_tokenizer())


def ids_of(document: Document, *pieces: str) -> set[int]:
    return {tokenizer_file.vocabulary(document)[piece] for piece in pieces}


def everything_but(document: Document, *pieces: str) -> list[int]:
    return sorted(set(tokenizer_file.vocabulary(document).values()) - ids_of(document, *pieces))


def encode(document: Document, text: str) -> list[str]:
    return list(Tokenizer.from_str(json.dumps(document)).encode(text).tokens)


def slow_wordpieces(text: str, pieces: set[str]) -> list[str]:
    """The obvious way: at every place of a word try all lengths, the longest first."""
    found = ["[CLS]"]
    for word in text.split():
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else f"##{word[start:end]}"
                if piece in pieces:
                    break
            else:
                return ["[UNK]"]
            found.append(piece)
            start = end
    return [*found, "[SEP]"]


def slow_bpe(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """The obvious way: the first merge of the list that applies anywhere, again and again."""
    parts = list(word)
    for left, right in merges * len(word):
        position = 0
        while position < len(parts) - 1:
            if (parts[position], parts[position + 1]) == (left, right):
                parts[position : position + 2] = [left + right]
            position += 1
    return parts


def test_a_lost_word_falls_back_to_smaller_pieces() -> None:
    document = wordpiece()
    smaller = tokenizer_file.keep(document, everything_but(document, "moving", "story", "##ing"))
    assert encode(document, "moving story") == ["[CLS]", "moving", "story", "[SEP]"]
    assert encode(smaller, "moving") == ["[CLS]", "mov", "##i", "##n", "##g", "[SEP]"]
    pieces = set(smaller["model"]["vocab"])
    for text in (*TEXTS[:100], *UNHEARD):
        assert encode(smaller, text) == slow_wordpieces(text, pieces)


def test_characters_alone_spell_everything() -> None:
    document = wordpiece()
    kept = tokenizer_file.special_ids(document) | tokenizer_file.character_ids(document)
    smaller = tokenizer_file.keep(document, sorted(kept))
    for text in (*TEXTS[:20], *UNHEARD):
        spelled = encode(smaller, text)
        assert "[UNK]" not in spelled
        assert len(spelled) == 2 + len(text.replace(" ", ""))


def test_ids_are_renumbered_wherever_they_stand() -> None:
    document = wordpiece()
    document["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    document["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    before = copy.deepcopy(document)
    smaller = tokenizer_file.keep(document, everything_but(document, "[unused0]", "wonderful"))
    assert document == before
    vocabulary = smaller["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert list(vocabulary) == [p for p in before["model"]["vocab"] if p not in ("[unused0]", "wonderful")]
    assert {token["content"]: token["id"] for token in smaller["added_tokens"]} == {
        name: vocabulary[name] for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    }
    assert smaller["post_processor"]["special_tokens"]["[SEP]"]["ids"] == [vocabulary["[SEP]"]]
    assert smaller["padding"]["pad_id"] == vocabulary["[PAD]"]
    encoded = Tokenizer.from_str(json.dumps(smaller)).encode("dull", "film")
    assert encoded.ids == [vocabulary[piece] for piece in encoded.tokens]


def test_what_nothing_smaller_spells_is_not_spared() -> None:
    document = wordpiece()
    size = len(document["model"]["vocab"])
    # No piece for the e with an accent, none for a z that goes on: both words must stay whole.
    document["model"]["vocab"] |= {"caf\u00e9": size, "jazz": size + 1, "z": size + 2, "\u4e2d": size + 3}
    characters = tokenizer_file.character_ids(document)
    assert ids_of(document, "caf\u00e9", "jazz", "z", "\u4e2d", "##g") <= characters
    assert not ids_of(document, "[unused0]", "[CLS]", "moving", "##ing", "mov") & characters


def test_characters_nobody_uses_may_go() -> None:
    document = wordpiece()
    size = len(document["model"]["vocab"])
    document["model"]["vocab"]["\u4e2d"] = size
    wanted = tokenizer_file.characters(document, list(ids_of(document, "moving", "##g", "[SEP]")))
    assert wanted == set("moving[SEP]")
    characters = tokenizer_file.character_ids(document, wanted)
    assert characters == ids_of(document, *"moving", *(f"##{letter}" for letter in "moving"))


def test_a_merged_piece_is_made_of_two() -> None:
    document = bpe()
    names = {index: piece for piece, index in document["model"]["vocab"].items()}
    made_of = tokenizer_file.components(document)
    assert len(made_of) == len(document["model"]["merges"])
    for piece, (left, right) in made_of.items():
        assert names[piece] == names[left] + names[right]
    assert tokenizer_file.components(wordpiece()) == {}
    # The bytes are spared, and the special tokens, which no merge makes.
    assert len(tokenizer_file.character_ids(document)) == 256 + 5


@pytest.mark.parametrize("written", [list, " ".join])
def test_merges_go_with_their_pieces(written: Any) -> None:
    document = bpe()
    document["model"]["merges"] = [written(merge) for merge in document["model"]["merges"]]
    made = sorted(tokenizer_file.components(document))
    # A beginning of the merges needs nothing that comes later.
    kept = sorted(tokenizer_file.character_ids(document) | set(made[:60]))
    smaller = tokenizer_file.keep(document, kept)
    assert smaller["model"]["merges"] == document["model"]["merges"][:60]
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in smaller["model"]["merges"]]
    for text in ("wonderful", "scriptless", "long"):
        assert encode(smaller, text) == ["<s>", *slow_bpe(text, merges), "</s>"]
    assert (
        Tokenizer.from_str(json.dumps(smaller)).decode(
            Tokenizer.from_str(json.dumps(smaller)).encode("a gripping caf\u00e9 \u4e2d").ids
        )
        == "a gripping caf\u00e9 \u4e2d"
    )


def test_another_kind_of_tokenizer_is_refused_by_name() -> None:
    document = wordpiece()
    document["model"]["type"] = "Unigram"
    with pytest.raises(UnsupportedModelError, match="type 'Unigram' cannot lose pieces; WordPiece and BPE"):
        tokenizer_file.vocabulary(document)


@pytest.mark.parametrize("kind", ["BertProcessing", "RobertaProcessing"])
def test_every_post_processor_is_renumbered(kind: str) -> None:
    document = wordpiece()
    ends: Document = {"type": kind, "sep": ["[SEP]", 4], "cls": ["[CLS]", 3]}
    if kind == "RobertaProcessing":
        ends |= {"trim_offsets": True, "add_prefix_space": False}
    bytes_too = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document["post_processor"] = {"type": "Sequence", "processors": [bytes_too, ends]}
    document["added_tokens"] = []
    assert tokenizer_file.special_ids(document) == ids_of(document, "[UNK]", "[CLS]", "[SEP]")
    smaller = tokenizer_file.keep(document, everything_but(document, "[unused0]"))
    encoded = Tokenizer.from_str(json.dumps(smaller)).encode("dull")
    assert encoded.ids[0] == smaller["model"]["vocab"]["[CLS]"] == 2
    assert encoded.ids[-1] == smaller["model"]["vocab"]["[SEP]"] == 3


def test_a_tokenizer_without_post_processor_has_only_its_added_tokens() -> None:
    document = wordpiece()
    document["post_processor"] = None
    assert tokenizer_file.special_ids(document) == ids_of(
        document, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
    )


def test_an_unknown_post_processor_is_refused_by_name() -> None:
    document = wordpiece()
    document["post_processor"] = {"type": "SomethingNew"}
    with pytest.raises(UnsupportedModelError, match="post-processor of type 'SomethingNew'"):
        tokenizer_file.keep(document, everything_but(document, "[unused0]"))
