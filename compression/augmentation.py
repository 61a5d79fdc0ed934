"""More texts without labels, made of those at hand: for a student to ask its teacher about.

A few thousand sentences hold few of the ways in which their words can stand together, and a teacher that is
much larger than its student knows what to say of the others. Words give way to others that stand near them in
the word table of a pretrained model, antonyms among them: so a varied text has no label of its own, and needs
none, since the teacher gives it one. Some words are left out, and some texts end in another one.
Source: Jiao et al. 2020, TinyBERT (data augmentation, there with a masked language model beside GloVe).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from app.errors import DataError, UnsupportedModelError

Neighbours = Mapping[str, Sequence[str]]

_WORD = re.compile(r"[^\W\d_]+|[\W\d_]+")
_SPACE = re.compile(r"\s+")
# They hold a sentence together: another one in their place makes nonsense of it.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    a about after again all am an and any are as at be been before being but by can could did do does
    down each few for from had has have he her here him his how i if in into is it its just may me might
    more most must my no nor not of off on once only or other our out over own same she should so some
    such than that the their them then there these they this those to too under up us very was we were
    what when where which who whom whose why will with would you your
    """,
    )
)
_SHORTEST = 3
# A cosine under which two words of a table have nothing to do with each other.
_NEAR = 0.42
_MOST_NEIGHBOURS = 10
_ROWS_AT_ONCE = 2000
# How much of a text is changed is drawn for each text anew: near ones and far ones both teach.
_SHARES_REPLACED = (0.1, 0.2, 0.3, 0.4)
_SHARE_LEFT_OUT = 0.03
_JOINS = (" , but {}", " , and {}", " . {}", " , although {}", " ; {}", " , yet {}")
_TRIES_PER_TEXT = 4


def neighbours(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """For each whole word of the model's vocabulary the words near it, nearest first; ten at most.

    Raises:
        UnsupportedModelError: no two words of its vocabulary are near each other, as in an untrained model.
    """
    ids = {piece: index for piece, index in sorted(tokenizer.get_vocab().items()) if _is_replaceable(piece)}
    table = cast(nn.Embedding, model.get_input_embeddings()).weight.detach().float()
    words = list(ids)
    # What all rows have in common makes everything look alike.
    directions = nn.functional.normalize(table[[ids[word] for word in words]] - table.mean(0), dim=1)
    found: dict[str, list[str]] = {}
    for start in range(0, len(words), _ROWS_AT_ONCE):
        cosines = directions[start : start + _ROWS_AT_ONCE] @ directions.T
        best = cosines.topk(min(_MOST_NEIGHBOURS + 1, len(words)), dim=1)
        for row, (values, columns) in enumerate(
            zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ):
            pairs = zip(values, columns, strict=True)
            near = [words[column] for value, column in pairs if value >= _NEAR and column != start + row]
            if near:
                found[words[start + row]] = near[:_MOST_NEIGHBOURS]
    if not found:
        raise UnsupportedModelError(
            "no two words of the model's vocabulary are near each other; name a pretrained model"
        )
    return found


def varied(
    texts: Sequence[str], near: Neighbours, copies: int, *, joined: float = 0.15, seed: int = 0
) -> Iterator[str]:
    """So many different variants of each text, as far as there are any; the same for the same seed.

    `joined` is the share of variants that end in another of the texts, varied as well. None of them is one of
    the texts.

    Raises:
        DataError: no texts, no copies, or a share that is none.
    """
    if not texts or copies < 1:
        raise DataError(f"{len(texts)} texts and {copies} copies of each: at least one of both is needed")
    if not 0 <= joined <= 1:
        raise DataError(f"joined is {joined}, which is no share: give 0 to 1")
    return _varied(texts, near, copies, joined, random.Random(seed))


def _varied(
    texts: Sequence[str], near: Neighbours, copies: int, joined: float, chance: random.Random
) -> Iterator[str]:
    seen = set(texts)
    for text in texts:
        wanted = copies
        for _ in range(copies * _TRIES_PER_TEXT):
            variant = _variant(text, near, chance)
            if chance.random() < joined:
                variant = _joined(variant, _variant(chance.choice(texts), near, chance), chance)
            if variant and variant not in seen:
                seen.add(variant)
                yield variant
                wanted -= 1
            if not wanted:
                break


def _variant(text: str, near: Neighbours, chance: random.Random) -> str:
    share = chance.choice(_SHARES_REPLACED)
    parts = []
    for part in _WORD.findall(text):
        others = near.get(part.lower())
        if others and chance.random() < share:
            parts.append(_in_case(chance.choice(others), part))
        elif not part[0].isalpha() or chance.random() >= _SHARE_LEFT_OUT:
            parts.append(part)
    return _SPACE.sub(" ", "".join(parts)).strip()


def _joined(first: str, second: str, chance: random.Random) -> str:
    return first.rstrip(" .!?") + chance.choice(_JOINS).format(second)


def _in_case(word: str, model: str) -> str:
    return word.capitalize() if model[0].isupper() else word


def _is_replaceable(piece: str) -> bool:
    return len(piece) >= _SHORTEST and piece.isalpha() and piece.islower() and piece not in _FUNCTION_WORDS
