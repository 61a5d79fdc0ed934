"""`tokenizer.json` with fewer pieces, renumbered wherever an id stands, so that every text still tokenizes.

WordPiece takes the longest piece that fits and falls back to shorter ones by itself, as long as the single
characters stay. In byte-level BPE a piece is made by one merge of two others: with a piece go its merges, and
a piece that stays needs the two it is made of. Other kinds of tokenizer are refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.errors import UnsupportedModelError

# tokenizer.json as `json.loads` gives it.
Document = dict[str, Any]


def vocabulary(document: Document) -> dict[str, int]:
    """Every piece with its id, added tokens included.

    Raises:
        UnsupportedModelError: neither WordPiece nor BPE.
    """
    kind = document["model"].get("type")
    if kind not in ("WordPiece", "BPE"):
        raise UnsupportedModelError(f"a tokenizer of type {kind!r} cannot lose pieces; WordPiece and BPE can")
    added = {str(token["content"]): int(token["id"]) for token in document["added_tokens"]}
    return {**document["model"]["vocab"], **added}


def special_ids(document: Document) -> set[int]:
    """Ids that models rely on without a text spelling them: added, unknown, and those put around a text."""
    ids = {int(token["id"]) for token in document["added_tokens"]}
    unknown = document["model"].get("unk_token")
    if unknown in document["model"]["vocab"]:
        ids.add(int(document["model"]["vocab"][unknown]))
    for holder, key in _processor_ids(document["post_processor"]):
        ids.add(int(holder[key]))
    return ids


def character_ids(document: Document, wanted: set[str] | None = None) -> set[int]:
    """Pieces that nothing smaller can spell: single characters, and what holds one that has no such piece.

    `wanted` limits them to those characters; a word with another one is then unknown.
    """
    pieces, prefix = document["model"]["vocab"], _prefix(document)
    made = components(document)
    if made:  # whatever no merge makes is a smallest part; the bytes among them spell everything
        return {int(index) for index in pieces.values() if index not in made}
    found = set()
    for piece, index in pieces.items():
        parts = _characters(piece, prefix)
        smallest = len(parts) == 1 or any(part not in pieces for part in parts)
        if smallest and (wanted is None or wanted.issuperset(bare(piece, prefix))):
            found.add(int(index))
    return found - _placeholders(document)


def components(document: Document) -> dict[int, tuple[int, int]]:
    """For every piece that a BPE merge makes, the two it is made of; nothing for WordPiece."""
    if document["model"].get("type") != "BPE":
        return {}
    pieces = document["model"]["vocab"]
    return {
        pieces[left + right]: (pieces[left], pieces[right])
        for left, right in reversed([_pair(merge) for merge in document["model"]["merges"]])
    }


def characters(document: Document, ids: Sequence[int]) -> set[str]:
    """Characters that stand in the given pieces."""
    names = {index: piece for piece, index in document["model"]["vocab"].items()}
    prefix = _prefix(document)
    return {character for index in ids if index in names for character in bare(names[index], prefix)}


def keep(document: Document, kept: Sequence[int]) -> Document:
    """The same tokenizer with the kept pieces alone; new ids count up in the order of the old ones."""
    new_id = renumbered(kept)
    smaller = copy.deepcopy(document)
    model = smaller["model"]
    model["vocab"] = {
        piece: new_id[index] for piece, index in document["model"]["vocab"].items() if index in new_id
    }
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if _still_makes(merge, model["vocab"])]
    for token in smaller["added_tokens"]:
        token["id"] = new_id[token["id"]]
    for holder, key in _processor_ids(smaller["post_processor"]):
        holder[key] = new_id[holder[key]]
    if smaller.get("padding"):
        smaller["padding"]["pad_id"] = new_id[smaller["padding"]["pad_id"]]
    return smaller


def renumbered(kept: Sequence[int]) -> dict[int, int]:
    """Old id to new id."""
    return {old: new for new, old in enumerate(sorted(kept))}


def bare(piece: str, prefix: str) -> str:
    """A piece without the mark that it goes on a word."""
    return piece.removeprefix(prefix) if prefix and len(piece) > len(prefix) else piece


def _characters(piece: str, prefix: str) -> list[str]:
    """The single-character pieces that spell a WordPiece."""
    text = bare(piece, prefix)
    first = text[0] if text == piece else prefix + text[0]
    return [first, *(prefix + character for character in text[1:])]


def _placeholders(document: Document) -> set[int]:
    """BERT's `[unused0]` and its like: in brackets, and no text can spell them."""
    return {
        int(index)
        for piece, index in document["model"]["vocab"].items()
        if len(piece) > 2 and piece[0] == "[" and piece[-1] == "]"
    }


def _prefix(document: Document) -> str:
    return str(document["model"].get("continuing_subword_prefix") or "")


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge is written "a b" in older files and ["a", "b"] in newer ones."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _still_makes(merge: str | Sequence[str], pieces: Mapping[str, int]) -> bool:
    left, right = _pair(merge)
    return left in pieces and right in pieces and left + right in pieces


def _processor_ids(processor: Document | None) -> Iterator[tuple[Any, Any]]:
    """Every place of a post-processor that holds an id, as (container, key)."""
    if processor is None or processor["type"] == "ByteLevel":
        return
    if processor["type"] == "Sequence":
        for part in processor["processors"]:
            yield from _processor_ids(part)
    elif processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            yield from ((token["ids"], position) for position in range(len(token["ids"])))
    elif processor["type"] in ("BertProcessing", "RobertaProcessing"):
        yield processor["sep"], 1
        yield processor["cls"], 1
    else:
        raise UnsupportedModelError(
            f"a tokenizer with a post-processor of type {processor['type']!r} cannot be renumbered"
        )
